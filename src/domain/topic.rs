//! How a topic that exists compares with the one that is asked for.

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
        TopicShape { partitions: Some(partitions), replicas: Some(1), config }
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
    fn what_is_not_known_does_not_differ() {
        let found = TopicShape { config: plan().config, ..TopicShape::default() };
        assert!(differences(&plan(), &found).is_empty());
    }
}
