//! What a run must have led to, whatever happened on the way.
//!
//! It is judged by what the endpoint answered, not by what it was to answer: an outage or a call that is repeated makes
//! attempts fail that would not have. Calls are made at least once, so one that is seen twice is no fault by itself;
//! [`Sums`] counts them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::variant::{DELAYS, MAX_ATTEMPTS, Ordering};
use super::workers::Stop;
use super::{hand_over, liveness, order};

/// A partition of the main topic and an offset in it.
pub type Place = (i32, i64);

/// What the engine is held to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whether each failed attempt is routed once, not at least once.
    pub exactly_once: bool,
    pub ordering: Ordering,
    /// Whether a record is tried again where it is, and its lane waits.
    pub keeps_order: bool,
}

/// Whether a record of the main topic must have been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be read to this day.
    Readable,
    /// Compaction has removed it: it may have been read before, or not.
    Superseded,
    /// Its transaction was aborted: nobody may have seen it.
    Aborted,
}

/// A record in the main topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    pub key: Option<Vec<u8>>,
    pub standing: Standing,
    /// When its producer sent it.
    pub written: i64,
    pub is_in_burst: bool,
}

/// A call, as the endpoint saw it. Times are epoch milliseconds.
#[derive(Clone, Debug)]
pub struct Call {
    pub place: Place,
    pub attempt: u32,
    /// The worker, and which of its lives.
    pub caller: String,
    /// Whether its body was the value of the record at that place.
    pub intact: bool,
    pub began: i64,
    /// When and with which status; `None` when the caller was gone before.
    pub answered: Option<(i64, u16)>,
    /// When the caller was gone, where it was before it had an answer.
    pub gone: Option<i64>,
}

/// A record in the retry topic.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    pub place: Place,
    /// Its own partition and offset.
    pub at: Place,
    /// When it was sent.
    pub written: i64,
    pub attempts: u32,
    pub due: i64,
    /// Whether its bytes are those of the record at that place.
    pub intact: bool,
    /// Whether it says that the attempt got no answer.
    pub unanswered: bool,
}

/// Why a record was given up, as its dead letter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Permanent,
    AttemptsExhausted,
    Other,
}

/// A record in the dead letter topic.
#[derive(Clone, Copy, Debug)]
pub struct Letter {
    pub place: Place,
    /// When it was sent.
    pub written: i64,
    pub attempts: u32,
    pub reason: Reason,
    pub intact: bool,
    pub unanswered: bool,
}

/// How far a group came in a partition that holds records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    pub topic: String,
    pub partition: i32,
    /// The offset after the last record.
    pub end: i64,
    /// The offset after all that takes one, markers of transactions included.
    pub log_end: i64,
    pub committed: Option<i64>,
}

impl Reach {
    pub fn is_at_end(&self) -> bool {
        self.committed.is_some_and(|committed| committed >= self.end)
    }
}

/// What a group had committed in a partition, and when it was looked at.
#[derive(Clone, Debug, Default)]
pub struct Commits {
    pub topic: String,
    pub partition: i32,
    /// `None` as long as nothing was committed.
    pub looks: Vec<(i64, Option<i64>)>,
}

