//! Learns where partitions are to be read from of which Kafka did not say it at once, beside the thread that reads the others.
//!
//! A partition has no leader for a while, or a worker died in the middle of a transaction: the coordinator then says nothing
//! of a partition until that is ended, half a minute later.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::domain::record::topic_id::TopicId;
use crate::worker::fail::FailOnPanic;
use crate::worker::group::{Group, Start, Unknown, learn_starts, learn_topic_ids};

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
    /// Which topic it is, and where it is to be read from.
    pub topic_id: Option<TopicId>,
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
        let topic_ids = {
            let Some(consumer) = consumer.upgrade() else { return };
            consumer.context().retain_unknown(&mut unknown);
            learn_topic_ids(&consumer, &unknown.keys().copied().collect::<Vec<_>>(), TIMEOUT)
        };
        // One by one: of several, Kafka says nothing as long as it does not of one.
        for (partition, topic_id) in topic_ids {
            let Some(consumer) = consumer.upgrade() else { return };
            consumer.context().retain_unknown(&mut unknown);
            let Some(asked) = unknown.get(&partition).cloned() else { continue };
            let restart = asked.restart.clone();
            if let Some(start) = restart.or_else(|| learn_starts(&consumer, &[partition], TIMEOUT).remove(&partition)) {
                unknown.remove(&partition);
                // Nobody reads any more when the stage has ended.
                let _ = sender.send(Learnt { partition, unknown: asked, topic_id, start });
            }
        }
        std::thread::sleep(PAUSE);
    }
}
