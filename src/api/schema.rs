//! What the schemas of several types share.
//!
//! Nothing here knows a particular resource.

use kube::core::Rule;
use schemars::{Schema, SchemaGenerator, json_schema, transform::transform_subschemas};
use serde::Deserialize;
use serde_json::Value;

/// A string, or an integer that stands for its digits.
///
/// People write `retention.ms: 60000` as readily as `retention.ms: "60000"`; both mean the same.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum TextOrInteger {
    Integer(i64),
    Text(String),
}

impl From<TextOrInteger> for String {
    fn from(given: TextOrInteger) -> Self {
        match given {
            TextOrInteger::Integer(number) => number.to_string(),
            TextOrInteger::Text(text) => text,
        }
    }
}

/// Makes a schema Kubernetes' own: an optional field is one that may be left out, and integers have no unsigned
/// formats.
///
/// `Option` alone would give `nullable`, and the API server would store an explicit null, which a rule written with
/// `has()` takes for a value. Without `nullable` it drops a null as if the field had been left out.
pub(super) fn kubernetes(schema: &mut Schema) {
    transform_subschemas(&mut kubernetes, schema);
    let Some(schema) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(either)) = schema.get_mut("anyOf") {
        either.retain(|branch| branch["type"] != "null");
        if let [Value::Object(only)] = either.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            for (keyword, value) in only {
                schema.entry(keyword).or_insert(value);
            }
        }
    }
    if schema.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        schema.remove("format");
    }
}

/// The schema of an address that is called.
pub(super) fn url(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 2048,
        "x-kubernetes-validations": [
            Rule::new("self.matches('^https?://[^/]')")
                .message("must begin with http:// or https://, followed by a host"),
        ],
    })
}

/// Rules for a duration that must not be zero.
pub(super) fn longer_than_zero() -> [Rule; 1] {
    [Rule::new("duration(self) > duration('0s')").message("must be longer than 0s")]
}
