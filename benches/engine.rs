//! How fast the engine is beside a bare librdkafka loop, how much memory it takes, and how late retries start.
//!
//! All is measured on a real Kafka, in one run, each subject in a process of its own so that peak memory is its own.
//! `LAZARET_BENCH_RECORDS` (1,000,000) and `LAZARET_BENCH_ROUNDS` (3) say how much.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lazaret::api::{file, validate};
use lazaret::domain::pipeline::Pipeline;
use lazaret::domain::provenance::Stage;
use lazaret::kafka::connection::Connection;
use lazaret::kafka::topics::Topics;
use lazaret::worker::clock::now;
use lazaret::worker::process::{Process, ProcessSettings};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

const SUBJECTS: [(&str, &str); 3] =
    [("bare", "bare librdkafka loop"), ("parsing", "the same, parsing JSON"), ("engine", "Lazaret, main stage, rules")];
const PARTITIONS: i32 = 6;
const PENDING: u64 = 10_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [subject, name] => measure(subject, name),
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

/// Runs every subject in turn, several times over, and prints the medians.
fn compare() {
    let name = format!("bench-{:x}", now().0);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let topics = Topics::new(&Connection::new(kafka())).expect("a client");
    runtime.block_on(topics.create_missing(&pipeline(&name).topics)).expect("topics");
    fill(&name);
    let rounds = number("LAZARET_BENCH_ROUNDS", 3);
    let mut seen = SUBJECTS.map(|_| vec![]);
    for round in 0..rounds {
        for (index, (subject, _)) in SUBJECTS.iter().enumerate() {
            let result = run(subject, &name);
            println!("round {}: {subject} {:.0} records/s, {} MiB", round + 1, result.0, result.1 >> 10);
            seen[index].push(result);
        }
    }
    let rates = seen.each_ref().map(|results| median(results.iter().map(|(rate, _)| *rate)));
    println!("\n{} records of 1 KiB, {PARTITIONS} partitions, median of {rounds} rounds", records());
    println!("{:<28} {:>12} {:>10} {:>12}", "", "records/s", "of parsing", "peak memory");
    for (((_, title), rate), results) in SUBJECTS.iter().zip(rates).zip(&seen) {
        let memory = results.iter().map(|(_, kib)| kib >> 10).max().unwrap_or(0);
        println!("{title:<28} {rate:>12.0} {:>10.2} {memory:>8} MiB", rate / rates[1]);
    }
    println!("\nretry lateness (start − due), {PENDING} pending, due within ten seconds");
    run("lateness", &name);
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs one subject in a process of its own: records a second, and peak memory in KiB.
fn run(subject: &str, name: &str) -> (f64, u64) {
    let output = Command::new(std::env::current_exe().expect("this program")).args([subject, name]).output();
    let output = output.expect("the subject can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{subject} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    let mut words = text.split_whitespace();
    if subject == "lateness" {
        print!("{text}");
        return (0.0, 0);
    }
    let mut next = || words.next().expect("two numbers");
    (next().parse().expect("a rate"), next().parse().expect("a size"))
}

fn pipeline(name: &str) -> Pipeline {
    let text = format!(
        "apiVersion: lazaret.dev/v1alpha1\nkind: ErrorHandlingPipeline\nmetadata: {{name: {name}}}\nspec:\n  \
         kafka: {{bootstrapServers: 'x:9092'}}\n  topic: {{name: {name}, partitions: {PARTITIONS}}}\n  \
         processor: {{rules: [{{when: value.amount < 0, error: 'ValidationException: Invalid amount'}}]}}\n"
    );
    let objects = file::parse("bench.yaml", &text).expect("the pipeline is well formed");
    validate::validate(&objects[0]).expect("the pipeline is valid")
}

/// An order as in the exercises, with a note that makes it one KiB: the shape that is quickest to parse, so the hardest
/// to keep up with.
fn order(n: u64) -> String {
    let mut order = format!(r#"{{"orderId": "ORD-{n}", "amount": {}, "status": "PENDING", "note": ""#, n % 1000);
    order.extend(std::iter::repeat_n('x', 1022 - order.len()));
    order.push_str("\"}");
    order
}

fn fill(topic: &str) {
    let producer = bulk_producer();
    let began = Instant::now();
    for n in 0..records() {
        let (key, value) = (format!("ORD-{n}"), order(n));
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

fn measure(subject: &str, name: &str) {
    match subject {
        "bare" => report(consume(name, |_| true)),
        "parsing" => report(consume(name, |value| {
            let value: serde_json::Value = serde_json::from_slice(value).expect("JSON");
            value["amount"].as_i64().is_some_and(|amount| amount >= 0)
        })),
        "engine" => report(engine(name)),
        _ => lateness(name),
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

/// A loop over one consumer with librdkafka's own settings.
fn consume(topic: &str, process: impl Fn(&[u8]) -> bool) -> f64 {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka()).set("group.id", format!("{topic}-bare"));
    config.set("enable.auto.commit", "false").set("isolation.level", "read_committed");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("an assignment");
    let (mut began, mut count) = (None, 0);
    while count < records() {
        let Some(message) = consumer.poll(Duration::from_secs(30)) else { panic!("no record for 30 s") };
        let message = message.expect("a record");
        began.get_or_insert_with(Instant::now);
        assert!(process(message.payload().expect("a value")));
        count += 1;
    }
    records() as f64 / began.expect("a first record").elapsed().as_secs_f64()
}

#[tokio::main]
async fn engine(name: &str) -> f64 {
    let mut pipeline = pipeline(name);
    pipeline.main.group_id = format!("{name}-{}", std::process::id());
    let process = start(pipeline, Stage::Main).await;
    let metrics = &process.stages()[0].metrics;
    while metrics.processed.get() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (began, before) = (Instant::now(), metrics.processed.get());
    while metrics.processed.get() < records() {
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

/// Puts retry records of mixed delays into the retry topic of a pipeline of its own, and sees how late each starts.
#[tokio::main]
async fn lateness(name: &str) {
    let pipeline = pipeline(&format!("{name}-late"));
    let topics = Topics::new(&Connection::new(kafka())).expect("a client");
    topics.create_missing(&pipeline.topics).await.expect("topics");
    let retry_topic = pipeline.retry.topic.clone();
    let process = start(pipeline, Stage::Retry).await;
    let metrics = process.stages()[0].metrics.clone();
    while metrics.assignment().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let producer = bulk_producer();
    let first = now().0 + 3_000;
    for n in 0..PENDING {
        // Neighbours in the log are due at very different times.
        let due = (first + (n as i64 * 7_919) % 10_000).to_string();
        let headers = OwnedHeaders::new()
            .insert(Header { key: "lazaret-due", value: Some(&due) })
            .insert(Header { key: "lazaret-attempts", value: Some("1") });
        let (key, value) = (format!("ORD-{n}"), order(n));
        send(&producer, BaseRecord::to(&retry_topic).key(&key).payload(&value).headers(headers));
    }
    producer.flush(Duration::from_secs(60)).expect("all records are written");
    while metrics.processed.get() < PENDING {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let late = metrics.lateness().expect("there were retries");
    println!("p50 {} ms, p99 {} ms, max {} ms, peak memory {} MiB", late.p50, late.p99, late.max, peak_memory() >> 10);
    process.stop().await;
}
