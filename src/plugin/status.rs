//! Says how pipelines are, in the few lines that a person needs at three in the morning. Pure: it is handed the objects.

mod next;
mod records;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::layout::{age, columns, one_line};
use crate::api::v1alpha1::{ErrorHandlingPipeline, StageStatus};
use crate::domain::pipeline::workers_name;
use crate::domain::record::provenance::Stage;
use crate::operator::dereference::Stored;
use crate::operator::lookout::conditions::{ALARMS, DEAD_LETTERS_PRESENT, NEW_ERROR_TYPE};
use crate::operator::observe::StageState;
use crate::operator::status::{PROGRESSING, READY, WARNING, find};

/// How many events are shown, the newest ones.
const EVENTS: usize = 5;

/// The longest line of an event.
const LINE: usize = 200;

/// Finds the pods of the operator, wherever its chart has put them.
const OPERATOR_PODS: &str =
    "kubectl get pods -A -l app.kubernetes.io/part-of=lazaret,app.kubernetes.io/component=operator";

/// What is known of one pipeline.
pub struct Page {
    /// The pipeline.
    pub object: ErrorHandlingPipeline,
    /// The workers of both stages; `None` when they may not be looked at.
    pub stages: Option<[Option<StageState>; 2]>,
    /// What happened to it; `None` when that may not be looked at.
    pub events: Option<Vec<Event>>,
}

/// Lists pipelines, a line each. `namespace` is the one that was asked for; none: all.
pub fn list(pipelines: &[Stored], namespace: Option<&str>, now: Timestamp) -> String {
    if pipelines.is_empty() {
        return match namespace {
            Some(namespace) => {
                format!("There is no pipeline in the namespace `{namespace}`; -A shows all namespaces.\n")
            }
            None => "There is no pipeline.\n".to_owned(),
        };
    }
    let titles = ["NAMESPACE", "NAME", "READY", "REASON", "LAG", "RETRYING", "DLT", "CONSUMERS", "RETRY", "AGE"];
    let titles = titles.map(str::to_owned);
    let rows = std::iter::once(titles).chain(pipelines.iter().map(|stored| row(stored, now)));
    let shown = |row: [String; 10]| row.into_iter().skip(usize::from(namespace.is_some())).collect();
    let mut lines = columns(&rows.map(shown).collect::<Vec<_>>());
    let notes = notes(pipelines, namespace.is_none());
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes);
    }
    text(&lines)
}

fn row(stored: &Stored, now: Timestamp) -> [String; 10] {
    let (namespace, name) = (stored.namespace().unwrap_or_default(), stored.name_any());
    let made = stored.creation_timestamp().map(|made| since(made.0, now)).unwrap_or_default();
    let Ok(object) = &stored.0 else {
        let dash = || "-".to_owned();
        return [namespace, name, "False".into(), "Unreadable".into(), dash(), dash(), dash(), dash(), dash(), made];
    };
    let (ready, reason) = match ready(object) {
        Some(Condition { status, reason, .. }) => (status.clone(), reason.clone()),
        None => ("Unknown".to_owned(), "NotSeenYet".to_owned()),
    };
    let workers = |state: Option<StageState>| state.map_or("-".to_owned(), |state| workers(&state));
    let [consumers, retry] = reported(object).map(workers);
    let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let status = object.status.clone().unwrap_or_default();
    let letters = number(status.dead_letters.map(|letters| letters.total));
    [namespace, name, ready, reason, number(status.lag), number(status.retrying), letters, consumers, retry, made]
}

