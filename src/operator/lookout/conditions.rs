//! What a person should know of what was seen, each with what to do. Pure.

use std::time::Duration;

use k8s_openapi::jiff;

use crate::api::v1alpha1::RebalancesStatus;
use crate::domain::observe::dead_letters::{HOUR, Summary};
use crate::domain::observe::group::RebalanceReason;
use crate::domain::time::Timestamp;
use crate::operator::view::{StageView, View};

/// Whether the counts are of now.
pub const COUNTS_CURRENT: &str = "CountsCurrent";
/// There are dead letters.
pub const DEAD_LETTERS_PRESENT: &str = "DeadLettersPresent";
/// Records die of something that they did not die of before.
pub const NEW_ERROR_TYPE: &str = "NewErrorType";
/// Records are ready, and nothing becomes of them.
pub const CONSUMER_STUCK: &str = "ConsumerStuck";
/// Partitions move all the time.
pub const REBALANCE_STORM: &str = "RebalanceStorm";
/// The circuit breaker of a stage is open.
pub const CIRCUIT_OPEN: &str = "CircuitOpen";
/// The retry stage holds as much as it may.
pub const RETRY_BACKLOG_SATURATED: &str = "RetryBacklogSaturated";
/// What is in a dead letter topic may get lost.
pub const DEAD_LETTER_TOPIC_UNSAFE: &str = "DeadLetterTopicUnsafe";

/// All of them.
pub const ALL: [&str; 8] = [
    COUNTS_CURRENT,
    DEAD_LETTERS_PRESENT,
    NEW_ERROR_TYPE,
    CONSUMER_STUCK,
    REBALANCE_STORM,
    CIRCUIT_OPEN,
    RETRY_BACKLOG_SATURATED,
    DEAD_LETTER_TOPIC_UNSAFE,
];

/// Those of which an event is written when they begin to hold.
pub const ALARMS: [&str; 5] =
    [CONSUMER_STUCK, REBALANCE_STORM, CIRCUIT_OPEN, RETRY_BACKLOG_SATURATED, DEAD_LETTER_TOPIC_UNSAFE];

/// For how long nothing may become of a record that is ready.
pub const STUCK_AFTER: Duration = Duration::from_secs(60);

/// The same where applications commit: after a batch, which may take five minutes by their default `max.poll.interval.ms`.
pub const STUCK_AFTER_BATCH: Duration = Duration::from_secs(360);

/// So many rebalances within this time are a storm.
pub const STORM: (usize, Duration) = (5, Duration::from_secs(600));

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The condition.
    pub of_type: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, in a word.
    pub reason: String,
    /// In sentences, with what to do.
    pub message: String,
}

/// What is so, and what is not so.
pub fn verdicts(view: &View, rebalances: &RebalancesStatus, now: Timestamp) -> Vec<Verdict> {
    let found = [
        (DEAD_LETTERS_PRESENT, view.dead_letters.as_ref().and_then(|letters| dead_letters(letters, view))),
        (NEW_ERROR_TYPE, view.dead_letters.as_ref().and_then(|letters| new_error_type(letters, now))),
        (CONSUMER_STUCK, stuck(view, now)),
        (REBALANCE_STORM, storm(view, rebalances, now)),
        (CIRCUIT_OPEN, circuit_open(view)),
        (RETRY_BACKLOG_SATURATED, view.retry.as_ref().and_then(saturated)),
        (DEAD_LETTER_TOPIC_UNSAFE, unsafe_topic(view)),
    ];
    let verdict = |(of_type, found): (&'static str, Option<(&str, String)>)| match found {
        Some((reason, message)) => {
            let message = format!("{message} See {}.", page(of_type));
            Verdict { of_type, holds: true, reason: reason.to_owned(), message }
        }
        None => Verdict { of_type, holds: false, reason: "AsItShouldBe".to_owned(), message: String::new() },
    };
    std::iter::once(current(view)).chain(found.into_iter().map(verdict)).collect()
}

fn current(view: &View) -> Verdict {
    let (holds, reason, message) = match view.retry.as_ref().filter(|retry| retry.is_unheard) {
        None => (true, "Counted", "the counts are of now, or of a few seconds ago".to_owned()),
        Some(retry) => {
            let message = format!(
                "no worker of the retry stage answers the operator: what is due in {} is not told from what \
                 waits, and is not in the lag. See {}.",
                retry.topic,
                page(COUNTS_CURRENT)
            );
            (false, "WorkersUnheard", message)
        }
    };
    Verdict { of_type: COUNTS_CURRENT, holds, reason: reason.to_owned(), message }
}

/// The page about a condition: `docs/conditions/consumer-stuck.md`.
pub fn page(of_type: &str) -> String {
    let mut name = String::new();
    for letter in of_type.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    format!("docs/conditions/{name}.md")
}

