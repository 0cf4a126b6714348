//! Says what the operator would do about a pipeline. Pure: it is handed what was read, and prints YAML in whose comments
//! it is said what is new, what changes and what stays.

pub mod read;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;

use super::diff::{Change, changes, given_up};
use crate::domain::pipeline::TopicPlan;
use crate::domain::topic::differences;
use crate::operator::dereference::{Found, TopicFound};
use crate::operator::error::Error;
use crate::operator::names;
use crate::operator::release::Release;
use crate::operator::validate::{TopicStep, ValidatedPipeline, warning};

/// What the operator would do about a pipeline.
pub struct Plan {
    /// The pipeline, judged by the operator's own rules.
    pub validated: ValidatedPipeline,
    /// What it refers to.
    pub found: Found,
    /// Whether it is in the cluster; else only in a file.
    pub is_there: bool,
    /// Whether all pipelines were seen that may stand in its way; not all may be looked at.
    pub all_seen: bool,
    /// The image of the workers, where there are any.
    pub image: Option<String>,
    /// Everything that would be applied, in this order.
    pub objects: Vec<Planned>,
    /// What would be deleted.
    pub unwanted: Vec<DynamicObject>,
    /// The KafkaTopics that would be released.
    pub released: Vec<Release>,
}

/// An object that would be applied.
pub struct Planned {
    /// As it would be applied.
    pub wanted: DynamicObject,
    /// As it is.
    pub live: Option<DynamicObject>,
    /// Whether the one that is there is somebody else's, which is never taken.
    pub is_taken: bool,
    /// Settings of the topic in Kafka that would be kept.
    pub carried_over: Vec<String>,
}

impl Planned {
    fn kind(&self) -> &str {
        self.wanted.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default()
    }

    /// The fields that would change.
    fn changes(&self) -> Vec<Change> {
        let Some(live) = &self.live else { return vec![] };
        let (wanted, live) = (value(&self.wanted), value(live));
        let mut found = changes(&wanted, &live);
        for change in given_up(&wanted, &live) {
            // A number of workers that the spec no longer names stays until somebody scales.
            let stays = self.kind() == "Deployment" && change.path == "spec.replicas";
            if !stays && found.iter().all(|known| known.path != change.path) {
                found.push(change);
            }
        }
        found
    }

    /// What would become of it, and how.
    fn said(&self) -> Vec<String> {
        let name = format!("{} `{}`", self.kind(), self.wanted.name_any());
        if self.is_taken {
            let taken = Error::NameTaken { kind: self.kind().to_owned(), name: self.wanted.name_any() };
            return vec![format!("{taken}. The operator would go no further.")];
        }
        let changes = self.changes();
        let mut lines = vec![match (&self.live, changes.is_empty()) {
            (None, _) => format!("{name} would be created"),
            (Some(_), true) => format!("{name} would stay as it is"),
            (Some(_), false) => format!("{name} would be changed:"),
        }];
        lines.extend(changes.iter().flat_map(Change::lines).map(|line| format!("  {line}")));
        if !self.carried_over.is_empty() {
            lines.push(format!("  settings that the topic has already are kept: {}", self.carried_over.join(", ")));
        }
        lines
    }
}

/// Says it all.
pub fn explain(plan: &Plan) -> String {
    let mut text = comments(&heading(plan));
    for planned in &plan.objects {
        text.push_str("---\n");
        text.push_str(&comments(&planned.said()));
        text.push_str(&yaml(&planned.wanted));
    }
    text
}

