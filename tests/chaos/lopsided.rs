//! Faults that hit one key, partition, topic or pipeline, and what of them is known to reach the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lazaret::domain::pipeline::TopicPlan;
use lazaret::kafka::topics::{TopicError, Topics};

use super::endpoint::{Endpoint, Trouble};
use super::liveness::{LATE, STALLED};
use super::run::Happened;
use super::schedule::{Kind, LOPSIDED};
use super::support::eventually_within;
use super::verdict::Fault;
use super::workers::{Stop, Told};

/// What the engine is known not to keep to: a lopsided fault that reaches others, and why.
#[derive(Debug)]
pub struct Known {
    pub kind: Kind,
    pub defect: &'static str,
    /// How long after the fault the others may still suffer, in milliseconds.
    pub aftermath: i64,
}

/// While this is here, a run that draws the fault reports what it leads to and does not fail for it. To mend the defect is to
/// delete its entry: the fault is then judged like any other.
pub const KNOWN_DEFECTS: [Known; 1] = [Known {
    kind: Kind::DeadLettersRefused,
    defect: "a dead letter that Kafka refuses stops all retry records, dead letters and commits of its stage",
    // With exactly-once delivery what else is in the transaction waits until librdkafka gives it up, after twenty seconds,
    // and the engine pauses before it tries again.
    aftermath: 25_000,
}];

/// The kinds that a run draws from: those that the engine is known not to be up to only where they are asked for.
pub fn drawn() -> Vec<Kind> {
    let all = std::env::var_os("LAZARET_CHAOS_KNOWN_DEFECTS").is_some();
    let is_drawn = |kind: &Kind| all || KNOWN_DEFECTS.iter().all(|known| known.kind != *kind);
    LOPSIDED.into_iter().filter(is_drawn).collect()
}

/// What the change of a topic may take while brokers are well.
const CHANGE: Duration = Duration::from_secs(30);

/// The pipeline that a lopsided fault hits, of so many.
pub fn pipeline(victim: usize, pipelines: usize) -> usize {
    victim % pipelines
}

/// The faults that a run found.
#[derive(Default)]
pub struct Judged {
    pub faults: Vec<Fault>,
    /// Those that come from a known defect, and the kind of lopsided fault that provokes it.
    pub expected: Vec<(Kind, Fault)>,
}

impl Judged {
    /// Adds what was found where these lopsided faults happened.
    pub fn add(&mut self, found: Vec<Fault>, happened: &[Happened]) {
        for fault in found {
            match known(&KNOWN_DEFECTS, happened, &fault) {
                Some(defect) => self.expected.push((defect.kind, fault)),
                None => self.faults.push(fault),
            }
        }
    }
}

/// The known defect that a stall or a delay comes from, or that a worker could not finish when it stopped. At the begin of the
/// fault it had not lasted too long yet, and soon after the end it is over: nothing else is excused.
fn known<'a>(known: &'a [Known], happened: &[Happened], fault: &Fault) -> Option<&'a Known> {
    let (from, until, limit) = match fault {
        Fault::Stalled { from, until, .. } => (*from, *until, STALLED),
        Fault::Late { due, millis, .. } => (*due, due + millis, LATE),
        Fault::UncleanStop(Stop { from, until, code: Some(1), .. }) => (*from, *until, 0),
        _ => return None,
    };
    known.iter().find(|known| {
        let mut hits = happened.iter().filter(|past| past.kind == known.kind);
        hits.any(|past| from + limit > past.from && until <= past.until.saturating_add(known.aftermath))
    })
}

/// Begins a lopsided fault, or ends it.
pub async fn set(kind: Kind, victim: usize, on: bool, site: &[Told], endpoint: &Endpoint, topics: &Topics) {
    let index = pipeline(victim, site.len());
    let told = &site[index];
    let partition = (victim / site.len() % told.partitions) as i32;
    let trouble = match kind {
        Kind::KeyUnanswered => Trouble::KeyUnanswered { pipeline: index, key: None },
        Kind::PartitionFails => Trouble::PartitionFails { pipeline: index, partition },
        Kind::PipelineUnanswered => Trouble::PipelineUnanswered { pipeline: index },
        Kind::PartitionFlooded => return told.flood.set(on.then_some(partition)),
        Kind::DeadLettersRefused => {
            let what = "the settings of a topic are changed";
            return eventually_within(CHANGE, what, async || refuse(topics, told, on).await.ok()).await;
        }
        kind => unreachable!("{kind} hits everybody"),
    };
    endpoint.set_trouble(on.then_some(trouble));
}

/// Has a topic refuse what is written to it, or not. A limit to the size would make the engine leave out what is too large,
/// and then what is left differs from what went in; a limit to the age makes any record too old that is written.
async fn refuse(topics: &Topics, told: &Told, on: bool) -> Result<(), TopicError> {
    let age = if on { 0 } else { i64::MAX };
    let Some(found) = topics.describe(&told.dead_letter_topic).await? else { return Ok(()) };
    let plan = TopicPlan {
        name: Arc::from(&*told.dead_letter_topic),
        partitions: found.partitions.unwrap_or_default(),
        replicas: -1,
        config: BTreeMap::from([("message.timestamp.before.max.ms".to_owned(), age.to_string())]),
        manage: true,
        force: false,
    };
    topics.alter(&plan, &found).await
}

mod tests {
    use super::*;

    const HAPPENED: Happened = Happened { kind: Kind::DeadLettersRefused, victim: 0, from: 10_000, until: 17_000 };

    const DEFECT: Known = Known { kind: Kind::DeadLettersRefused, defect: "so it is", aftermath: 6_000 };

    fn is_known(from: i64, until: i64) -> bool {
        let fault = Fault::Stalled { topic: "orders".into(), partition: 0, what: "calls", from, until };
        let defects = [DEFECT];
        assert!(known(&[], &[HAPPENED], &fault).is_none());
        assert!(known(&defects, &[Happened { kind: Kind::KeyUnanswered, ..HAPPENED }], &fault).is_none());
        known(&defects, &[HAPPENED], &fault).is_some()
    }

    #[test]
    fn a_known_defect_explains_what_begins_with_its_fault_and_ends_soon_after_it() {
        assert!(is_known(9_000, 16_000));
        assert!(is_known(16_000, 22_000));
        assert!(!is_known(4_000, 16_000), "it had lasted too long before");
        assert!(!is_known(12_000, 40_000), "it lasts too long afterwards");
    }

    #[test]
    fn a_known_defect_explains_no_fault_of_safety() {
        let defects = [DEFECT];
        assert!(known(&defects, &[HAPPENED], &Fault::Lost { place: (0, 1) }).is_none());
        let late = |due, millis| Fault::Late { place: (0, 1), attempt: 2, what: "call", due, millis };
        assert!(known(&defects, &[HAPPENED], &late(10_500, 4_000)).is_some());
        assert!(known(&defects, &[HAPPENED], &late(5_000, 4_000)).is_none());
        let stop = |code| Fault::UncleanStop(Stop { worker: "main-1/1".into(), from: 12_000, until: 15_000, code });
        assert!(known(&defects, &[HAPPENED], &stop(Some(1))).is_some(), "it said that it could not finish");
        assert!(
            [None, Some(-1), Some(101)].into_iter().all(|code| known(&defects, &[HAPPENED], &stop(code)).is_none())
        );
    }

    #[test]
    fn only_what_is_lopsided_has_known_defects() {
        assert!(KNOWN_DEFECTS.iter().all(|known| known.kind.is_lopsided()));
    }
}
