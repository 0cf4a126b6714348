//! When and how often a failed record is tried again.

use std::collections::BTreeMap;

use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::autoscaling::{Autoscaling, one_decides};
use super::{Adopt, RetryRule, Strategy, Template, topic};
use crate::api::{byte_size::ByteSize, duration::Duration, schema};

/// When and how often a failed record is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct Retry {
    /// The topic in which failed records wait for their next attempt. It is made when it does not exist.
    pub topic: RetryTopic,

    /// The consumer group that reads the retry topic. Default: the name of this object with `-retry-group` added.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    pub group_id: Option<String>,

    /// Where a failed record waits for its next attempt. `NonBlocking` (default): in the retry topic; the records behind it
    /// go on, also those of its key. `KeepOrder`: in the worker's memory, before the records that `ordering` puts behind
    /// it: those of its key, or all of its partition; the others go on. If the worker stops or gives up the partition
    /// meanwhile, whoever reads it next tries the record at once, and its attempts are counted anew. The retry topic and its
    /// workers are there in either mode: what went there before a change to `KeepOrder` is still processed from there.
    pub mode: RetryMode,

    /// How the wait grows from one attempt to the next. `Immediate`: no wait. `Fixed`: always `initialDelay`.
    /// `Exponential`: multiplied by `multiplier` each time. `ExponentialJitter` (default): the same, made longer or
    /// shorter at random by up to `jitterFactor`, so that records that failed together do not come back together.
    pub strategy: Strategy,

    /// How often a record is tried in all, the first time included: 1 to 100. Default: 5. After the last failure it
    /// goes to the dead letter topic.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: u32,

    /// The wait before the second attempt. Default: `1s`.
    pub initial_delay: Duration,

    /// The longest wait between two attempts; not shorter than `initialDelay`. Default: `5m`.
    pub max_delay: Duration,

    /// By how much each wait is longer than the one before: 1 or more. Default: 2.0.
    #[schemars(range(min = 1.0, max = 1000.0))]
    pub multiplier: f64,

    /// How far a wait may differ from the computed one, as a fraction: 0 to 1. Default: 0.2, that is 20 % either way.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter_factor: f64,

    /// The age at which a record is given up: its next failure sends it to the dead letter topic, even if attempts are
    /// left. Example: `1h`. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = schema::longer_than_zero()))]
    pub timeout: Option<Duration>,

    /// Quick attempts on the spot, before a record leaves its partition for the retry topic.
    pub in_place: InPlace,

    /// How many records of each partition of the retry topic may wait in a worker until they are due: 1000 to 10000000.
    /// Default: 100000. When more wait, the partition is paused, and one behind them that is due earlier starts late.
    #[schemars(range(min = 1_000, max = 10_000_000))]
    pub pending_records: u32,

    /// The memory that waiting records may take in a worker. Default: `64Mi`. Those that are due last are let go of and read
    /// again before they are due, so less memory costs more reading. Raise the memory of the pod with it.
    pub pending_bytes: ByteSize,

    /// How many workers read the retry topic. Default: not set; then there is one to begin with, and whoever scales the
    /// Deployment decides. Taken out again, the number stays until somebody scales.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,

    /// Lets an autoscaler choose how many workers read the retry topic. Default: not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// Changes to the workers' pods. May be left out.
    pub template: Template,

    /// Exceptions for some failures: the first rule whose `when` is true applies. Default: none.
    #[schemars(length(max = 64))]
    pub rules: Vec<RetryRule>,
}

/// The topic in which failed records wait for their next attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RetryTopic {
    /// The retry topic's name in Kafka. Default: the topic's name with `.retry` added.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "topic::name")]
    pub name: Option<String>,

    /// How many partitions the retry topic has, 1 to 10000. Default: 3. They can be added later, never taken away.
    #[schemars(schema_with = "topic::partitions")]
    pub partitions: i32,

    /// How many brokers hold a copy of each record, at least 1. Default: when the topic is created, as many as the main topic
    /// has; where that is not known, the cluster's own default. -1 stands for the default. The replicas of a topic that exists
    /// are never changed.
    #[schemars(schema_with = "topic::replicas")]
    pub replicas: i32,

    /// Other topic settings, by their names in Kafka. Example: `{min.insync.replicas: 2}`. Default: `max.message.bytes` is twice
    /// that of the main topic and 64 KiB more, so that every record fits with its retry headers. On a topic that exists Lazaret
    /// only raises it, and only where it manages the topic by a KafkaTopic and nobody else has set it there.
    #[serde(deserialize_with = "topic::read_config")]
    #[schemars(schema_with = "topic::config_without_compaction")]
    pub config: BTreeMap<String, String>,

    /// What to do about a topic that exists already and differs from what is described here. `IfEqual` (default): leave
    /// it alone and say what differs. `Force`: change it.
    pub adopt: Adopt,
}

/// Where a failed record waits for its next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryMode {
    /// In the retry topic; the records behind it go on.
    #[default]
    NonBlocking,
    /// In memory, before the records that follow it in order.
    KeepOrder,
}

/// Quick attempts on the spot, before a record leaves its partition for the retry topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct InPlace {
    /// How many quick attempts are made, 0 to 10. Default: 0, none. They count towards `maxAttempts`.
    #[schemars(range(min = 0, max = 10))]
    pub attempts: u32,

    /// The wait before each of them; the record's partition or key waits too. Default: `0s`.
    pub delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            topic: RetryTopic::default(),
            group_id: None,
            mode: RetryMode::default(),
            strategy: Strategy::default(),
            max_attempts: 5,
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(5 * 60),
            multiplier: 2.0,
            jitter_factor: 0.2,
            timeout: None,
            in_place: InPlace::default(),
            pending_records: 100_000,
            pending_bytes: ByteSize::from_kib(64 << 10),
            replicas: None,
            autoscaling: None,
            template: Template::default(),
            rules: Vec::new(),
        }
    }
}

impl Default for RetryTopic {
    fn default() -> Self {
        Self {
            name: None,
            partitions: 3,
            replicas: topic::cluster_default(),
            config: BTreeMap::new(),
            adopt: Adopt::default(),
        }
    }
}

fn rules() -> [Rule; 3] {
    [
        one_decides(),
        Rule::new("duration(self.maxDelay) >= duration(self.initialDelay)")
            .message("must not be shorter than initialDelay: raise maxDelay or lower initialDelay")
            .field_path(".maxDelay"),
        Rule::new(
            "self.rules.all(r, duration(has(r.maxDelay) ? r.maxDelay : self.maxDelay) \
             >= duration(has(r.initialDelay) ? r.initialDelay : self.initialDelay))",
        )
        .message(
            "a rule's maxDelay must not be shorter than its initialDelay; what a rule leaves out is taken from retry",
        )
        .field_path(".rules"),
    ]
}
