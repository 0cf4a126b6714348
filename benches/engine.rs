//! How fast the engine is beside a bare librdkafka loop, how much memory it takes, and how late retries start.
//!
//! All is measured on a real Kafka, in one run, each subject in a process of its own so that peak memory is its own: first
//! with records that are all processed, then with some that fail for good and are written to another topic.
//! `LAZARET_BENCH_RECORDS` (1,000,000), `LAZARET_BENCH_ROUNDS` (3) and `LAZARET_BENCH_PENDING` (100,000) say how much.
//! `cargo bench --bench engine -- memory` measures memory alone.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lazaret::api::{file, validate};
use lazaret::domain::pipeline::Pipeline;
use lazaret::domain::record::provenance::Stage;
use lazaret::kafka::connection::Connection;
use lazaret::kafka::topics::Topics;
use lazaret::worker::clock::now;
use lazaret::worker::process::{Process, ProcessSettings};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

const SUBJECTS: [(&str, &str); 4] = [
    ("bare", "bare librdkafka loop"),
    ("parsing", "the same, parsing JSON"),
    ("AtLeastOnce", "Lazaret, at least once"),
    ("ExactlyOnce", "Lazaret, exactly once"),
];
/// How many of a hundred records fail.
const SHARES: [u64; 3] = [0, 1, 10];
const PARTITIONS: i32 = 6;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["memory"] => memory(),
        ["backlog", name, url] => backlog(name, url),
        ["open", name, url] => open(name, url),
        ["lateness", name] => lateness(name),
        ["fill", topic, bytes, count] => {
            fill_apart(topic, bytes.parse().expect("a size"), count.parse().expect("a number"))
        }
        [subject, topic] => report(measure(subject, topic)),
        _ => compare(),
    }
}

