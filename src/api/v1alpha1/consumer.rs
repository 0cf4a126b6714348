//! How records are read from the topic.

use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Template;
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

    /// After how long without a sign of life a worker's partitions are given to another one: 6s to 30m, the bounds that
    /// brokers have unless they are configured otherwise. Default: `45s`.
    #[schemars(extend("x-kubernetes-validations" = within_the_brokers_bounds()))]
    pub session_timeout: Duration,

    /// How long a worker may finish the records in hand when it stops or gives up a partition. Default: `20s`. Must be
    /// shorter than `sessionTimeout`.
    pub drain_timeout: Duration,

    /// How many workers read the topic; `kubectl scale ehp/NAME` sets it too. Default: not set; then there is one to begin
    /// with, and whoever scales the Deployment decides: you, or an autoscaler. Taken out again, the number stays until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,

    /// Changes to the workers' pods. May be left out.
    pub template: Template,
}

impl Default for Consumer {
    fn default() -> Self {
        Self {
            group_id: None,
            session_timeout: Duration::from_secs(45),
            drain_timeout: Duration::from_secs(20),
            replicas: None,
            template: Template::default(),
        }
    }
}

/// A broker refuses other values, and the worker would wait for its partitions for ever.
fn within_the_brokers_bounds() -> [Rule; 1] {
    [Rule::new("duration(self) >= duration('6s') && duration(self) <= duration('30m')").message("must be 6s to 30m")]
}

fn rules() -> [Rule; 1] {
    [Rule::new("duration(self.drainTimeout) < duration(self.sessionTimeout)")
        .message(
            "must be shorter than sessionTimeout: otherwise Kafka gives the partitions away before they are drained",
        )
        .field_path(".drainTimeout")]
}
