//! The two HTTP endpoints that write and that break things: both are off unless asked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::byte_size::ByteSize;

/// An HTTP endpoint that writes records to the topic: `POST /api/v1/<topic>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Ingress {
    /// Whether workers accept records over HTTP. Default: `false`. Anyone who can reach a worker can then write.
    pub enabled: bool,

    /// A CEL expression over `value` (the posted JSON) that gives the record's key. Example: `value.orderId`. Empty
    /// (default): records have no key. At most 2,048 bytes.
    #[schemars(length(max = 2048))]
    pub key: String,

    /// The largest body that is accepted. Default: `1Mi`.
    pub max_bytes: ByteSize,

    /// The port of every node at which the workers' HTTP API can be reached from outside of the cluster. Default: none. A
    /// worker of the main stage answers; its `/api/v1/stats` are those of all workers of both stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub node_port: Option<i32>,
}

/// An HTTP endpoint that makes the processor fail on purpose: for demonstrations and drills, not for production.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct FaultInjection {
    /// Whether `POST /api/v1/config/simulate-transient-error?enabled=true` is served. Default: `false`. It reaches all workers
    /// of both stages.
    pub enabled: bool,
}

impl Default for Ingress {
    fn default() -> Self {
        Self { enabled: false, key: String::new(), max_bytes: ByteSize::from_kib(1024), node_port: None }
    }
}
