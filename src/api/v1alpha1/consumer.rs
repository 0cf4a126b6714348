//! How records are read from the topic.

use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Template;
use super::autoscaling::{Autoscaling, one_decides};
use crate::api::duration::Duration;

/// How records are read from the topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct Consumer {
    /// The consumer group. Default: the name of this object with `-consumer-group` added.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    pub group_id: Option<String>,

    /// How the workers agree on who reads which partition. `Classic` (default): among themselves, by `assignor`. `Consumer`:
    /// the broker decides (KIP-848, Kafka 4.0 or newer); it then also has the session timeout, by its own settings. Before
    /// you change it back and forth, see that the brokers have `group.consumer.migration.policy=bidirectional`, their
    /// default.
    pub group_protocol: GroupProtocol,

    /// How partitions are dealt out. `CooperativeSticky` (default): evenly, and only those move that must. `Range`: blocks of
    /// neighbours. `RoundRobin`: one by one in turn. With the last two every worker stops at each rebalance. All workers of a
    /// group need the same; before you change it, scale them to 0.
    pub assignor: Assignor,

    /// After how long without a sign of life a worker's partitions are given to another one: 6s to 30m, the bounds that
    /// brokers have unless they are configured otherwise. Default: `45s`.
    #[schemars(extend("x-kubernetes-validations" = within_the_brokers_bounds()))]
    pub session_timeout: Duration,

    /// After how long without asking for records a worker's partitions are given to another one: 6s to 24h, never less
    /// than `sessionTimeout`. Default: `5m`. A worker asks however slow its processor is, so this only ever catches a
    /// process that hangs.
    #[schemars(extend("x-kubernetes-validations" = poll_bounds()))]
    pub max_poll_interval: Duration,

    /// Whether a worker that is restarted in place, within `sessionTimeout`, gets its partitions back without a rebalance.
    /// Default: `false`. When `true`, a worker that goes for good is only missed after `sessionTimeout`.
    pub static_membership: bool,

    /// How long a worker may finish the records in hand when it stops or gives up a partition. Default: `20s`. Must be
    /// shorter than `sessionTimeout`.
    pub drain_timeout: Duration,

    /// How many workers read the topic; `kubectl scale ehp/NAME` sets it too. Default: not set; then there is one to begin
    /// with, and whoever scales the Deployment decides: you, or an autoscaler. Taken out again, the number stays until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,

    /// Lets an autoscaler choose how many workers read the topic. Default: not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// Changes to the workers' pods. May be left out.
    pub template: Template,
}

/// How the workers of a group agree on who reads which partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GroupProtocol {
    /// One of them decides for all.
    #[default]
    Classic,
    /// The broker decides (KIP-848).
    Consumer,
}

/// How partitions are dealt out among the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Assignor {
    /// Evenly, and only those move that must.
    #[default]
    CooperativeSticky,
    /// In blocks of neighbours.
    Range,
    /// One by one in turn.
    RoundRobin,
}

impl Default for Consumer {
    fn default() -> Self {
        Self {
            group_id: None,
            group_protocol: GroupProtocol::default(),
            assignor: Assignor::default(),
            session_timeout: Duration::from_secs(45),
            max_poll_interval: Duration::from_secs(300),
            static_membership: false,
            drain_timeout: Duration::from_secs(20),
            replicas: None,
            autoscaling: None,
            template: Template::default(),
        }
    }
}

/// A broker refuses other values, and the worker would wait for its partitions for ever.
fn within_the_brokers_bounds() -> [Rule; 1] {
    [Rule::new("duration(self) >= duration('6s') && duration(self) <= duration('30m')").message("must be 6s to 30m")]
}

/// librdkafka takes no more than a day.
fn poll_bounds() -> [Rule; 1] {
    [Rule::new("duration(self) >= duration('6s') && duration(self) <= duration('24h')").message("must be 6s to 24h")]
}

fn rules() -> [Rule; 3] {
    [
        one_decides(),
        Rule::new("duration(self.drainTimeout) < duration(self.sessionTimeout)")
            .message(
                "must be shorter than sessionTimeout: otherwise Kafka gives the partitions away before they are drained",
            )
            .field_path(".drainTimeout"),
        Rule::new("!self.staticMembership || self.groupProtocol == 'Classic'")
            .message("takes groupProtocol: Classic: with the other one a worker that crashed is refused until its session ends")
            .field_path(".staticMembership"),
    ]
}
