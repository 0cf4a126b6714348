//! Whether memory stays as it is: both stages, each a process of its own, take 1,000 records a second for hours, of which
//! five in a hundred fail.
//!
//! `LAZARET_ENDURANCE_MINUTES` (120) says how long. Memory is what is resident, looked at every second; the peak of the
//! second half may be no more than a tenth above that of the first.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lazaret::api::{file, validate};
use lazaret::kafka::connection::Connection;
use lazaret::kafka::topics::Topics;
use lazaret::worker::clock::now;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const RATE: u64 = 1_000;
const STAGES: [&str; 2] = ["main", "retry"];

/// What the second half may take beyond a tenth more than the first, in KiB: allocators round up.
const SLACK: u64 = 8 << 10;

/// The pipeline: of a hundred records two fail for good and three as often as they are tried.
fn yaml(name: &str) -> String {
    format!(
        "apiVersion: lazaret.dev/v1alpha1\nkind: ErrorHandlingPipeline\nmetadata: {{name: {name}}}\nspec:\n  \
         kafka: {{bootstrapServers: '{}'}}\n  topic: {{name: {name}, partitions: 6, config: {{retention.bytes: \
         '50000000', segment.bytes: '10000000'}}}}\n  processor: {{rules: [{{when: value.amount == -1, error: \
         'ValidationException: Invalid amount'}}, {{when: value.amount == -2, error: 'BusyException: later', retryable: \
         true}}]}}\n  retry: {{initialDelay: 1s, maxAttempts: 4}}\n  circuitBreaker: {{enabled: false}}\n",
        kafka()
    )
}

fn kafka() -> String {
    std::env::var("LAZARET_TEST_KAFKA").expect("LAZARET_TEST_KAFKA names a Kafka: run `make endurance`")
}

/// A stage, and the most memory that it took in each half, in KiB.
struct Stage {
    name: &'static str,
    child: Child,
    peaks: [u64; 2],
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stage {
    fn start(name: &'static str, file: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let listen = format!("127.0.0.1:{port}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lazaret"));
        command.args(["worker", "--stage", name, "--file", file, "--listen", &listen]);
        command.env("RUST_LOG", "warn").stdin(Stdio::null());
        Self { name, child: command.spawn().expect("the worker can be started"), peaks: [0; 2] }
    }

    /// What is resident now, in KiB.
    fn memory(&mut self) -> u64 {
        assert!(self.child.try_wait().expect("a child").is_none(), "the {} stage ended", self.name);
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("what is resident");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

fn main() {
    let minutes = std::env::var("LAZARET_ENDURANCE_MINUTES").ok().map_or(120.0, |text| text.parse().expect("minutes"));
    let period = Duration::from_secs_f64(60.0 * minutes);
    let name = format!("endurance-{:x}", now().0);
    let text = yaml(&name);
    let objects = file::parse("endurance.yaml", &text).expect("the pipeline is well formed");
    let pipeline = validate::validate(&objects[0]).expect("the pipeline is valid");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let topics = Topics::new(&Connection::new(kafka())).expect("a client");
    runtime.block_on(topics.create_missing(&pipeline.topics)).expect("topics");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.yaml"));
    fs::write(&path, &text).expect("the file can be written");
    let mut stages = STAGES.map(|stage| Stage::start(stage, path.to_str().expect("UTF-8")));

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka()).set("linger.ms", "20").set("partitioner", "murmur2_random");
    let producer: BaseProducer = config.create().expect("a producer");
    let (began, mut written) = (Instant::now(), 0);
    for second in 1.. {
        while written < second * RATE {
            let amount = match written % 100 {
                0 | 1 => -1,
                2..=4 => -2,
                n => n as i64,
            };
            let (key, value) = (format!("k{written}"), format!("{{\"amount\": {amount}, \"note\": \"{:0>900}\"}}", 0));
            producer.send(BaseRecord::to(&name).key(&key).payload(&value)).expect("room for a second's records");
            producer.poll(Duration::ZERO);
            written += 1;
        }
        let half = usize::from(began.elapsed() > period / 2);
        for stage in &mut stages {
            stage.peaks[half] = stage.peaks[half].max(stage.memory());
        }
        if second % 600 == 0 {
            let memory = stages
                .each_mut()
                .map(|stage| (stage.name, stage.memory() >> 10))
                .map(|(name, mib)| format!("{name} {mib} MiB"));
            println!("{} minutes, {written} records: {}", second / 60, memory.join(", "));
        }
        if began.elapsed() >= period {
            break;
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep((Duration::from_secs(second)).saturating_sub(began.elapsed()));
    }
    producer.flush(Duration::from_secs(60)).expect("all records are written");
    println!("\n{written} records in {minutes} minutes, 5 % of them fail; peak of what is resident");
    println!("{:<8} {:>12} {:>12}", "", "first half", "second half");
    for stage in &stages {
        println!("{:<8} {:>8} MiB {:>8} MiB", stage.name, stage.peaks[0] >> 10, stage.peaks[1] >> 10);
    }
    for Stage { name, peaks: [first, second], .. } in &stages {
        let most = first + first / 10 + SLACK;
        assert!(
            *second <= most,
            "the memory of the {name} stage grows: {second} KiB in the second half, at most {most}"
        );
    }
}
