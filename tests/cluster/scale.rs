//! Many pipelines at once, many dead letters, and what they cost: `make scale-test` makes 200 pipelines and a million dead
//! letters, prints what it saw, and fails where that is more than twice what the README says of them.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::site::{Site, in_site, metric};
use crate::support::cluster::kafka_from_here;
use crate::support::lazaret::{Lazaret, bash};
use crate::support::{comes_to_rest, eventually_ok_within, eventually_within, stays, topics};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Twice the memory that the README says, in MiB: of 200 pipelines, and of a million dead letters.
const MEMORY: u64 = 200;

/// What an operator has done so far: reconciles, and requests by method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Done {
    reconciles: u64,
    reads: u64,
    patches: u64,
    lease: u64,
}

fn done(operator: &mut Lazaret) -> Done {
    let mut requests = |method| metric(operator, &format!("lazaret_operator_api_requests_total{{method=\"{method}\""));
    let (reads, patches, lease) = (requests("GET"), requests("PATCH"), requests("PUT"));
    Done { reconciles: metric(operator, "lazaret_operator_reconciles_total"), reads, patches, lease }
}

/// The processor time that a process has had.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // utime and stime are fields 14 and 15 of proc(5), in hundredths of a second on Linux; the two first are gone here.
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// How many segments with data a process has sent to Kafka: a request that only asks is one.
fn sent_to_kafka(pid: u32) -> u64 {
    let port = kafka_from_here().rsplit_once(':').unwrap().1.to_owned();
    let said = bash(&format!("ss -tinpOH dport = :{port}"));
    let mine = said.lines().filter(|line| line.contains(&format!("pid={pid},")));
    let sent = mine.filter_map(|line| {
        line.split_whitespace().find_map(|word| word.strip_prefix("data_segs_out:")?.parse::<u64>().ok())
    });
    sent.sum()
}

async fn ready(site: &Site) -> usize {
    let pipelines = site.pipelines.list(&Default::default()).await.unwrap().items;
    let is_ready = |conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    pipelines.iter().filter(|p| p.status.as_ref().is_some_and(|status| is_ready(&status.conditions))).count()
}

/// Without workers: a node runs about a hundred pods, and what an operator costs does not depend on how many there are.
#[tokio::test(flavor = "multi_thread")]
async fn many_pipelines_get_ready_and_then_cost_nothing() {
    let count = number("LAZARET_PIPELINES", 20);
    let idle = Duration::from_secs(number("LAZARET_IDLE_SECONDS", 10));
    in_site("many", async |site| {
        let mut operator = site.operator();
        operator.wait_for("this replica acts now");
        let began = Instant::now();
        let yaml = |n| site.pipeline(&format!("p{n}"), "consumer: {replicas: 0}\nretry: {replicas: 0}");
        stream::iter(0..count).for_each_concurrent(8, |n| async move { site.apply(&yaml(n)).await }).await;
        let applied = began.elapsed();
        let all = async || (ready(site).await == count as usize).then_some(());
        eventually_within(Duration::from_secs(600), "all are Ready", all).await;
        let took = began.elapsed();
        // What follows the last change takes a moment to come to rest.
        let work = async |operator: &mut Lazaret| {
            let Done { reconciles, patches, .. } = done(operator);
            (reconciles, patches)
        };
        let rest = Duration::from_secs(3);
        comes_to_rest(rest, "nothing is reconciled any more", async || work(&mut operator).await).await;
        let busy = done(&mut operator);
        stays(idle, "nothing is reconciled or written", async || work(&mut operator).await).await;
        let rested = done(&mut operator);
        println!(
            "{count} pipelines: applied in {:.1} s, all Ready after {:.1} s; {} reconciles, {} reads, {} patches; peak memory \
             {} MiB",
            applied.as_secs_f64(),
            took.as_secs_f64(),
            busy.reconciles,
            busy.reads,
            busy.patches,
            operator.peak_memory(),
        );
        println!(
            "idle for {} s: {} reconciles, {} reads, {} patches, {} renewals of the lease",
            idle.as_secs(),
            rested.reconciles - busy.reconciles,
            rested.reads - busy.reads,
            rested.patches - busy.patches,
            rested.lease - busy.lease,
        );
        assert!(took <= Duration::from_secs(164), "{took:?} until all were Ready");
        assert!(busy.reconciles <= 8 * count, "a pipeline takes four reconciles: {busy:?}");
        assert!(busy.reads + busy.patches <= 170 * count + 100, "a pipeline takes 83 requests: {busy:?}");
        // A read every ten seconds, a renewal of the lease every two, and nothing else.
        let seconds = idle.as_secs();
        assert_eq!((rested.reconciles, rested.patches), (busy.reconciles, busy.patches));
        assert!(rested.reads - busy.reads <= 2 * (seconds / 10 + 1), "{busy:?}, {rested:?}");
        assert!(rested.lease - busy.lease <= 2 * (seconds / 2 + 1), "{busy:?}, {rested:?}");
        what_moving_records_cost(site, &mut operator, count).await;
        assert!(operator.peak_memory() <= MEMORY, "{} MiB", operator.peak_memory());
    })
    .await;
}

