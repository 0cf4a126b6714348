//! How a topic that exists compares with the one that is asked for, and what topics for failed records take over from the
//! main topic.

use std::collections::BTreeMap;
use std::time::Duration;

use super::pipeline::TopicPlan;

/// A topic as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicShape {
    /// How many partitions it has, where that is known.
    pub partitions: Option<i32>,
    /// How many replicas each has, where that is known.
    pub replicas: Option<i32>,
    /// What is set on the topic itself.
    pub config: BTreeMap<String, String>,
    /// The `max.message.bytes` that apply to it. `None` where the brokers' default applies and is not known.
    pub max_message_bytes: Option<i32>,
}

/// The setting of a topic that limits the size of a batch of records, in bytes.
pub const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// The value of [`MAX_MESSAGE_BYTES`] where neither the topic nor the brokers are configured otherwise.
pub const KAFKAS_MAX_MESSAGE_BYTES: i32 = 1_048_588;

/// What a retry topic and a dead letter topic take beyond twice the main topic's limit: their headers and the rest of an
/// envelope.
const HEADROOM: i32 = 64 << 10;

/// What a retry topic and a dead letter topic take over from the main topic, where their own spec says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// The main topic's replicas, where that is known.
    pub replicas: Option<i32>,
    /// The main topic's `max.message.bytes`, where that is known.
    pub max_message_bytes: Option<i32>,
}

impl Inherited {
    /// What the main topic has: what its spec says, else what it has now.
    pub fn of(plan: &TopicPlan, found: Option<&TopicShape>) -> Self {
        let planned = Some(plan).filter(|plan| plan.manage);
        let replicas = planned.map(|plan| plan.replicas).filter(|replicas| *replicas > 0);
        Self {
            replicas: replicas.or(found.and_then(|found| found.replicas)),
            max_message_bytes: planned
                .and_then(|plan| max_message_bytes(&plan.config))
                .or(found.and_then(|found| found.max_message_bytes)),
        }
    }

    /// Completes the plan of a retry topic or a dead letter topic that is to be created.
    pub fn complete(self, plan: &mut TopicPlan) {
        if let Some(replicas) = self.replicas.filter(|_| plan.replicas <= 0) {
            set_replicas(plan, replicas);
        }
        if let Some(main) = self.max_message_bytes {
            plan.config.entry(MAX_MESSAGE_BYTES.to_owned()).or_insert_with(|| limit_for_failures(main).to_string());
        }
    }
}

/// The `max.message.bytes` of a topic for records that fail, where those of the main topic are `main`. An envelope escapes the
/// quotes in a value: JSON takes up to twice its size in it.
pub fn limit_for_failures(main: i32) -> i32 {
    main.saturating_mul(2).saturating_add(HEADROOM)
}

/// The `max.message.bytes` that a configuration sets.
pub fn max_message_bytes(config: &BTreeMap<String, String>) -> Option<i32> {
    config.get(MAX_MESSAGE_BYTES)?.parse().ok()
}

/// Sets the replicas of a topic for failed records.
pub fn set_replicas(plan: &mut TopicPlan, replicas: i32) {
    plan.replicas = replicas;
    keep_in_sync(&mut plan.config, replicas);
}

/// Where a topic has three replicas, a record is acknowledged once two have it: it then outlives the loss of a broker.
pub fn keep_in_sync(config: &mut BTreeMap<String, String>, replicas: i32) {
    if replicas >= 3 {
        config.entry("min.insync.replicas".to_owned()).or_insert_with(|| "2".to_owned());
    }
}

/// What a topic for failed records is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Records wait in it for their next attempt.
    Retry,
    /// Dead letters are kept in it.
    DeadLetters,
}

/// Says it, in a sentence, where a topic for failed records takes only smaller ones than the main topic does.
pub fn too_small(
    (name, purpose): (&str, Purpose),
    found: &TopicShape,
    (main, of_main): (&str, &TopicShape),
) -> Option<String> {
    let (limit, main_limit) = (found.max_message_bytes?, of_main.max_message_bytes?);
    let consequence = match purpose {
        Purpose::Retry => "a larger record that fails is not retried and becomes a dead letter",
        Purpose::DeadLetters => "the dead letter of a larger record is written without its value",
    };
    (limit < main_limit).then(|| {
        format!(
            "`{name}` has {MAX_MESSAGE_BYTES} {limit} and `{main}` has {main_limit}: {consequence}; set \
             {MAX_MESSAGE_BYTES} of `{name}` to {}",
            limit_for_failures(main_limit)
        )
    })
}