/// What has to be said of the pipelines of a list, beyond their lines. `of_all` namespaces: a name alone is not enough.
fn notes(pipelines: &[Stored], of_all: bool) -> Vec<String> {
    let mut notes = vec![];
    let called = |stored: &Stored| match stored.namespace().filter(|_| of_all) {
        Some(namespace) => format!("{namespace}/{}", stored.name_any()),
        None => stored.name_any(),
    };
    for stored in pipelines {
        if let Err(unreadable) = &stored.0 {
            notes.push(format!(
                "{} cannot be read: {}; apply it anew",
                called(stored),
                one_line(&unreadable.error, LINE)
            ));
        }
    }
    let is_unseen = |stored: &&Stored| stored.0.as_ref().is_ok_and(|object| ready(object).is_none());
    let unseen: Vec<_> = pipelines.iter().filter(is_unseen).map(called).collect();
    if !unseen.is_empty() {
        notes.push(format!("The operator has not looked at {} yet. Is it running?", unseen.join(", ")));
        notes.push(format!("  {OPERATOR_PODS}"));
    }
    let mut objects = pipelines.iter().filter_map(|stored| stored.0.as_ref().ok());
    if let Some(object) = objects.find(|object| ready(object).is_some_and(|ready| ready.status != "True")) {
        let namespace = object.namespace().unwrap_or_default();
        notes.push(format!(
            "What is wrong says, for instance:\n  kubectl lazaret status -n {namespace} {}",
            object.name_any()
        ));
    }
    notes
}

/// Says all of one pipeline.
pub fn page(page: &Page, now: Timestamp) -> String {
    let object = &page.object;
    let stages = page.stages.clone().unwrap_or_else(|| reported(object));
    let mut lines = heading(object, now);
    section(&mut lines, "Conditions", conditions(object, now));
    section(&mut lines, "Records", records::records(object, now));
    section(&mut lines, "Topics", topics(object));
    let mut workers = workers_of(object, &stages);
    if page.stages.is_none() && !object.is_external() {
        workers.push("as last reported: you may not look at Deployments and pods here".to_owned());
    }
    section(&mut lines, "Workers", workers);
    section(&mut lines, "Groups", records::groups(object));
    section(&mut lines, "Rebalances", records::rebalances(object, now));
    match &page.events {
        Some(found) => section(&mut lines, "Events", events(found, now)),
        None => section(&mut lines, "Events", vec!["not shown: you may not look at events here".to_owned()]),
    }
    section(&mut lines, "What to do next", next::steps(object, &stages));
    text(&lines)
}

fn heading(object: &ErrorHandlingPipeline, now: Timestamp) -> Vec<String> {
    let name = format!("{} in {}", object.name_any(), object.namespace().unwrap_or_default());
    let mut lines = vec![];
    if object.metadata.deletion_timestamp.is_some() {
        lines.push(format!("{name}: is being deleted"));
    }
    match (ready(object), &object.status) {
        (Some(Condition { status, reason, message, last_transition_time, .. }), _) => {
            let word = if status == "True" { "ready" } else { "not ready" };
            lines.push(format!("{name}: {word} for {}, {reason}", since(last_transition_time.0, now)));
            lines.extend(message.lines().map(|line| format!("  {line}")));
        }
        (None, Some(status)) if status.observed_generation.is_some() => {
            lines.push(format!("{name}: the operator has not looked at its last change yet. Is it running?"));
            lines.push("  What follows is about the spec before that change.".to_owned());
        }
        (None, _) => lines.push(format!("{name}: the operator has not looked at it yet. Is it running?")),
    }
    lines
}

/// The conditions that are not as they should be. What the heading has said already is not said again.
fn conditions(object: &ErrorHandlingPipeline, now: Timestamp) -> Vec<String> {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let said = ready(object);
    let mut lines = vec![];
    for condition in conditions {
        let Condition { type_, status, reason, message, last_transition_time, .. } = condition;
        let is_bad = match type_.as_str() {
            WARNING => status == "True",
            // It says what the heading says.
            PROGRESSING => false,
            // The section on records says so.
            DEAD_LETTERS_PRESENT => false,
            NEW_ERROR_TYPE => status == "True",
            alarm if ALARMS.contains(&alarm) => status == "True",
            _ => status != "True",
        };
        if !is_bad || said.is_some_and(|said| said == condition) {
            continue;
        }
        lines.push(format!("{type_} is {status} for {}, {reason}", since(last_transition_time.0, now)));
        if said.is_none_or(|said| said.message != *message) {
            lines.extend(message.lines().map(|line| format!("  {line}")));
        }
    }
    lines
}