/// Nobody processes them, so the lag of every pipeline moves.
async fn what_moving_records_cost(site: &Site, operator: &mut Lazaret, pipelines: u64) {
    let (rate, seconds) = (number("LAZARET_RECORDS_PER_SECOND", 100), number("LAZARET_MOVING_SECONDS", 10));
    let producer = topics::producer(&kafka_from_here());
    let state = |operator: &mut Lazaret| {
        (done(operator), sent_to_kafka(operator.pid()), processor_time(operator.pid()), Instant::now())
    };
    let (before, asked, worked, began) = state(operator);
    let mut every = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
    for n in 0..rate * seconds {
        every.tick().await;
        let topic = site.named(&format!("p{}", n % pipelines));
        let record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&topic).payload(b"{}");
        drop(producer.send_result(record).map_err(|(error, _)| error).unwrap());
    }
    let (after, asked_since, worked_since, ended) = state(operator);
    let took = (ended - began).as_secs_f64();
    println!(
        "{rate} records a second in {pipelines} pipelines, for {took:.0} s: a second {:.1} requests to Kafka, {:.1} reads and \
         {:.1} patches of the API server; {:.1} % of a processor; peak memory {} MiB",
        (asked_since - asked) as f64 / took,
        (after.reads - before.reads) as f64 / took,
        (after.patches - before.patches) as f64 / took,
        100.0 * (worked_since - worked).as_secs_f64() / took,
        operator.peak_memory(),
    );
    // A look at Kafka every two seconds takes three requests, and a status is written every three seconds at most; twice that,
    // and what a few pipelines cost as much as many: metadata, and where logs start and end.
    let most = |each: f64| 2.0 * each * pipelines as f64 * (took + 2.0);
    assert!((asked_since - asked) as f64 <= most(1.5) + 30.0 * took, "{} requests to Kafka", asked_since - asked);
    assert!((after.patches - before.patches) as f64 <= most(1.0 / 3.0), "{before:?}, {after:?}");
    let lag: u64 = rate * seconds;
    eventually_ok_within(Duration::from_secs(120), "the lag of all is what was written", async || {
        let pipelines = site.pipelines.list(&Default::default()).await?.items;
        let known: i64 = pipelines.iter().filter_map(|pipeline| pipeline.status.as_ref()?.lag).sum();
        Ok::<_, kube::Error>((known == lag as i64).then_some(()))
    })
    .await;
    assert_eq!(done(operator).reconciles, before.reconciles, "nothing is reconciled because records move");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_great_many_dead_letters_are_counted_to_the_last() {
    let count = number("LAZARET_DEAD_LETTERS", 20_000);
    in_site("letters", async |site| {
        let mut first = site.operator();
        site.apply(&site.pipeline("orders", "consumer: {replicas: 0}\nretry: {replicas: 0}")).await;
        site.reason("orders", "Ready").await;
        assert!(first.stop().success());
        let producer = topics::producer(&kafka_from_here());
        let topic = site.named("orders.dlt");
        stream::iter(0..count).for_each_concurrent(10_000, |n| write_dead_letter(&producer, &topic, n)).await;
        let began = Instant::now();
        let mut operator = site.operator();
        // Twice what is said of a million, and what it takes to start beside others.
        let seconds = 20 + 40 * count / 1_000_000;
        site.says_within(Duration::from_secs(seconds), "orders", "all are counted", |status| {
            let letters = status.dead_letters.as_ref()?;
            (letters.total == count as i64 && letters.causes.len() == 3).then_some(())
        })
        .await;
        operator.wait_for("this replica acts now");
        println!(
            "{count} dead letters: counted {:.1} s after the operator was started; peak memory {} MiB",
            began.elapsed().as_secs_f64(),
            operator.peak_memory()
        );
        assert!(operator.peak_memory() <= MEMORY, "{} MiB", operator.peak_memory());
    })
    .await;
}

async fn write_dead_letter(producer: &FutureProducer, topic: &str, n: u64) {
    let error_type = ["ValidationException", "BusyException", "TimeoutException"][(n % 3) as usize];
    let headers = OwnedHeaders::new()
        .insert(Header { key: "lazaret-error-type", value: Some(error_type) })
        .insert(Header { key: "lazaret-reason", value: Some("Permanent") });
    let (key, value) = (n.to_string(), [b'x'; 100]);
    let record = FutureRecord::to(topic).key(&key).payload(&value[..]).headers(headers);
    producer.send(record, Duration::from_secs(60)).await.map_err(|(error, _)| error).unwrap();
}