fn kafka() -> String {
    std::env::var("LAZARET_TEST_KAFKA").expect("LAZARET_TEST_KAFKA names a Kafka: run `make bench`")
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn records() -> u64 {
    number("LAZARET_BENCH_RECORDS", 1_000_000)
}

fn pending() -> u64 {
    number("LAZARET_BENCH_PENDING", 100_000)
}

/// Runs every subject in turn, several times over, and prints the medians.
fn compare() {
    let name = format!("bench-{:x}", now().0);
    let rounds = number("LAZARET_BENCH_ROUNDS", 3);
    for share in SHARES {
        let topic = format!("{name}-{share}");
        create_topics(&pipeline(&topic, "AtLeastOnce"));
        fill(&topic, share);
        let mut seen = SUBJECTS.map(|_| vec![]);
        for round in 0..rounds {
            for (index, (subject, _)) in SUBJECTS.iter().enumerate() {
                let result = run(&[subject, &topic]);
                println!("round {}: {subject} {:.0} records/s, {} MiB", round + 1, result.0, result.1 >> 10);
                seen[index].push(result);
            }
        }
        let rates = seen.each_ref().map(|results| median(results.iter().map(|(rate, _)| *rate)));
        println!(
            "\n{} records of 1 KiB, {PARTITIONS} partitions, {share} % of them fail for good, median of {rounds} rounds",
            records()
        );
        println!("{:<28} {:>12} {:>10} {:>14} {:>12}", "", "records/s", "of parsing", "of AtLeastOnce", "peak memory");
        for (((_, title), rate), results) in SUBJECTS.iter().zip(rates).zip(&seen) {
            let memory = results.iter().map(|(_, kib)| kib >> 10).max().unwrap_or(0);
            let (of_parsing, of_at_least_once) = (rate / rates[1], rate / rates[2]);
            println!("{title:<28} {rate:>12.0} {of_parsing:>10.2} {of_at_least_once:>14.2} {memory:>8} MiB");
        }
        println!();
    }
    println!("retry lateness (start − due), {} pending on 3 partitions, due within one to sixty seconds", pending());
    run(&["lateness", &name]);
    memory();
}

fn create_topics(pipeline: &Pipeline) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let topics = Topics::new(&Connection::new(kafka())).expect("a client");
    runtime.block_on(topics.create_missing(&pipeline.topics)).expect("topics");
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs one subject in a process of its own: records a second, and peak memory in KiB.
fn run(subject: &[&str]) -> (f64, u64) {
    let output = Command::new(std::env::current_exe().expect("this program")).args(subject).output();
    let output = output.expect("the subject can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{subject:?} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    let mut words = text.split_whitespace();
    if subject[0] == "lateness" {
        print!("{text}");
        return (0.0, 0);
    }
    let mut next = || words.next().expect("two numbers");
    (next().parse().expect("a rate"), next().parse().expect("a size"))
}

fn pipeline(name: &str, delivery: &str) -> Pipeline {
    let rules = "{rules: [{when: value.amount < 0, error: 'ValidationException: Invalid amount'}]}";
    pipeline_with(name, &format!("processor: {rules}\n  delivery: {delivery}"))
}

fn pipeline_with(name: &str, spec: &str) -> Pipeline {
    let text = format!(
        "apiVersion: lazaret.dev/v1alpha1\nkind: ErrorHandlingPipeline\nmetadata: {{name: {name}}}\nspec:\n  \
         kafka: {{bootstrapServers: 'x:9092'}}\n  topic: {{name: {name}, partitions: {PARTITIONS}}}\n  {spec}\n"
    );
    let objects = file::parse("bench.yaml", &text).expect("the pipeline is well formed");
    validate::validate(&objects[0]).expect("the pipeline is valid")
}

/// An order as in the exercises, with a note that makes it as large as it shall be: the shape that is quickest to parse, so the
/// hardest to keep up with.
fn order(n: u64, share: u64, bytes: usize) -> String {
    let amount = if n % 100 < share { -1 } else { (n % 1000) as i64 };
    let mut order = format!(r#"{{"orderId": "ORD-{n}", "amount": {amount}, "status": "PENDING", "note": ""#);
    order.extend(std::iter::repeat_n('x', bytes - 2 - order.len()));
    order.push_str("\"}");
    order
}

fn fill(topic: &str, share: u64) {
    let producer = bulk_producer();
    let began = Instant::now();
    for n in 0..records() {
        let (key, value) = (format!("ORD-{n}"), order(n, share, 1_024));
        send(&producer, BaseRecord::to(topic).key(&key).payload(&value));
    }
    producer.flush(Duration::from_secs(60)).expect("all records are written");
    println!("wrote {} records in {:.1} s", records(), began.elapsed().as_secs_f64());
}

fn bulk_producer() -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka()).set("linger.ms", "20").set("batch.size", "1000000");
    config.set("queue.buffering.max.messages", "100000").set("partitioner", "murmur2_random");
    config.create().expect("a producer")
}

fn send(producer: &BaseProducer, mut record: BaseRecord<'_, String, String>) {
    while let Err((_, back)) = producer.send(record) {
        producer.poll(Duration::from_millis(10));
        record = back;
    }
    producer.poll(Duration::ZERO);
}

/// Records a second.
fn measure(subject: &str, topic: &str) -> f64 {
    match subject {
        // Without a look into the record none can fail.
        "bare" => consume(topic, |_| true),
        "parsing" => consume(topic, |value| {
            let value: serde_json::Value = serde_json::from_slice(value).expect("JSON");
            value["amount"].as_i64().is_some_and(|amount| amount >= 0)
        }),
        delivery => engine(topic, delivery),
    }
}

fn report(rate: f64) {
    println!("{rate} {}", peak_memory());
}

/// In KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A loop over one consumer. But for one setting they are librdkafka's own: with its default a loop that is slower than the
/// network does nothing for a second whenever its queue was full. What fails is written to the dead letter topic as it is, and
/// nothing is committed.
fn consume(topic: &str, process: impl Fn(&[u8]) -> bool) -> f64 {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka()).set("group.id", format!("{topic}-bare"));
    config.set("enable.auto.commit", "false").set("isolation.level", "read_committed");
    config.set("fetch.queue.backoff.ms", "10");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("an assignment");
    let (producer, dead_letters) = (bulk_producer(), format!("{topic}.dlt"));
    let (mut began, mut count) = (None, 0);
    while count < records() {
        let Some(message) = consumer.poll(Duration::from_secs(30)) else { panic!("no record for 30 s") };
        let message = message.expect("a record");
        began.get_or_insert_with(Instant::now);
        let value = message.payload().expect("a value");
        if !process(value) {
            let (key, value) =
                [message.key().expect("a key"), value].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).into();
            send(&producer, BaseRecord::to(&dead_letters).key(&key).payload(&value));
        }
        count += 1;
    }
    producer.flush(Duration::from_secs(60)).expect("all dead letters are written");
    records() as f64 / began.expect("a first record").elapsed().as_secs_f64()
}

#[tokio::main]
async fn engine(topic: &str, delivery: &str) -> f64 {
    let mut pipeline = pipeline(topic, delivery);
    pipeline.main.group_id = format!("{topic}-{}", std::process::id());
    let process = start(pipeline, Stage::Main).await;
    let metrics = &process.stages()[0].metrics;
    let settled = || metrics.processed.get() + metrics.dead_lettered_by_error_type().values().sum::<u64>();
    while settled() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (began, before) = (Instant::now(), settled());
    while settled() < records() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rate = (records() - before) as f64 / began.elapsed().as_secs_f64();
    process.stop().await;
    rate
}

async fn start(pipeline: Pipeline, stage: Stage) -> Process {
    let settings = ProcessSettings {
        stages: vec![(Arc::new(pipeline), stage)],
        connection: Connection::new(kafka()),
        listen: "127.0.0.1:0".parse().expect("an address"),
        peers: vec![],
        name: "bench".into(),
    };
    let mut process = Process::open(settings).await.expect("a process");
    process.start().expect("a stage");
    process
}

/// Has a topic be filled by a process of its own: what waits to be sent takes memory, too.
fn have_filled(topic: &str, bytes: usize, count: u64) {
    let program = std::env::current_exe().expect("this program");
    let filled = Command::new(program).args(["fill", topic, &bytes.to_string(), &count.to_string()]).status();
    assert!(filled.expect("this program can be run").success());
}

