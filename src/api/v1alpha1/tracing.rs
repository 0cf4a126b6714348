//! Where spans of attempts are sent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::schema;

/// Sends an OpenTelemetry span of each attempt at a record.
///
/// The first attempt goes on with the trace that the record's `traceparent` header names. A retry begins a trace of its own,
/// with a link to the first attempt. The processor gets the span as `traceparent`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// A collector's endpoint for OTLP over HTTP (`http/protobuf`), to which `/v1/traces` is added. Example:
    /// `http://otel-collector.observability.svc:4318`.
    #[schemars(schema_with = "schema::url")]
    pub endpoint: String,

    /// The share of the records whose attempts are sent, 0 to 1. Default: 1, all of them. It is for records that come without
    /// a `traceparent`; of the others those are sent whose producer sent its own span. Either all attempts at a record are
    /// sent or none.
    #[serde(default = "all")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sampling_ratio: f64,
}

const fn all() -> f64 {
    1.0
}
