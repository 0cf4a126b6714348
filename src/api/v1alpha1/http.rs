//! The processor that calls a service over HTTP.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::api::{duration::Duration, schema};

/// A service that is called with each record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpProcessor {
    /// The address that is called. Example: `http://orders-service.shop.svc:8080/orders`.
    #[schemars(schema_with = "schema::url")]
    pub url: String,

    /// The method of the call: `POST` (default), `PUT` or `PATCH`. The record's value is the body.
    #[serde(default)]
    pub method: HttpMethod,

    /// How long to wait for the answer. A call that takes longer has failed and is tried again. Default: `30s`.
    #[serde(default = "half_a_minute")]
    #[schemars(extend("x-kubernetes-validations" = schema::longer_than_zero()))]
    pub timeout: Duration,

    /// Headers that are sent with each call. Example: `{X-Team: shop}`. Default: none. Not a place for secrets:
    /// everyone who may read this object can see them.
    #[serde(default)]
    #[schemars(schema_with = "headers")]
    pub headers: BTreeMap<String, String>,
}

/// The methods that carry a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// Hand the record over.
    #[default]
    Post,
    /// Store the record.
    Put,
    /// Change something by the record.
    Patch,
}

const fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

fn headers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}