fn heading(plan: &Plan) -> Vec<String> {
    let Plan { validated, found, .. } = plan;
    let object = &validated.object;
    let mut lines = vec![format!(
        "Pipeline `{}` in `{}`, as the operator would apply it",
        object.name_any(),
        object.namespace().unwrap_or_default()
    )];
    if object.metadata.deletion_timestamp.is_some() {
        lines.push("It is being deleted: the operator leaves everything as it is".to_owned());
    }
    if !plan.is_there {
        lines.push("It is not in the cluster yet: whose the objects are (ownerReferences) is left out".to_owned());
    }
    if !plan.all_seen {
        lines.push(
            "Pipelines in other namespaces were not looked at: whether one stands in its way is not known".to_owned(),
        );
    }
    lines.push(format!("Kafka: {}", validated.bootstrap_servers));
    lines.extend(plan.image.iter().map(|image| format!("image of the workers: {image}")));
    lines.extend(validated.topics.iter().map(|(topic, step)| about_topic(topic, step, found)));
    lines.extend(warning(found).map(|(_, message)| format!("warning: {message}")));
    lines.extend(waiting(plan));
    lines.push(counts(plan));
    lines.extend(plan.unwanted.iter().map(|object| {
        let kind = object.types.as_ref().map_or("object", |types| &types.kind);
        format!("{kind} `{}` would be deleted: nothing asks for it any more", object.name_any())
    }));
    lines.extend(plan.released.iter().map(|Release { name, is_managed, .. }| match is_managed {
        true => format!("KafkaTopic `{name}` would no longer go with the pipeline"),
        false => format!(
            "KafkaTopic `{name}` would be let go, and stay as it is: the pipeline no longer names or manages it"
        ),
    }));
    lines
}

fn counts(plan: &Plan) -> String {
    let (taken, ours): (Vec<_>, Vec<_>) = plan.objects.iter().partition(|planned| planned.is_taken);
    let (new, there): (Vec<_>, Vec<_>) = ours.into_iter().partition(|planned| planned.live.is_none());
    let changed = there.iter().filter(|planned| !planned.changes().is_empty()).count();
    let (new, left) = (new.len(), there.len() - changed);
    let taken = if taken.is_empty() { String::new() } else { format!(", {} in the way", taken.len()) };
    format!("objects: {new} to create, {changed} to change, {left} to leave{taken}")
}

/// What would become of a topic.
fn about_topic(topic: &TopicPlan, step: &TopicStep, found: &Found) -> String {
    let name = &topic.name;
    let found = found.topics.get(&**name);
    if let Some(TopicFound::Unknown(_, error)) = found {
        return format!(
            "topic `{name}`: whether it exists cannot be seen from here, but maybe by the operator: {error}"
        );
    }
    match step {
        TopicStep::Apply { .. } => format!("topic `{name}`: by the KafkaTopic `{}` below", names::kafka_topic(name)),
        TopicStep::Create => {
            let replicas = if topic.replicas > 0 { topic.replicas.to_string() } else { "the default".to_owned() };
            let config: Vec<_> = topic.config.iter().map(|(name, value)| format!(", {name}={value}")).collect();
            format!(
                "topic `{name}`: would be created in Kafka: partitions={}, replicas={replicas}{}",
                topic.partitions,
                config.concat()
            )
        }
        TopicStep::Alter(shape) => {
            format!("topic `{name}`: would be changed in Kafka: {}", differences(topic, shape).join("; "))
        }
        TopicStep::Leave if !topic.manage => format!("topic `{name}`: is not managed, and stays as it is"),
        TopicStep::Leave => format!("topic `{name}`: is as asked for, and stays as it is"),
        TopicStep::Refuse { reason, message } => format!("topic `{name}`: {reason}: {message}"),
    }
}

/// Workers that run are kept as asked for; new ones wait for the topics.
fn waiting(plan: &Plan) -> Option<String> {
    let is_new = |planned: &Planned| planned.live.is_none();
    let new_workers = plan.objects.iter().any(|planned| planned.kind() == "Deployment" && is_new(planned));
    let new_topics = plan.objects.iter().any(|planned| planned.kind() == "KafkaTopic" && is_new(planned));
    let is_refused = |step: &TopicStep| matches!(step, TopicStep::Refuse { .. });
    let refused = plan.validated.topics.iter().any(|(_, step)| is_refused(step));
    (new_workers && (refused || new_topics)).then(|| {
        "All but the topics would wait until every topic is ready: workers without topics would only complain"
            .to_owned()
    })
}

fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

fn yaml(object: &DynamicObject) -> String {
    let text = serde_saphyr::to_string(&value(object)).unwrap_or_default();
    format!("{}\n", text.trim_end())
}

fn comments(lines: &[String]) -> String {
    lines.iter().flat_map(|line| line.lines()).map(|line| format!("# {line}\n")).collect()
}
