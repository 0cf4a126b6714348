//! Where Kafka is.

use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where Kafka is. Set either `cluster` or `bootstrapServers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct Kafka {
    /// The name of a Strimzi `Kafka` object in the same namespace; the address is read from its status.
    /// Example: `my-cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub cluster: Option<String>,

    /// Which of the cluster's listeners to use, by its name or its type. Default: `plain`.
    #[serde(default = "plain")]
    #[schemars(length(min = 1, max = 64))]
    pub listener: String,

    /// Addresses of a Kafka that Strimzi does not run, separated by commas.
    /// Example: `broker-1:9092,broker-2:9092`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub bootstrap_servers: Option<String>,
}

fn plain() -> String {
    "plain".to_owned()
}

fn rules() -> [Rule; 1] {
    [Rule::new("has(self.cluster) != has(self.bootstrapServers)")
        .message("set exactly one of cluster (a Strimzi Kafka) and bootstrapServers (any other Kafka)")]
}