/// All that was seen of one pipeline.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub terms: Terms,
    pub originals: BTreeMap<Place, Original>,
    pub calls: Vec<Call>,
    pub retries: Vec<Retry>,
    pub letters: Vec<Letter>,
    pub reach: Vec<Reach>,
    /// From when to when nothing happened after which a worker may go on without knowing that it has lost its partitions.
    pub quiet: Vec<(i64, i64)>,
    pub stops: Vec<Stop>,
    /// The main topic and the retry topic.
    pub topics: [String; 2],
    pub commits: Vec<Commits>,
    /// From when to when nothing but lopsided faults happened, and none that this pipeline as a whole had to suffer.
    pub calm: Vec<(i64, i64)>,
    /// From when to when the dead letter topic refused what was written to it.
    pub refusals: Vec<(i64, i64)>,
    /// From when to when dead letters were written that went with their topic when it was deleted, unread.
    pub deletions: Vec<(i64, i64)>,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Neither processed nor in the dead letter topic.
    Lost { place: Place },
    /// A record in the retry topic that did not lead to an attempt.
    RetryLost { place: Place, attempts: u32 },
    /// A failed attempt that was routed more often than once.
    RoutedTwice { place: Place, attempts: u32, times: usize },
    /// A retry before it was due.
    Early { place: Place, attempt: u32, millis: i64 },
    /// A retry that was to be made before its delay had passed.
    DueTooSoon { place: Place, attempts: u32, millis: i64 },
    /// A retry that no failure led to: no record in the retry topic, or no failed attempt before it.
    Unasked { place: Place, attempt: u32 },
    /// A retry record or a dead letter whose attempt was not answered so.
    Unfounded { place: Place, attempts: u32 },
    /// More attempts than the policy grants.
    TooManyAttempts { place: Place, attempts: u32 },
    /// The second one was called before the first one was answered.
    OutOfOrder { first: Place, second: Place },
    /// Two calls were made at once that had to wait for each other.
    SideBySide { callers: [String; 2], places: [Place; 2] },
    /// A worker that said that it had finished had cut off this call.
    CutOff { caller: String, place: Place },
    /// A worker that said that it had finished had finished this record, and it was called again.
    CalledAgain { caller: String, place: Place },
    /// What came out is not what went in.
    Changed { place: Place, what: &'static str },
    /// Something goes under the name of a place where no record was written.
    UnknownPlace { place: Place, what: &'static str },
    /// Something came of a record whose transaction was aborted.
    AbortedSeen { place: Place, what: &'static str },
    /// What is finished is not committed.
    Uncommitted(Reach),
    /// More is committed than there is.
    CommittedTooFar(Reach),
    /// A worker that was asked to stop did not do so in time, or said that it could not finish.
    UncleanStop(Stop),
    /// A worker ended by itself.
    Died { worker: String, status: String },
    /// A partition stood still while it had something to do. Times are epoch milliseconds.
    Stalled { topic: String, partition: i32, what: &'static str, from: i64, until: i64 },
    /// What was due came so many milliseconds too late, or had not come by then.
    Late { place: Place, attempt: u32, what: &'static str, due: i64, millis: i64 },
}

impl Fault {
    /// In a word.
    pub fn name(&self) -> String {
        format!("{self:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
    }

    /// The promise that it breaks.
    pub fn promise(&self) -> &'static str {
        match self {
            Self::Lost { .. } | Self::RetryLost { .. } => "nothing lost",
            Self::RoutedTwice { .. } => "routed exactly once",
            Self::Early { .. } | Self::DueTooSoon { .. } => "never early",
            Self::Unasked { .. } | Self::Unfounded { .. } | Self::TooManyAttempts { .. } => "attempts counted",
            Self::OutOfOrder { .. } | Self::SideBySide { .. } => "order as asked",
            Self::Changed { .. } | Self::UnknownPlace { .. } => "bytes unchanged",
            Self::AbortedSeen { .. } => "aborted unseen",
            Self::Uncommitted(_) | Self::CommittedTooFar(_) => "committed to the end",
            Self::UncleanStop(_) | Self::Died { .. } | Self::CutOff { .. } | Self::CalledAgain { .. } => {
                "clean hand-over"
            }
            Self::Stalled { .. } | Self::Late { .. } => "the others go on",
        }
    }

    /// All promises, in the order of the invariants.
    pub const PROMISES: [&'static str; 10] = [
        "nothing lost",
        "routed exactly once",
        "never early",
        "attempts counted",
        "order as asked",
        "bytes unchanged",
        "aborted unseen",
        "committed to the end",
        "clean hand-over",
        "the others go on",
    ];
}

/// Every promise that was not kept.
pub fn verify(seen: &Seen) -> Vec<Fault> {
    let mut faults = vec![];
    let answers = Answers::of(&seen.calls);
    check_origins(seen, &mut faults);
    check_ends(seen, &mut faults);
    check_routes(seen, &answers, &mut faults);
    check_attempts(seen, &answers, &mut faults);
    check_reach(seen, &mut faults);
    order::check(seen, &mut faults);
    hand_over::check(seen, &mut faults);
    liveness::check(seen, &mut faults);
    faults
}

/// What the endpoint answered to each attempt of each record.
struct Answers(HashMap<(Place, u32), Vec<(i64, u16)>>);

impl Answers {
    fn of(calls: &[Call]) -> Self {
        let mut answers: HashMap<_, Vec<_>> = HashMap::new();
        for call in calls {
            answers.entry((call.place, call.attempt)).or_default().extend(call.answered);
        }
        Self(answers)
    }

    fn has(&self, place: Place, attempt: u32, status: u16) -> bool {
        self.first(place, attempt, status).is_some()
    }

    /// When an attempt was first answered so.
    fn first(&self, place: Place, attempt: u32, status: u16) -> Option<i64> {
        let answers = self.0.get(&(place, attempt))?;
        answers.iter().filter(|answer| answer.1 == status).map(|(at, _)| *at).min()
    }
}

/// Whatever came out must have gone in, and as it was.
fn check_origins(seen: &Seen, faults: &mut Vec<Fault>) {
    let calls = seen.calls.iter().map(|call| (call.place, call.intact, "call"));
    let retries = seen.retries.iter().map(|retry| (retry.place, retry.intact, "retry record"));
    let letters = seen.letters.iter().map(|letter| (letter.place, letter.intact, "dead letter"));
    for (place, intact, what) in calls.chain(retries).chain(letters) {
        match seen.originals.get(&place).map(|original| original.standing) {
            None => faults.push(Fault::UnknownPlace { place, what }),
            Some(Standing::Aborted) => faults.push(Fault::AbortedSeen { place, what }),
            Some(_) if !intact => faults.push(Fault::Changed { place, what }),
            Some(_) => {}
        }
    }
}

/// A record that can still be read could always be: it must have come to an end. One that compaction removed may not have
/// been read in time, and the one that took its place is judged instead.
fn check_ends(seen: &Seen, faults: &mut Vec<Fault>) {
    let open = open(&seen.originals, &seen.calls, &seen.letters);
    let gone = if seen.deletions.is_empty() { HashSet::new() } else { gone_with_their_topic(seen) };
    faults.extend(open.into_iter().filter(|place| !gone.contains(place)).map(|place| Fault::Lost { place }));
}

/// The records whose dead letters were written to a topic that was then deleted, or may have been.
fn gone_with_their_topic(seen: &Seen) -> HashSet<Place> {
    let failures = seen.calls.iter().filter_map(|call| Some((call, call.answered?)));
    let for_good = failures.filter(|(call, (_, status))| *status == 422 || call.attempt >= MAX_ATTEMPTS);
    let written = for_good.map(|(call, (at, _))| (call.place, at, liveness::accepted(seen, at) + liveness::LATE));
    let may_be =
        |from: i64, until: i64| seen.deletions.iter().any(|deletion| from <= deletion.1 && deletion.0 <= until);
    written.filter(|(_, from, until)| may_be(*from, *until)).map(|(place, ..)| place).collect()
}

/// The records that were neither processed nor given up.
fn open(originals: &BTreeMap<Place, Original>, calls: &[Call], letters: &[Letter]) -> Vec<Place> {
    let done = calls.iter().filter(|call| call.answered.is_some_and(|(_, status)| status == 200));
    let mut ended: Vec<Place> = done.map(|call| call.place).chain(letters.iter().map(|letter| letter.place)).collect();
    ended.sort_unstable();
    let readable = originals.iter().filter(|(_, original)| original.standing == Standing::Readable);
    readable.map(|(place, _)| *place).filter(|place| ended.binary_search(place).is_err()).collect()
}

/// Each route follows from an answer, and leads to an attempt.
fn check_routes(seen: &Seen, answers: &Answers, faults: &mut Vec<Fault>) {
    let (mut routes, mut retries): (BTreeMap<_, usize>, BTreeMap<_, usize>) = Default::default();
    let mut calls: HashMap<_, usize> = HashMap::new();
    for call in &seen.calls {
        *calls.entry((call.place, call.attempt)).or_default() += 1;
    }
    for retry in &seen.retries {
        let at = (retry.place, retry.attempts);
        *routes.entry(at).or_default() += 1;
        *retries.entry(at).or_default() += 1;
        if !retry.unanswered && !answers.has(retry.place, retry.attempts, 503) {
            faults.push(Fault::Unfounded { place: retry.place, attempts: retry.attempts });
        }
        // The last attempt leads to no retry record.
        if retry.attempts >= MAX_ATTEMPTS {
            faults.push(Fault::TooManyAttempts { place: retry.place, attempts: retry.attempts });
        }
        // Without an answer the attempt failed on its way to the endpoint.
        let delay = retry.attempts.checked_sub(1).and_then(|index| DELAYS.get(index as usize));
        if let Some((delay, answered)) = delay.zip(answers.first(retry.place, retry.attempts, 503))
            && retry.due - answered < *delay
        {
            let millis = answered + delay - retry.due;
            faults.push(Fault::DueTooSoon { place: retry.place, attempts: retry.attempts, millis });
        }
    }
    for &Letter { place, attempts, reason, unanswered, .. } in &seen.letters {
        *routes.entry((place, attempts)).or_default() += 1;
        let founded = match reason {
            Reason::Permanent => answers.has(place, attempts, 422),
            Reason::AttemptsExhausted => attempts == MAX_ATTEMPTS && (unanswered || answers.has(place, attempts, 503)),
            Reason::Other => false,
        };
        if !founded {
            faults.push(Fault::Unfounded { place, attempts });
        }
    }
    if seen.terms.exactly_once {
        let twice = routes.into_iter().filter(|(_, times)| *times > 1);
        faults.extend(twice.map(|((place, attempts), times)| Fault::RoutedTwice { place, attempts, times }));
    }
    for ((place, attempts), times) in retries {
        if calls.get(&(place, attempts + 1)).is_none_or(|calls| *calls < times) {
            faults.push(Fault::RetryLost { place, attempts });
        }
    }
}

/// Each attempt but the first is asked for, and not made before its time.
///
/// An attempt that was made twice may have led to two retry records. A retry is held against the one that is due first,
/// since nothing tells which of them it came from.
fn check_attempts(seen: &Seen, answers: &Answers, faults: &mut Vec<Fault>) {
    let mut due = HashMap::new();
    for retry in &seen.retries {
        let first = due.entry((retry.place, retry.attempts)).or_insert(retry.due);
        *first = retry.due.min(*first);
    }
    for &Call { place, attempt, began, .. } in &seen.calls {
        if !(1..=MAX_ATTEMPTS).contains(&attempt) {
            faults.push(Fault::TooManyAttempts { place, attempts: attempt });
        }
        if attempt <= 1 {
            continue;
        }
        let delay = DELAYS.get(attempt as usize - 2);
        let due = match seen.terms.keeps_order {
            true => answers.first(place, attempt - 1, 503).zip(delay).map(|(answered, delay)| answered + delay),
            false => due.get(&(place, attempt - 1)).copied(),
        };
        match due {
            None => faults.push(Fault::Unasked { place, attempt }),
            Some(due) if began < due => faults.push(Fault::Early { place, attempt, millis: due - began }),
            Some(_) => {}
        }
    }
}

fn check_reach(seen: &Seen, faults: &mut Vec<Fault>) {
    for reach in &seen.reach {
        if !reach.is_at_end() {
            faults.push(Fault::Uncommitted(reach.clone()));
        }
        if reach.committed.is_some_and(|committed| committed > reach.log_end) {
            faults.push(Fault::CommittedTooFar(reach.clone()));
        }
    }
}

/// What was done in all, and what of it more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub records: usize,
    pub superseded: usize,
    pub aborted: usize,
    pub calls: usize,
    /// Calls whose caller was gone before the answer.
    pub cut_off: usize,
    pub retries: usize,
    pub dead_letters: usize,
    /// Calls and routes of an attempt beyond its first one.
    pub repeated_calls: usize,
    pub repeated_routes: usize,
    /// Routes that say that the endpoint did not answer.
    pub unanswered: usize,
}

impl Sums {
    pub fn of(seen: &Seen) -> Self {
        let standing = |wanted| seen.originals.values().filter(|original| original.standing == wanted).count();
        let repeated = |mut all: Vec<(Place, u32)>| {
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            count - all.len()
        };
        let retries = seen.retries.iter().map(|retry| (retry.place, retry.attempts));
        let letters = seen.letters.iter().map(|letter| (letter.place, letter.attempts));
        Self {
            records: standing(Standing::Readable),
            superseded: standing(Standing::Superseded),
            aborted: standing(Standing::Aborted),
            calls: seen.calls.len(),
            cut_off: seen.calls.iter().filter(|call| call.answered.is_none()).count(),
            retries: seen.retries.len(),
            dead_letters: seen.letters.len(),
            repeated_calls: repeated(seen.calls.iter().map(|call| (call.place, call.attempt)).collect()),
            repeated_routes: repeated(retries.chain(letters).collect()),
            unanswered: seen.retries.iter().filter(|retry| retry.unanswered).count()
                + seen.letters.iter().filter(|letter| letter.unanswered).count(),
        }
    }
}

mod tests;
