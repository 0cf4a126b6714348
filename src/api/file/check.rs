//! Holds a value against a structural schema, as the API server does, and collects all that is wrong.
//!
//! Knows the keywords that the project's own CRDs use; a test fails when a schema uses another one, so that nothing is
//! passed over in silence. CEL rules are run elsewhere.

use regex::Regex;
use serde_json::{Map, Value};

use super::{document::field_path, fault::Fault};

/// Returns the path and the fault of everything in a value that its schema does not allow.
///
/// A null counts as a field that was left out, since no field of ours is nullable.
pub(super) fn check(schema: &Value, value: &Value) -> Vec<(String, Fault)> {
    let mut found = Vec::new();
    visit(schema, value, "", &mut found);
    found
}

/// Drops the fields that are null, as the API server does before it stores an object.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        scalar => scalar,
    }
}

fn visit(schema: &Value, value: &Value, path: &str, found: &mut Vec<(String, Fault)>) {
    found.extend(fault(schema, value).map(|fault| (path.to_owned(), fault)));
    match value {
        Value::Object(fields) => visit_fields(schema, fields, path, found),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                visit(&schema["items"], item, &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

fn visit_fields(schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Vec<(String, Fault)>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if fields.get(name).is_none_or(Value::is_null) {
            found.push((field_path(path, name), Fault::Missing));
        }
    }
    let known = schema["properties"].as_object();
    for (name, value) in fields {
        let path = field_path(path, name);
        match known.and_then(|known| known.get(name)).or_else(|| schema.get("additionalProperties")) {
            Some(_) if value.is_null() => {}
            Some(field) => visit(field, value, &path, found),
            None => {
                found.extend(known.map(|known| (path, Fault::UnknownField { nearest: nearest(name, known.keys()) })))
            }
        }
    }
}

/// Returns what is wrong with a value itself, whatever it contains.
fn fault(schema: &Value, value: &Value) -> Option<Fault> {
    wrong_type(schema, value)
        .or_else(|| other_choice(schema, value))
        .or_else(|| wrong_form(schema, value))
        .or_else(|| out_of_bounds(schema, value))
}

fn wrong_type(schema: &Value, value: &Value) -> Option<Fault> {
    let is_integer = value.is_i64() || value.is_u64();
    let (fits, expected) = match schema["type"].as_str() {
        Some("object") => (value.is_object(), "an object with fields"),
        Some("array") => (value.is_array(), "a list"),
        Some("string") => (value.is_string(), "a string"),
        Some("boolean") => (value.is_boolean(), "true or false"),
        Some("integer") => (is_integer, "a whole number"),
        Some("number") => (value.is_number(), "a number"),
        _ if schema["x-kubernetes-int-or-string"] == true => {
            (is_integer || value.is_string(), "a whole number or a string")
        }
        _ => (true, "anything"),
    };
    (!fits).then(|| Fault::WrongType { expected, given: value.clone() })
}

fn other_choice(schema: &Value, value: &Value) -> Option<Fault> {
    let allowed = schema["enum"].as_array()?;
    (!allowed.contains(value)).then(|| Fault::OtherChoice { allowed: allowed.clone(), given: value.clone() })
}

fn wrong_form(schema: &Value, value: &Value) -> Option<Fault> {
    let (pattern, text) = (schema["pattern"].as_str()?, value.as_str()?);
    let is_match = Regex::new(pattern).expect("the patterns of a CRD are regular expressions").is_match(text);
    let example = schema["example"].as_str().unwrap_or(pattern);
    (!is_match).then(|| Fault::WrongForm { given: text.to_owned(), example: example.to_owned() })
}

fn out_of_bounds(schema: &Value, value: &Value) -> Option<Fault> {
    let (given, verb, unit, lower, upper) = match value {
        Value::Number(number) => (number.as_f64()?, "be", "", "minimum", "maximum"),
        Value::String(text) => (text.chars().count() as f64, "have", " characters", "minLength", "maxLength"),
        Value::Array(items) => (items.len() as f64, "have", " items", "minItems", "maxItems"),
        Value::Object(fields) => (fields.len() as f64, "have", " entries", "minProperties", "maxProperties"),
        Value::Null | Value::Bool(_) => return None,
    };
    let too_low = schema[lower].as_f64().filter(|limit| given < *limit).map(|limit| ("at least", limit));
    let too_high = schema[upper].as_f64().filter(|limit| given > *limit).map(|limit| ("at most", limit));
    let (bound, limit) = too_low.or(too_high)?;
    let is_blank = verb == "have" && given == 0.0;
    Some(if is_blank { Fault::Blank } else { Fault::OutOfBounds { verb, bound, limit, unit, given } })
}

/// Finds the name that someone probably meant: one that a few letters, or only their case, set apart.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    known
        .map(|candidate| (strsim::osa_distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::SCHEMA;
    use super::*;

    /// The keywords that are checked here, those whose rules run elsewhere, and those that only describe.
    const KNOWN: [&str; 26] = [
        "type",
        "properties",
        "additionalProperties",
        "items",
        "required",
        "enum",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "nullable",
        "x-kubernetes-int-or-string",
        "x-kubernetes-validations",
        "default",
        "description",
        "example",
        "format",
        "title",
        "$schema",
        // Of the status alone, which no file is read for.
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    ];

    fn keywords(schema: &Value, found: &mut BTreeSet<String>) {
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            found.insert(keyword.clone());
            match keyword.as_str() {
                "properties" => value.as_object().into_iter().flatten().for_each(|(_, field)| keywords(field, found)),
                "items" | "additionalProperties" => keywords(value, found),
                _ => {}
            }
        }
    }

    #[test]
    fn no_keyword_of_the_schema_is_passed_over() {
        let mut found = BTreeSet::new();
        keywords(&SCHEMA, &mut found);
        let unknown: Vec<_> = found.iter().filter(|keyword| !KNOWN.contains(&keyword.as_str())).collect();
        assert!(unknown.is_empty(), "check.rs does not know {unknown:?}");
    }

    #[test]
    fn only_a_name_that_is_close_is_suggested() {
        let known = ["maxAttempts".to_owned(), "maxDelay".to_owned()];
        assert_eq!(nearest("maxAttemps", known.iter()).as_deref(), Some("maxAttempts"));
        assert_eq!(nearest("maxdelay", known.iter()).as_deref(), Some("maxDelay"));
        assert_eq!(nearest("backoff", known.iter()), None);
    }
}
