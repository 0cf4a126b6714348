//! How many workers an autoscaler may choose, and by what.

use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Lets a HorizontalPodAutoscaler choose how many workers there are, by the records that are ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct Autoscaling {
    /// The fewest workers, 1 to 1000. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,

    /// The most workers, 1 to 1000. There are never more than the topic has partitions, as the others would have nothing to
    /// do; of a topic that this object does not manage you know how many it has.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,

    /// How many records may be ready for each worker before another one is added. Records that wait for their time do not
    /// count. Default: 1000.
    #[serde(default = "thousand")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub ready_records: i32,
}

const fn one() -> i32 {
    1
}

const fn thousand() -> i32 {
    1_000
}

fn rules() -> [Rule; 1] {
    [Rule::new("self.minReplicas <= self.maxReplicas")
        .message("must not be more than maxReplicas")
        .field_path(".minReplicas")]
}

/// Two that decide would be in each other's way.
pub(super) fn one_decides() -> Rule {
    Rule::new("!has(self.autoscaling) || !has(self.replicas)")
        .message("leave it out, or autoscaling: only one of them can say how many workers there are")
        .field_path(".replicas")
}
