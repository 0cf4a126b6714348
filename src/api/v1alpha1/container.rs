//! The processor that runs beside each worker, in the same pod.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Probe, ResourceRequirements};
use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::api::{duration::Duration, schema};

/// An image that runs beside each worker and is called with each record over HTTP, within the pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerProcessor {
    /// The image. Example: `registry.example/orders-service:1.4`.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,

    /// The port that it listens on, 1 to 65535. Default: 8080.
    #[serde(default = "http_port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,

    /// The path that is called with `POST`; the record's value is the body. Default: `/`.
    #[serde(default = "root")]
    #[schemars(schema_with = "path")]
    pub path: String,

    /// How long to wait for the answer. A call that takes longer has failed and is tried again. Default: `30s`.
    #[serde(default = "half_a_minute")]
    #[schemars(extend("x-kubernetes-validations" = schema::longer_than_zero()))]
    pub timeout: Duration,

    /// What to run instead of the image's entry point. Default: the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,

    /// Arguments. Default: the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,

    /// Environment variables. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,

    /// ConfigMaps and Secrets in the same namespace whose entries become environment variables. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,

    /// What the container asks for and may use. Default: nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// When it has started; the worker begins after that. Default: when its port accepts a connection, up to five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,

    /// When it has to be restarted. Default: never, unless it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,

    /// When the pod counts as ready. Records are read all the same; calls that fail are tried again. Default: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
}

const fn http_port() -> i32 {
    8080
}

fn root() -> String {
    "/".to_owned()
}

const fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

fn path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 1024,
        "x-kubernetes-validations": [
            Rule::new("self.matches('^/[^ ]*$')").message("must begin with a / and have no blank"),
        ],
    })
}
