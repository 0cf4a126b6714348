//! The topic that is processed, and what the three kinds of topic have in common.

use std::collections::BTreeMap;

use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::api::schema::TextOrInteger;

/// The topic whose records are processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Topic {
    /// The topic's name in Kafka. Example: `orders`.
    #[schemars(schema_with = "name")]
    pub name: String,

    /// How many partitions the topic has, 1 (default) to 10000. They can be added later, never taken away.
    #[serde(default = "one")]
    #[schemars(schema_with = "partitions")]
    pub partitions: i32,

    /// How many brokers hold a copy of each record, at least 1; -1 (default) takes the cluster's own default.
    #[serde(default = "cluster_default")]
    #[schemars(schema_with = "replicas")]
    pub replicas: i32,

    /// Other topic settings, by their names in Kafka. Example: `{min.insync.replicas: 2}`. Default: none.
    #[serde(default, deserialize_with = "read_config")]
    #[schemars(schema_with = "config")]
    pub config: BTreeMap<String, String>,

    /// Whether Lazaret makes the topic and keeps it as it is described here. Default: `true`. Set `false` for a topic that
    /// somebody else owns: it is then only read.
    #[serde(default = "yes")]
    pub manage: bool,

    /// What to do about a topic that exists already and differs from what is described here. `IfEqual` (default): leave
    /// it alone and say what differs. `Force`: change it. On a Kafka that Strimzi does not run nothing says whose a topic is:
    /// every change to one there takes `Force`.
    #[serde(default)]
    pub adopt: Adopt,
}

/// What to do about a topic that exists already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Adopt {
    /// Take it over when it is as asked for, else say what differs.
    #[default]
    IfEqual,
    /// Take it over and change what differs.
    Force,
}

const fn yes() -> bool {
    true
}

/// The number of replicas that stands for the default: of a main topic the cluster's own.
pub(super) const fn cluster_default() -> i32 {
    -1
}

const fn one() -> i32 {
    1
}

/// Describes a topic's name: what Kafka accepts.
pub(super) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 249,
        "x-kubernetes-validations": [
            Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'")
                .message("must be a topic name: only letters, digits, '.', '_' and '-', and neither '.' nor '..'"),
        ],
    })
}

/// Describes a number of partitions: Kafka cannot take one away. It knows no highest number; this one is far beyond what a
/// topic can use, and keeps a slip of the finger from a cluster.
pub(super) fn partitions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "integer",
        "format": "int32",
        "minimum": 1,
        "maximum": 10_000,
        "x-kubernetes-validations": [
            Rule::new("self >= oldSelf")
                .message("partitions cannot be lowered: Kafka keeps them for the life of a topic"),
        ],
    })
}

/// Describes a number of replicas; Kafka counts them in 16 bits.
pub(super) fn replicas(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "integer",
        "format": "int32",
        "minimum": -1,
        "maximum": 32767,
        "x-kubernetes-validations": [
            Rule::new("self != 0").message("must be at least 1, or -1 for the default"),
        ],
    })
}

/// Describes topic settings.
pub(super) fn config(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 100,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "maxLength": 4096},
    })
}

/// Describes the settings of a topic that holds each record until its time is over.
///
/// Compaction would keep one record a key: failed records of the same key would be lost.
pub(super) fn config_without_compaction(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = config(generator);
    schema.insert(
        "x-kubernetes-validations".into(),
        serde_json::json!([Rule::new("!('cleanup.policy' in self) || self['cleanup.policy'] == 'delete'")
            .message("cleanup.policy must be delete: compaction would lose failed records that share a key"),]),
    );
    schema
}

/// Reads topic settings; numbers need no quotes.
pub(super) fn read_config<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let settings = BTreeMap::<String, TextOrInteger>::deserialize(deserializer)?;
    Ok(settings.into_iter().map(|(name, value)| (name, value.into())).collect())
}
