//! A model of Kafka: logs with gaps, what is committed, who may commit, and topics that refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lazaret::domain::commit::commit_metadata;
use lazaret::domain::commit::offsets::Offsets;
use lazaret::domain::commit::settlement::{AssignmentId, Commit, Refusal};
use rand::Rng;
use rand::rngs::StdRng;

use super::life::{Life, Millis};

/// What a topic refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refuses {
    None,
    All,
    /// It does not answer.
    Away,
}

/// A record of the source, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Source {
    pub offset: i64,
    pub key: u8,
    pub bytes: usize,
    /// The topic that it goes to when it fails, `None` where it is processed.
    pub goes_to: Option<usize>,
    /// Its topic refuses it as long as there is trouble at all, whatever else it takes.
    pub is_bad: bool,
    /// When it is due, 0 where it does not wait.
    pub due: Millis,
    /// How long its call takes.
    pub takes: Millis,
    /// When it is in the log.
    pub written: Millis,
}

pub struct Topic {
    pub name: Arc<str>,
    pub refuses: Refuses,
    /// When it began to be as it is.
    since: Millis,
    /// Whether a bad record goes to it.
    has_bad: bool,
    pub written: BTreeMap<(usize, i64), u32>,
}

pub struct Kafka {
    pub logs: Vec<Vec<Source>>,
    pub topics: Vec<Topic>,
    pub exactly_once: bool,
    committed: Vec<(i64, String)>,
    /// Who has a partition.
    owners: Vec<Option<(usize, AssignmentId)>>,
    /// Who is to have it next.
    pub wanted: Vec<usize>,
    alive: Vec<bool>,
    assignments: u64,
    processed: BTreeSet<(usize, i64)>,
    /// When a record was settled under its present owner.
    settled_at: BTreeMap<(usize, i64), Millis>,
    /// When a record failed whose topic is fine, and which was not written yet.
    failed: BTreeMap<(usize, i64), Millis>,
    /// When the last trouble began that holds up everybody of a partition, or the last trouble of a topic.
    disturbed: Vec<Millis>,
    troubled: Millis,
    checked: Millis,
    calls: u64,
    refused: u64,
    /// How many records were processed or routed so far.
    pub settled: u64,
}

pub struct Ended {
    pub routed: u64,
    pub refused: u64,
    pub calls: u64,
}

/// How long a dead letter may take while others are in trouble: what is promised, and twice the time in which it is found out that
/// a topic does not answer.
const LATE: Millis = 3_000 + 2 * 5_000;

/// How often it is looked for what is late.
const CHECK: Millis = 200;

/// How long after a trouble has begun, or a partition has moved, nothing is judged.
const CALM: Millis = 10_000;

impl Kafka {
    pub fn new(life: &Life, rng: &mut StdRng) -> Self {
        let hot = rng.random_range(0..life.partitions);
        let per_mille = |rng: &mut StdRng, n: u32| rng.random_range(0..1_000) < n;
        let logs = (0..life.partitions).map(|partition| {
            let mut offset = rng.random_range(0..5);
            // Most are in one partition, more often than not.
            let records = if partition == hot { life.records } else { life.records / rng.random_range(1..=8) };
            let burst = rng.random_bool(0.3).then(|| rng.random_range(0..30_000));
            (0..records)
                .map(|_| {
                    offset += if rng.random_bool(0.1) { rng.random_range(2..4) } else { 1 };
                    let fails = per_mille(rng, life.failing);
                    let written = rng.random_range(0..30_000);
                    let waits = per_mille(rng, life.waiting);
                    Source {
                        offset,
                        key: rng.random_range(0..20),
                        bytes: rng.random_range(life.bytes / 20..life.bytes),
                        goes_to: fails.then(|| rng.random_range(0..life.topics)),
                        is_bad: fails && rng.random_bool(0.05),
                        due: if waits {
                            burst.unwrap_or_else(|| written + rng.random_range(0..life.spread))
                        } else {
                            0
                        },
                        takes: if per_mille(rng, 5) {
                            rng.random_range(1_000..15_000)
                        } else {
                            rng.random_range(0..30)
                        },
                        written,
                    }
                })
                .collect::<Vec<_>>()
        });
        let mut logs: Vec<Vec<Source>> = logs.collect();
        for log in &mut logs {
            let mut times: Vec<_> = log.iter().map(|source| source.written).collect();
            times.sort_unstable();
            log.iter_mut().zip(times).for_each(|(source, written)| source.written = written);
        }
        let has_bad = |index| logs.iter().flatten().any(|source| source.is_bad && source.goes_to == Some(index));
        let topic = |index| Topic {
            has_bad: has_bad(index),
            name: Arc::from(format!("topic-{index}")),
            refuses: Refuses::None,
            since: 0,
            written: BTreeMap::new(),
        };
        Self {
            topics: (0..life.topics).map(topic).collect(),
            logs,
            exactly_once: life.exactly_once,
            committed: vec![(0, String::new()); life.partitions],
            owners: vec![None; life.partitions],
            wanted: (0..life.partitions).map(|partition| partition % life.workers).collect(),
            alive: vec![true; life.workers],
            assignments: 0,
            processed: BTreeSet::new(),
            settled_at: BTreeMap::new(),
            failed: BTreeMap::new(),
            disturbed: vec![0; life.partitions],
            troubled: 0,
            checked: 0,
            calls: 0,
            refused: 0,
            settled: 0,
        }
    }

