//! What several test files need: a broker, records in and out of it, the binary as a user runs it, and waiting.
#![allow(dead_code)] // each test file uses its own part of this

pub mod api_proxy;
pub mod cluster;
pub mod collector;
pub mod engine;
pub mod lazaret;
pub mod link;
pub mod own_kafka;
pub mod pipeline;
pub mod pods;
pub mod ports;
pub mod processor;
pub mod topics;

use std::fmt::{Debug, Display};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ::lazaret as lazaret_lib;
use lazaret_lib::kafka::connection::Connection;
use lazaret_lib::kafka::embedded::EmbeddedBroker;
use lazaret_lib::kafka::topics::Topics;

/// How long a test waits for what must happen. Nothing should take nearly as long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Of the tests that take a hundred megabytes or a processor for themselves, one at a time.
pub static HEAVY: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);

/// The real Kafka of the tests. It is started when nobody has done so.
pub fn kafka() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        std::env::var("LAZARET_TEST_KAFKA").unwrap_or_else(|_| {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/kafka/up.sh");
            let output = Command::new(script).output().expect("tests/bed/kafka/up.sh can be run");
            assert!(output.status.success(), "no Kafka: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        })
    })
}

/// A broker that a test runs on.
pub enum Broker {
    /// librdkafka's mock cluster, as `lazaret dev` embeds it.
    Embedded(EmbeddedBroker),
    /// Apache Kafka.
    Kafka,
}

impl Broker {
    /// Both kinds: what holds on one must hold on the other.
    pub fn both() -> [Self; 2] {
        [Self::Embedded(EmbeddedBroker::start().unwrap()), Self::Kafka]
    }

    pub fn address(&self) -> String {
        match self {
            Self::Embedded(broker) => broker.connection().bootstrap_servers().to_owned(),
            Self::Kafka => kafka().to_owned(),
        }
    }

    /// Makes the topics of a pipeline.
    pub async fn create_topics(&self, pipeline: &lazaret_lib::domain::pipeline::Pipeline) {
        match self {
            Self::Embedded(broker) => pipeline.topics.iter().for_each(|plan| broker.create_topic(plan).unwrap()),
            Self::Kafka => {
                Topics::new(&Connection::new(kafka())).unwrap().create_missing(&pipeline.topics).await.unwrap()
            }
        }
    }
}

/// A name that no other test uses, in this run or another on the same broker.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    format!("{name}-{:x}-{now:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until `probe` has an answer, and says what was awaited when it never has.
pub async fn eventually<T, F: AsyncFnMut() -> Option<T>>(what: &str, probe: F) -> T {
    eventually_within(DEADLINE, what, probe).await
}

/// The same, for what takes its time.
pub async fn eventually_within<T, F: AsyncFnMut() -> Option<T>>(deadline: Duration, what: &str, mut probe: F) -> T {
    let answered = async {
        loop {
            if let Some(answer) = probe().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    let answer = tokio::time::timeout(deadline, answered).await;
    answer.unwrap_or_else(|_| panic!("waited {deadline:?} in vain: {what}"))
}

/// Waits until `probe` has an answer. It may fail meanwhile; when there never is one, the last error is said.
pub async fn eventually_ok<T, E: Display>(what: &str, probe: impl AsyncFnMut() -> Result<Option<T>, E>) -> T {
    eventually_ok_within(DEADLINE, what, probe).await
}

/// The same, for what takes its time, or is promised sooner.
pub async fn eventually_ok_within<T, E: Display>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<Option<T>, E>,
) -> T {
    let mut last_error = None;
    let answered = async {
        loop {
            match probe().await {
                Ok(Some(answer)) => return answer,
                Ok(None) => last_error = None,
                Err(error) => last_error = Some(error.to_string()),
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    let answer = tokio::time::timeout(deadline, answered).await;
    answer.unwrap_or_else(|_| {
        let error = last_error.map_or(String::new(), |error| format!("; it failed last with: {error}"));
        panic!("waited {deadline:?} in vain: {what}{error}")
    })
}

/// Watches something that must stay as it is, for as long as one can wait for it not to change.
pub async fn stays<T: PartialEq + Debug>(period: Duration, what: &str, mut probe: impl AsyncFnMut() -> T) -> T {
    let (first, began) = (probe().await, Instant::now());
    // A probe that blocks would never let a timeout have its turn.
    while began.elapsed() < period {
        tokio::time::sleep(period / 40).await;
        assert_eq!(probe().await, first, "{what}");
    }
    first
}

/// Waits until something has not changed for a while, and returns it.
pub async fn comes_to_rest<T: PartialEq + Clone>(period: Duration, what: &str, mut probe: impl AsyncFnMut() -> T) -> T {
    let mut last = (probe().await, Instant::now());
    eventually(what, async || {
        let now = probe().await;
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() >= period).then(|| last.0.clone())
    })
    .await
}