fn topics(object: &ErrorHandlingPipeline) -> Vec<String> {
    let topics: Vec<_> = object.status.iter().flat_map(|status| &status.topics).collect();
    if topics.is_empty() {
        return vec![];
    }
    let titles = ["NAME", "KAFKATOPIC", "READY"].map(str::to_owned).to_vec();
    let rows = topics.into_iter().map(|topic| {
        let ready = if topic.ready { "yes" } else { "no" };
        vec![topic.name.clone(), topic.kafka_topic.clone().unwrap_or_else(|| "-".to_owned()), ready.to_owned()]
    });
    columns(&std::iter::once(titles).chain(rows).collect::<Vec<_>>())
}

fn workers_of(object: &ErrorHandlingPipeline, stages: &[Option<StageState>; 2]) -> Vec<String> {
    if object.is_external() {
        return vec![];
    }
    let titles = ["STAGE", "DEPLOYMENT", "READY"].map(str::to_owned).to_vec();
    let row = |(stage, state): (Stage, &Option<StageState>)| {
        let ready = state.as_ref().map_or_else(|| "none yet".to_owned(), workers);
        vec![stage.to_string(), workers_name(&object.name_any(), stage), ready]
    };
    let rows = [Stage::Main, Stage::Retry].into_iter().zip(stages).map(row);
    let mut lines = columns(&std::iter::once(titles).chain(rows).collect::<Vec<_>>());
    let said = ready(object).map(|ready| ready.message.as_str());
    let troubles = stages.iter().flatten().filter_map(|state| state.trouble.as_ref());
    let news = troubles.filter(|(_, message)| Some(message.as_str()) != said);
    lines.extend(news.map(|(reason, message)| format!("{reason}: {}", one_line(message, 2 * LINE))));
    lines
}

fn events(found: &[Event], now: Timestamp) -> Vec<String> {
    let mut found: Vec<_> = found.iter().map(|event| (last_seen(event), event)).collect();
    found.sort_by_key(|(seen, _)| std::cmp::Reverse(*seen));
    let row = |(seen, event): &(Option<Timestamp>, &Event)| {
        let count = event.series.as_ref().and_then(|series| series.count).or(event.count).filter(|count| *count > 1);
        let count = count.map_or_else(String::new, |count| format!(" ({count} times)"));
        let note = one_line(event.message.as_deref().unwrap_or_default(), LINE);
        let reason = format!("{}{count}", event.reason.as_deref().unwrap_or_default());
        vec![
            seen.map(|seen| since(seen, now)).unwrap_or_default(),
            event.type_.clone().unwrap_or_default(),
            reason,
            note,
        ]
    };
    columns(&found.iter().take(EVENTS).map(row).collect::<Vec<_>>())
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let made = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    series.or(last).or(event.event_time.as_ref().map(|time| time.0)).or(made)
}

/// What the operator says of the pipeline as it is now; `None` when it has not looked yet.
fn ready(object: &ErrorHandlingPipeline) -> Option<&Condition> {
    let status = object.status.as_ref()?;
    let is_seen = status.observed_generation >= object.metadata.generation;
    find(status, READY).filter(|_| is_seen)
}

/// The workers, as the pipeline's status has them; `None` when there is no status, or no worker.
fn reported(object: &ErrorHandlingPipeline) -> [Option<StageState>; 2] {
    if object.is_external() {
        return [None, None];
    }
    let state = |stage, wanted: Option<i32>, status: &StageStatus| StageState {
        deployment: workers_name(&object.name_any(), stage),
        wanted: wanted.unwrap_or(status.replicas),
        replicas: status.replicas,
        ready: status.ready_replicas,
        trouble: None,
    };
    let status = object.status.as_ref();
    [
        status.map(|status| state(Stage::Main, object.spec.consumer.replicas, &status.consumer)),
        status.map(|status| state(Stage::Retry, object.spec.retry.replicas, &status.retry)),
    ]
}

fn workers(StageState { ready, wanted, .. }: &StageState) -> String {
    format!("{ready}/{wanted}")
}

fn since(then: Timestamp, now: Timestamp) -> String {
    age(now.as_second() - then.as_second())
}

fn section(lines: &mut Vec<String>, title: &str, content: Vec<String>) {
    if !content.is_empty() {
        lines.extend([String::new(), title.to_owned()]);
        lines.extend(content.into_iter().map(|line| format!("  {line}")));
    }
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests;
