//! What is looked at all the while that a run lasts: what groups have committed, and whether the machine keeps up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::{JoinHandle, spawn_blocking};

use super::support::processor::now;
use super::verdict::Commits;

/// The time between two looks at what is committed.
const INTERVAL: Duration = Duration::from_millis(500);

/// A coordinator that takes longer to answer is looked at again: it does not say what was committed when it was asked.
const ANSWER: Duration = Duration::from_millis(500);

/// The time between two ticks of a clock, and how late one comes when the machine has too much to do.
const TICK: Duration = Duration::from_millis(50);
const STANDSTILL: Duration = Duration::from_millis(500);

/// A group, its topic, and how many partitions that has.
#[derive(Clone, Debug)]
pub struct Group {
    pub id: String,
    pub topic: String,
    pub partitions: i32,
}

/// Looks at what groups have committed until it is told to end.
pub fn watch_commits(address: &str, groups: Vec<Group>, end: Arc<AtomicBool>) -> JoinHandle<Vec<Commits>> {
    let open = |group: &Group| -> BaseConsumer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", address).set("group.id", &group.id).set("log_level", "2");
        // What is committed in an open transaction does not keep the answer waiting.
        config.set("isolation.level", "read_uncommitted").set("reconnect.backoff.max.ms", "1000");
        config.create().unwrap()
    };
    let consumers: Vec<_> = groups.iter().map(open).collect();
    let of = |group: &Group, partition| Commits { topic: group.topic.clone(), partition, looks: vec![] };
    let mut commits: Vec<Vec<_>> =
        groups.iter().map(|group| (0..group.partitions).map(|partition| of(group, partition)).collect()).collect();
    spawn_blocking(move || {
        while !end.load(Ordering::Relaxed) {
            let next = Instant::now() + INTERVAL;
            for ((consumer, group), commits) in consumers.iter().zip(&groups).zip(&mut commits) {
                let mut list = TopicPartitionList::new();
                list.add_partition_range(&group.topic, 0, group.partitions - 1);
                let at = now();
                let Ok(committed) = consumer.committed_offsets(list, ANSWER) else { continue };
                for (commits, element) in commits.iter_mut().zip(committed.elements()) {
                    let offset = if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None };
                    commits.looks.push((at, offset));
                }
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        commits.concat()
    })
}

/// From when to when the machine was too busy for a clock. What else runs on it then is held up, too.
#[derive(Clone, Debug, Default)]
pub struct Standstills(Arc<Mutex<Vec<(i64, i64)>>>);

impl Standstills {
    pub fn watch(&self) -> JoinHandle<()> {
        let standstills = self.0.clone();
        tokio::spawn(async move {
            loop {
                let (before, began) = (Instant::now(), now());
                tokio::time::sleep(TICK).await;
                if before.elapsed() > TICK + STANDSTILL {
                    standstills.lock().unwrap().push((began, now()));
                }
            }
        })
    }

    pub fn all(&self) -> Vec<(i64, i64)> {
        self.0.lock().unwrap().clone()
    }
}