/// Puts records of this size into a topic; into a retry topic, such of mixed delays.
fn fill_apart(topic: &str, bytes: usize, count: u64) {
    let producer = bulk_producer();
    // Large ones take longer to be read, and none shall be due before.
    let first = now().0 + if bytes > 1_024 { 40_000 } else { 5_000 };
    for n in 0..count {
        let (key, value) = (format!("ORD-{n}"), order(n, 0, bytes));
        let mut record = BaseRecord::to(topic).key(&key).payload(&value);
        // Neighbours in the log are due at very different times.
        let due = (first + (n as i64 * 7_919) % 59_000).to_string();
        if topic.ends_with(".retry") {
            let headers = OwnedHeaders::new().insert(Header { key: "lazaret-due", value: Some(&due) });
            record = record.headers(headers.insert(Header { key: "lazaret-attempts", value: Some("1") }));
        }
        send(&producer, record);
    }
    producer.flush(Duration::from_secs(60)).expect("all records are written");
}

/// Has retry records of mixed delays put into the retry topic of a pipeline of its own, and sees how late each starts.
#[tokio::main]
async fn lateness(name: &str) {
    let pipeline = pipeline(&format!("{name}-late"), "ExactlyOnce");
    let topics = Topics::new(&Connection::new(kafka())).expect("a client");
    topics.create_missing(&pipeline.topics).await.expect("topics");
    let retry_topic = pipeline.retry.topic.clone();
    let process = start(pipeline, Stage::Retry).await;
    let metrics = process.stages()[0].metrics.clone();
    while metrics.assignment().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    have_filled(&retry_topic, 1_024, pending());
    while metrics.processed.get() < pending() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let late = metrics.lateness().expect("there were retries");
    println!("p50 {} ms, p99 {} ms, max {} ms, peak memory {} MiB", late.p50, late.p99, late.max, peak_memory() >> 10);
    process.stop().await;
}

/// How much memory a stage takes at most: with a backlog of small records that an endpoint processes, with one of records of
/// one KiB that rules do, and in the retry stage with large records that are due and that an open circuit breaker holds.
#[tokio::main]
async fn memory() {
    let name = format!("memory-{:x}", now().0);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let routes = axum::Router::new()
        .route("/well", axum::routing::post(|| async { axum::http::StatusCode::NO_CONTENT }))
        .route("/ill", axum::routing::post(|| async { axum::http::StatusCode::SERVICE_UNAVAILABLE }));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    for (subject, topic, what) in [
        ("backlog", format!("{name}-http"), format!("main stage, {} records of 200 bytes, HTTP", records())),
        ("backlog", format!("{name}-rules"), format!("main stage, {} records of 1 KiB, rules", records())),
        ("open", format!("{name}-open"), format!("retry stage, {} records of 10 KB, circuit breaker open", pending())),
    ] {
        let url = url.clone();
        let ran = move || run(&[subject, &topic, &url]);
        let (seconds, kib) = tokio::task::spawn_blocking(ran).await.expect("it runs");
        println!("{what}, {PARTITIONS} partitions: {} MiB at the peak, {seconds:.0} s", kib >> 10);
    }
}

/// Has a backlog be processed, by the endpoint at this address where the topic's name says so.
#[tokio::main]
async fn backlog(topic: &str, url: &str) {
    let is_http = topic.ends_with("-http");
    let pipeline = if is_http {
        pipeline_with(topic, &format!("processor: {{http: {{url: '{url}/well'}}, maxInFlight: 64}}"))
    } else {
        pipeline(topic, "ExactlyOnce")
    };
    Topics::new(&Connection::new(kafka())).expect("a client").create_missing(&pipeline.topics).await.expect("topics");
    have_filled(topic, if is_http { 200 } else { 1_024 }, records());
    let process = start(pipeline, Stage::Main).await;
    let (metrics, began) = (process.stages()[0].metrics.clone(), Instant::now());
    while metrics.processed.get() < records() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    report(began.elapsed().as_secs_f64());
    process.stop().await;
}

/// Has large records wait that become due while the circuit breaker is open.
#[tokio::main]
async fn open(topic: &str, url: &str) {
    let breaker = "circuitBreaker: {minimumCalls: 10, openFor: 10s}";
    let pipeline = pipeline_with(topic, &format!("processor: {{http: {{url: '{url}/ill'}}}}\n  {breaker}"));
    Topics::new(&Connection::new(kafka())).expect("a client").create_missing(&pipeline.topics).await.expect("topics");
    have_filled(&pipeline.retry.topic, 10_000, pending());
    let process = start(pipeline, Stage::Retry).await;
    let began = Instant::now();
    let waiting = || process.stages()[0].metrics.assignment().values().map(|load| load.pending()).sum::<usize>();
    while waiting() < pending() as usize * 99 / 100 {
        assert!(began.elapsed() < Duration::from_secs(60), "{} wait", waiting());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    report(began.elapsed().as_secs_f64());
    process.stop().await;
}
