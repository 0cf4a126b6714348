//! Learns where partitions are to be read from of which Kafka did not say it at once, beside the thread that reads the others.
//!
//! A partition has no leader for a while, or a worker died in the middle of a transaction: the coordinator then says nothing
//! of a partition until that is ended, half a minute later.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::worker::fail::FailOnPanic;
use crate::worker::group::{Group, Start, Unknown, learn};

/// How long Kafka may take to say it of one partition, and how long to wait before it is asked again.
const TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);

/// Learns where partitions are to be read from.
pub struct Learner {
    consumer: Weak<BaseConsumer<Group>>,
    failed: FailOnPanic,
    sender: mpsc::Sender<Learnt>,
    /// What was learnt.
    pub learnt: mpsc::Receiver<Learnt>,
}

/// Where a partition is to be read from.
pub struct Learnt {
    pub partition: i32,
    pub unknown: Unknown,
    pub start: Start,
}

impl Learner {
    pub fn new(consumer: &Arc<BaseConsumer<Group>>, failed: FailOnPanic) -> Self {
        let (sender, learnt) = mpsc::channel();
        Self { consumer: Arc::downgrade(consumer), failed, sender, learnt }
    }

    /// Asks until it is known of each of these, or they are somebody else's.
    pub fn learn(&self, unknown: BTreeMap<i32, Unknown>) -> std::io::Result<()> {
        let (consumer, sender, failed) = (self.consumer.clone(), self.sender.clone(), self.failed.clone());
        let ask = move || {
            let _fail_on_panic = failed;
            ask(&consumer, &sender, unknown);
        };
        std::thread::Builder::new().name("learner".into()).spawn(ask).map(drop)
    }
}

fn ask(consumer: &Weak<BaseConsumer<Group>>, sender: &mpsc::Sender<Learnt>, mut unknown: BTreeMap<i32, Unknown>) {
    while !unknown.is_empty() {
        // One by one: of several, Kafka says nothing as long as it does not of one.
        for (partition, asked) in unknown.clone() {
            let Some(consumer) = consumer.upgrade() else { return };
            consumer.context().retain_unknown(&mut unknown);
            if !unknown.contains_key(&partition) {
                continue;
            }
            for (partition, start) in learn(&consumer, &[partition], TIMEOUT) {
                unknown.remove(&partition);
                // Nobody reads any more when the stage has ended.
                let _ = sender.send(Learnt { partition, unknown: asked.clone(), start });
            }
        }
        std::thread::sleep(PAUSE);
    }
}