    pub fn set(&mut self, topic: usize, refuses: Refuses, now: Millis) {
        (self.topics[topic].refuses, self.topics[topic].since, self.troubled) = (refuses, now, now);
    }

    pub fn source(&self, partition: usize, offset: i64) -> &Source {
        let log = &self.logs[partition];
        &log[log.partition_point(|source| source.offset < offset)]
    }

    /// Gives a partition to a worker, from what is committed.
    pub fn assign(&mut self, partition: usize, worker: usize, now: Millis) -> (AssignmentId, Offsets, i64) {
        self.assignments += 1;
        let id = AssignmentId(self.assignments);
        self.owners[partition] = Some((worker, id));
        self.disturbed[partition] = now;
        let (offset, metadata) = &self.committed[partition];
        let finished = commit_metadata::decode(*offset, metadata).expect("it was written by this");
        self.failed.retain(|(p, _), _| *p != partition);
        self.settled_at.retain(|(p, _), _| *p != partition);
        (id, Offsets::resume(*offset, finished), *offset)
    }

    pub fn give_up(&mut self, partition: usize, now: Millis) {
        (self.owners[partition], self.disturbed[partition]) = (None, now);
    }

    pub fn set_alive(&mut self, worker: usize, alive: bool) {
        self.alive[worker] = alive;
    }

    pub fn is_alive(&self, worker: usize) -> bool {
        self.alive[worker]
    }

    pub fn is_owner(&self, partition: usize, worker: usize) -> bool {
        self.owners[partition].is_some_and(|(owner, _)| owner == worker)
    }

    /// All partitions of a worker have something in common: what disturbs one holds them up, too.
    pub fn disturb(&mut self, worker: usize, now: Millis) {
        for (partition, owner) in self.owners.iter().enumerate() {
            if owner.is_some_and(|(owner, _)| owner == worker) {
                self.disturbed[partition] = now;
            }
        }
    }

    /// Partitions that nobody has, and who gets them: the one who is to, or any other that is alive.
    pub fn free(&self) -> Vec<(usize, usize)> {
        let next =
            |wanted: usize| if self.alive[wanted] { Some(wanted) } else { self.alive.iter().position(|alive| *alive) };
        let free = self.owners.iter().enumerate().filter(|(_, owner)| owner.is_none());
        free.filter_map(|(partition, _)| Some((partition, next(self.wanted[partition])?))).collect()
    }

    pub fn note_call(&mut self, partition: usize, offset: i64, now: Millis) -> Result<(), String> {
        self.calls += 1;
        let source = self.source(partition, offset);
        if now < source.due {
            return Err(format!("early: {partition}:{offset} at {now} and not at {}", source.due));
        }
        Ok(())
    }

    pub fn note_processed(&mut self, partition: usize, offset: i64, now: Millis) {
        let goes_to = self.source(partition, offset).goes_to;
        match goes_to {
            None => {
                self.settled += 1;
                self.processed.insert((partition, offset));
                self.settled_at.entry((partition, offset)).or_insert(now);
            }
            Some(_) => drop(self.failed.entry((partition, offset)).or_insert(now)),
        }
    }

    /// Why a record is not taken.
    pub fn refusal(&mut self, partition: usize, offset: i64) -> Option<Refusal> {
        let source = self.source(partition, offset);
        let topic = &self.topics[source.goes_to.expect("it fails")];
        let is_any_trouble = self.topics.iter().any(|topic| topic.refuses != Refuses::None);
        let refusal = match topic.refuses {
            Refuses::All => Some(Refusal::Refused),
            Refuses::Away => Some(Refusal::Away),
            Refuses::None => (source.is_bad && is_any_trouble).then_some(Refusal::Refused),
        };
        self.refused += u64::from(refusal.is_some());
        refusal
    }