type Found = Option<(&'static str, String)>;

fn dead_letters(letters: &Summary, view: &View) -> Found {
    let most = letters.causes.first()?;
    let topics = view.dead_letter_topics.join(", ");
    let which = match &most.cause.reason {
        Some(reason) => format!("{} ({reason})", most.cause.error_type),
        None => most.cause.error_type.clone(),
    };
    let letters_of = |count| if count == 1 { "1 dead letter".to_owned() } else { format!("{count} dead letters") };
    let newest = letters.newest.map_or_else(String::new, |at| format!(", the newest of {}", to_the_second(at)));
    let what = letters_of(letters.total);
    Some(("DeadLetters", format!("{what} in {topics}, {} of them of {which}{newest}.", most.count)))
}

/// An error type is new while its first dead letter is not an hour old. Of the very first dead letters all are.
fn new_error_type(letters: &Summary, now: Timestamp) -> Found {
    let mut new: Vec<_> = letters.causes.iter().filter(|cause| now.since(cause.first) < HOUR).collect();
    let is_old = |error_type: &str| {
        letters.causes.iter().any(|other| other.cause.error_type == error_type && now.since(other.first) >= HOUR)
    };
    new.retain(|cause| !is_old(&cause.cause.error_type));
    new.sort_by_key(|cause| std::cmp::Reverse(cause.first));
    let newest = new.first()?;
    let mut types: Vec<_> = new.iter().map(|cause| cause.cause.error_type.as_str()).take(5).collect();
    types.dedup();
    let since = to_the_second(newest.first);
    Some((
        "NewErrorType",
        format!("records die of {}, first at {since}: look for a change of about that time.", types.join(", ")),
    ))
}

fn stuck(view: &View, now: Timestamp) -> Found {
    let enough = if view.is_external() { STUCK_AFTER_BATCH } else { STUCK_AFTER };
    let (stage, of, (partition, (since, offset))) = view
        .stages()
        .filter_map(|(of, stage)| {
            let first = stage.stuck.iter().min_by_key(|(_, (since, _))| *since)?;
            (now.since(first.1.0) >= enough && stage.circuit_open.is_none()).then_some((stage, of, first))
        })
        .next()?;
    let (topic, seconds) = (&stage.topic, now.since(*since).as_secs());
    let place = format!("{topic}, partition {partition}, offset {offset}");
    if stage.group.as_ref().is_some_and(|group| group.members.is_empty()) {
        let why = match view.is_external() {
            true => "Does the application run, and with this group id?".to_owned(),
            false => format!("Are the workers of the {of} stage scaled to 0, or do their pods fail?"),
        };
        let (ready, group) = (stage.ready(), &stage.group_id);
        let message = format!(
            "{ready} records are ready and the group `{group}` has no member: nothing was finished for {seconds} s. {why}"
        );
        return Some(("NoMembers", message));
    }
    let who = if view.is_external() { "consumer commits nothing" } else { "processor does not answer" };
    let message = format!(
        "{} records are ready and nothing was finished for {seconds} s; the lowest that is not is {place}. Either the \
         {who}, or that record is what it cannot bear.",
        stage.ready()
    );
    Some(("NoProgress", message))
}

fn storm(view: &View, rebalances: &RebalancesStatus, now: Timestamp) -> Found {
    let (enough, within) = STORM;
    let at = |time: jiff::Timestamp| Timestamp(time.as_millisecond());
    let recent: Vec<_> =
        rebalances.recent.iter().filter(|rebalance| now.since(at(rebalance.time.0)) < within).collect();
    if recent.len() < enough {
        return None;
    }
    let count = recent.len();
    let of = |reason: RebalanceReason| recent.iter().filter(|rebalance| rebalance.reason == reason.to_string()).count();
    let what = format!("{count} rebalances within {} minutes", within.as_secs() / 60);
    // A worker that crashes is back under another name, as one is that was taken for dead.
    let restarts: i32 = view.stages().map(|(_, stage)| stage.restarts).sum();
    if 2 * usize::try_from(restarts).unwrap_or(0) >= count {
        let message = format!(
            "{what}; containers of the workers were started again {restarts} times: `kubectl logs --previous` says why they end."
        );
        return Some(("WorkersRestart", message));
    }
    if 2 * of(RebalanceReason::MemberTimedOut) >= count {
        let (poll, session) = match view.is_external() {
            true => ("the consumer's max.poll.interval.ms", "its session.timeout.ms"),
            false => ("consumer.maxPollInterval", "consumer.sessionTimeout"),
        };
        let message = format!(
            "{what}, because members are taken for dead: raise {poll} if calls take long, {session} if the network or \
             the node is slow."
        );
        return Some(("MembersTimeOut", message));
    }
    Some(("MembersComeAndGo", format!("{what}, because members come and go: is an autoscaler or a rollout at work?")))
}

fn circuit_open(view: &View) -> Found {
    let mut open = view.stages().filter_map(|(of, stage)| Some((of, stage.circuit_open.as_ref()?)));
    let (stage, (why, next)) = open.next()?;
    let next = next.map_or_else(
        || "a few records are tried now".to_owned(),
        |next| format!("it is tried again at {}", to_the_second(next)),
    );
    Some((
        "CircuitOpen",
        format!("the processor is not called by the {stage} stage: {why}; {next}. No record is given up meanwhile."),
    ))
}

fn saturated(retry: &StageView) -> Found {
    let (partition, why) = retry.saturated.first_key_value()?;
    let count = retry.saturated.len();
    let message = format!(
        "the retry stage holds as much as it may ({why}) in {count} of its partitions, partition {partition} of {} among \
         them: what comes due behind that is late. Mend what fails, or raise retry.pendingRecords.",
        retry.topic
    );
    Some(("Saturated", message))
}

fn unsafe_topic(view: &View) -> Found {
    if view.unsafe_topics.is_empty() {
        return None;
    }
    Some(("Unsafe", format!("{}.", view.unsafe_topics.join("; "))))
}

/// The same, without its fraction.
pub fn to_the_second(at: Timestamp) -> Timestamp {
    Timestamp(at.0 - at.0.rem_euclid(1_000))
}