/// What Kafka does where a topic does not say so itself. Brokers may be configured otherwise, but for this setting that is
/// rare enough not to make a difference of it.
const DEFAULTS: [(&str, &str); 1] = [("cleanup.policy", "delete")];

/// Says what differs, each with both values; nothing when the topic is as asked for. What is not asked for may be
/// anything.
pub fn differences(plan: &TopicPlan, found: &TopicShape) -> Vec<String> {
    let mut differences = vec![];
    let mut number = |what, found: Option<i32>, wanted: i32| {
        if let Some(found) = found.filter(|found| *found != wanted) {
            differences.push(format!("{what} is {found}, asked for is {wanted}"));
        }
    };
    number("partitions", found.partitions, plan.partitions);
    if plan.replicas > 0 {
        number("replicas", found.replicas, plan.replicas);
    }
    for (name, wanted) in &plan.config {
        let default = DEFAULTS.iter().find(|(of, _)| of == name).map(|(_, value)| *value);
        match found.config.get(name).map(String::as_str).or(default) {
            Some(value) if value == wanted => {}
            Some(value) => differences.push(format!("{name} is {value}, asked for is {wanted}")),
            None => differences.push(format!("{name} is not set, asked for is {wanted}")),
        }
    }
    differences
}

/// What endangers the dead letters in a topic, in sentences: there may be none. `longest_delay` is that of the retry policy.
pub fn dangers(name: &str, found: &TopicShape, longest_delay: Duration, brokers: usize) -> Vec<String> {
    let mut dangers = vec![];
    if found.config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        dangers.push(format!(
            "`{name}` is compacted, which keeps one dead letter of each key: set cleanup.policy to delete"
        ));
    }
    let retention =
        found.config.get("retention.ms").and_then(|text| text.parse::<i64>().ok()).filter(|millis| *millis >= 0);
    if let Some(millis) =
        retention.filter(|millis| u128::try_from(*millis).is_ok_and(|kept| kept < longest_delay.as_millis()))
    {
        dangers.push(format!(
            "`{name}` keeps records for {millis} ms, which is less than a retry may wait ({longest_delay:?}): raise retention.ms"
        ));
    }
    if found.replicas == Some(1) && brokers > 1 {
        dangers.push(format!("`{name}` has one replica, on one of {brokers} brokers: raise replicas"));
    }
    dangers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> TopicPlan {
        TopicPlan {
            name: "orders.dlt".into(),
            partitions: 3,
            replicas: -1,
            config: [("cleanup.policy", "delete"), ("retention.ms", "1000")].map(|(k, v)| (k.into(), v.into())).into(),
            manage: true,
            force: false,
        }
    }

    fn shape(partitions: i32, config: &[(&str, &str)]) -> TopicShape {
        let config = config.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        TopicShape { partitions: Some(partitions), replicas: Some(1), config, max_message_bytes: None }
    }

    fn main(replicas: i32, config: &[(&str, &str)]) -> TopicPlan {
        let config = config.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        TopicPlan { name: "orders".into(), replicas, config, ..plan() }
    }

    fn existing_main() -> TopicShape {
        TopicShape { replicas: Some(5), max_message_bytes: Some(9_000), ..TopicShape::default() }
    }

    #[test]
    fn a_topic_that_is_as_asked_for_may_have_settings_of_its_own() {
        let found = shape(3, &[("retention.ms", "1000"), ("min.insync.replicas", "2")]);
        assert_eq!(differences(&plan(), &found), Vec::<String>::new());
    }

    #[test]
    fn dead_letters_are_in_danger_where_compaction_retention_or_a_lone_broker_may_take_them() {
        let dangers = |config: &[(&str, &str)], delay, brokers| {
            dangers("orders.dlt", &shape(3, config), Duration::from_secs(delay), brokers).len()
        };
        assert_eq!(dangers(&[("cleanup.policy", "delete"), ("retention.ms", "60000")], 60, 1), 0);
        assert_eq!(dangers(&[("retention.ms", "-1")], 60, 1), 0, "kept for ever");
        assert_eq!(dangers(&[("cleanup.policy", "compact,delete")], 60, 1), 1);
        assert_eq!(dangers(&[("retention.ms", "59999")], 60, 1), 1);
        assert_eq!(dangers(&[], 60, 3), 1, "one replica on one of three brokers");
    }

    #[test]
    fn every_difference_is_named_with_both_values() {
        let found = shape(6, &[("cleanup.policy", "compact")]);
        let named = differences(&TopicPlan { replicas: 3, ..plan() }, &found);
        assert_eq!(
            named,
            [
                "partitions is 6, asked for is 3",
                "replicas is 1, asked for is 3",
                "cleanup.policy is compact, asked for is delete",
                "retention.ms is not set, asked for is 1000"
            ]
        );
    }

    #[test]
    fn what_the_spec_says_of_the_main_topic_comes_before_what_it_has() {
        let of = |plan: &TopicPlan| {
            let Inherited { replicas, max_message_bytes } = Inherited::of(plan, Some(&existing_main()));
            (replicas.unwrap(), max_message_bytes.unwrap())
        };
        let named = main(3, &[(MAX_MESSAGE_BYTES, "3000000")]);
        assert_eq!(of(&named), (3, 3_000_000));
        assert_eq!(of(&main(-1, &[])), (5, 9_000));
        assert_eq!(
            of(&TopicPlan { manage: false, ..named }),
            (5, 9_000),
            "the spec says nothing of a topic that it only reads"
        );
        assert_eq!(Inherited::of(&main(-1, &[]), None), Inherited::default());
    }

    #[test]
    fn a_topic_for_failed_records_takes_twice_the_size_and_headers_and_has_the_replicas_of_the_main_topic() {
        let mut created = plan();
        Inherited { replicas: Some(3), max_message_bytes: Some(3_000_000) }.complete(&mut created);
        assert_eq!((created.replicas, &*created.config[MAX_MESSAGE_BYTES]), (3, "6065536"));
        assert_eq!(created.config["min.insync.replicas"], "2");
        assert_eq!(limit_for_failures(2_000_000_000), i32::MAX, "the setting is an int");
    }

    #[test]
    fn what_the_spec_says_of_a_topic_for_failed_records_is_not_taken_from_the_main_topic() {
        let config = [(MAX_MESSAGE_BYTES, "20000"), ("min.insync.replicas", "1")];
        let mut created = plan();
        created.config.extend(config.map(|(name, value)| (name.to_owned(), value.to_owned())));
        created.replicas = 1;
        let before = created.clone();
        Inherited { replicas: Some(3), max_message_bytes: Some(3_000_000) }.complete(&mut created);
        assert_eq!(created, before);
    }

    #[test]
    fn where_nothing_is_known_of_the_main_topic_the_brokers_defaults_apply() {
        let mut created = plan();
        Inherited::default().complete(&mut created);
        assert_eq!(created, plan());
    }

    #[test]
    fn a_topic_that_takes_smaller_records_than_the_main_topic_is_named_with_both_values_and_what_to_do() {
        let said = |name, purpose, limit| {
            let found = TopicShape { max_message_bytes: limit, ..TopicShape::default() };
            too_small((name, purpose), &found, ("orders", &existing_main()))
        };
        insta::assert_snapshot!(said("orders.retry", Purpose::Retry, Some(8_999)).unwrap(), @"`orders.retry` has max.message.bytes 8999 and `orders` has 9000: a larger record that fails is not retried and becomes a dead letter; set max.message.bytes of `orders.retry` to 83536");
        insta::assert_snapshot!(said("orders.dlt", Purpose::DeadLetters, Some(8_999)).unwrap(), @"`orders.dlt` has max.message.bytes 8999 and `orders` has 9000: the dead letter of a larger record is written without its value; set max.message.bytes of `orders.dlt` to 83536");
        assert_eq!(said("orders.dlt", Purpose::DeadLetters, Some(9_000)), None);
        assert_eq!(said("orders.dlt", Purpose::DeadLetters, None), None, "it is not known");
    }

    #[test]
    fn what_is_not_known_does_not_differ() {
        let found = TopicShape { config: plan().config, ..TopicShape::default() };
        assert!(differences(&plan(), &found).is_empty());
    }
}