    /// Whether the commits of a worker count.
    pub fn accepts(&self, worker: usize, commits: &[Commit]) -> bool {
        let is_owner = |commit: &Commit| self.owners[commit.partition as usize] == Some((worker, commit.assignment));
        commits.iter().all(is_owner)
    }

    pub fn commit(&mut self, commits: &[Commit]) -> Result<(), String> {
        for Commit { partition, offset, metadata, .. } in commits {
            let finished = commit_metadata::decode(*offset, metadata).map_err(|error| format!("metadata: {error}"))?;
            let range = |at: i64| finished.get(finished.partition_point(|range| range.end <= at));
            let is_finished = |at: i64| at < *offset || range(at).is_some_and(|range| range.contains(&at));
            let lost = |source: &&Source| is_finished(source.offset) && !self.is_settled(*partition as usize, source);
            // What lies below the last commit was looked at before.
            let (log, before) = (&self.logs[*partition as usize], self.committed[*partition as usize].0);
            let from = log.partition_point(|source| source.offset < before);
            if let Some(lost) = log[from..].iter().find(lost) {
                return Err(format!("lost: {partition}:{} is committed and not settled", lost.offset));
            }
            self.committed[*partition as usize] = (*offset, metadata.clone());
        }
        Ok(())
    }

    fn is_settled(&self, partition: usize, source: &Source) -> bool {
        let place = (partition, source.offset);
        match source.goes_to {
            None => self.processed.contains(&place),
            Some(topic) => self.topics[topic].written.contains_key(&place),
        }
    }

    pub fn write(&mut self, partition: usize, offset: i64, now: Millis) -> Result<(), String> {
        let topic = self.source(partition, offset).goes_to.expect("it fails");
        let times = self.topics[topic].written.entry((partition, offset)).or_default();
        *times += 1;
        self.settled += 1;
        self.failed.remove(&(partition, offset));
        self.settled_at.entry((partition, offset)).or_insert(now);
        if self.exactly_once && *times > 1 {
            return Err(format!("twice: {partition}:{offset} is routed {times} times"));
        }
        Ok(())
    }

    /// What goes to a topic that is fine is there soon, whatever another topic does, and what is settled is committed.
    pub fn check_others(&mut self, now: Millis) -> Result<(), String> {
        if now < self.checked + CHECK {
            return Ok(());
        }
        self.checked = now;
        for (&(partition, offset), &failed) in &self.failed {
            let source = self.source(partition, offset);
            let topic = &self.topics[source.goes_to.expect("it fails")];
            let is_fine = topic.refuses == Refuses::None && topic.since == 0 && !topic.has_bad;
            let calm = self.disturbed[partition].max(self.troubled) + CALM;
            if is_fine && now > failed.max(calm) + LATE {
                return Err(format!("late: {partition}:{offset} failed at {failed} and is not written at {now}"));
            }
        }
        for (partition, (committed, _)) in self.committed.iter().enumerate() {
            let log = &self.logs[partition];
            let next = log.get(log.partition_point(|source| source.offset < *committed));
            let settled = next.and_then(|next| Some((next.offset, *self.settled_at.get(&(partition, next.offset))?)));
            let Some((offset, settled)) = settled else { continue };
            let calm = self.disturbed[partition].max(self.troubled) + CALM;
            if now > settled.max(calm) + LATE {
                return Err(format!("uncommitted: {partition}:{offset} was settled at {settled}, and it is {now}"));
            }
        }
        Ok(())
    }

    pub fn is_done(&self) -> bool {
        self.logs.iter().enumerate().all(|(partition, log)| {
            let end = log.last().map_or(0, |last| last.offset + 1);
            self.committed[partition].0 >= end || log.is_empty()
        })
    }

    pub fn unsettled(&self) -> String {
        let of = |(partition, log): (usize, &Vec<Source>)| {
            let open = log.iter().filter(|source| !self.is_settled(partition, source)).count();
            format!("{open} of {} are open in {partition}, committed {:?}", log.len(), self.committed[partition].0)
        };
        self.logs.iter().enumerate().map(of).collect::<Vec<_>>().join("; ")
    }

    pub fn ended(&self) -> Result<Ended, String> {
        if !self.is_done() {
            return Err(format!("stuck: {}", self.unsettled()));
        }
        let routed = self.topics.iter().map(|topic| topic.written.len() as u64).sum();
        Ok(Ended { routed, refused: self.refused, calls: self.calls })
    }
}
