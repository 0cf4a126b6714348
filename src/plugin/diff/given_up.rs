//! What the operator applied earlier and would not apply any more: with server-side apply such a field goes, unless
//! somebody else owns it, too.
//!
//! The API server notes in `metadata.managedFields` who owns what, as a tree of `f:<field>` and `k:<keys of an element>`.

use serde_json::Value;

use super::{Change, field, name_of};
use crate::operator::names::FIELD_MANAGER;

/// Maps that are applied as a whole. The API server does not note their keys.
const WHOLE: [&str; 1] = ["nodeSelector"];

/// The fields of `live` that would go.
pub fn given_up(wanted: &Value, live: &Value) -> Vec<Change> {
    let managers = live["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_ours = |entry: &&Value| {
        entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply" && entry["subresource"].is_null()
    };
    let (ours, theirs): (Vec<_>, Vec<_>) = managers.iter().partition(is_ours);
    let theirs: Vec<_> = theirs.into_iter().map(|entry| &entry["fieldsV1"]).collect();
    let mut changes = vec![];
    for entry in ours {
        walk("", &entry["fieldsV1"], &theirs, wanted, live, &mut changes);
    }
    changes
}

fn walk(path: &str, ours: &Value, theirs: &[&Value], wanted: &Value, live: &Value, changes: &mut Vec<Change>) {
    for (key, below) in ours.as_object().into_iter().flatten() {
        let (path, wanted, live) = if let Some(name) = key.strip_prefix("f:") {
            (field(path, name), wanted.get(name), live.get(name))
        } else if let Some(keys) = key.strip_prefix("k:").and_then(|keys| serde_json::from_str::<Value>(keys).ok()) {
            let Some((index, element)) = element(live, &keys) else { continue };
            let name = name_of(element).map_or_else(|| index.to_string(), str::to_owned);
            (format!("{path}[{name}]"), self::element(wanted, &keys).map(|(_, element)| element), Some(element))
        } else {
            continue;
        };
        let Some(live) = live else { continue };
        let theirs: Vec<_> = theirs.iter().filter_map(|theirs| theirs.get(key)).collect();
        match wanted {
            Some(wanted) => {
                if WHOLE.iter().any(|name| path.ends_with(name)) {
                    gone_from(&path, wanted, live, changes);
                }
                walk(&path, below, &theirs, wanted, live, changes);
            }
            None if theirs.is_empty() => changes.push(Change { path, from: Some(live.clone()), to: None }),
            None => walk(&path, below, &theirs, &Value::Null, live, changes),
        }
    }
}

/// The element of a list that has these keys. One that does not say them has the API server's default for them.
fn element<'a>(list: &'a Value, keys: &Value) -> Option<(usize, &'a Value)> {
    let keys = keys.as_object()?;
    let has_keys = |element: &Value| keys.iter().all(|(key, value)| element.get(key).is_none_or(|had| had == value));
    list.as_array()?.iter().enumerate().find(|(_, element)| has_keys(element))
}

fn gone_from(path: &str, wanted: &Value, live: &Value, changes: &mut Vec<Change>) {
    let gone = live.as_object().into_iter().flatten().filter(|(name, _)| wanted.get(name).is_none());
    changes.extend(gone.map(|(name, value)| Change { path: field(path, name), from: Some(value.clone()), to: None }));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live(managers: &Value) -> Value {
        json!({
            "metadata": {"managedFields": managers, "labels": {"a": "1", "b": "2"}},
            "spec": {
                "replicas": 3, "nodeSelector": {"disk": "fast", "zone": "a"},
                "containers": [{"name": "worker", "image": "x", "env": [{"name": "A", "value": "1"}]}],
                "ports": [{"port": 80, "protocol": "TCP", "nodePort": 31082}],
            },
        })
    }

    fn ours(fields: &Value) -> Value {
        json!({"manager": "lazaret", "operation": "Apply", "fieldsV1": fields})
    }

    fn said(wanted: &Value, live: &Value) -> Vec<String> {
        given_up(wanted, live).iter().flat_map(Change::lines).collect()
    }

    #[test]
    fn what_was_applied_and_is_no_longer_goes() {
        let fields = json!({
            "f:metadata": {"f:labels": {"f:a": {}, "f:b": {}}},
            "f:spec": {
                "f:replicas": {}, "f:nodeSelector": {},
                "f:containers": {"k:{\"name\":\"worker\"}": {
                    ".": {}, "f:image": {}, "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:value": {}}},
                }},
                "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:nodePort": {}}},
            },
        });
        let wanted = json!({
            "metadata": {"labels": {"a": "1"}},
            "spec": {
                "nodeSelector": {"disk": "fast"}, "containers": [{"name": "worker", "image": "x"}], "ports": [{"port": 80}],
            },
        });
        let mut said = said(&wanted, &live(&json!([ours(&fields)])));
        said.sort();
        assert_eq!(
            said,
            [
                "metadata.labels.b: \"2\" → (no longer set)",
                "spec.containers[worker].env: [{\"name\":\"A\",\"value\":\"1\"}] → (no longer set)",
                "spec.nodeSelector.zone: \"a\" → (no longer set)",
                "spec.ports[0].nodePort: 31082 → (no longer set)",
                "spec.replicas: 3 → (no longer set)",
            ]
        );
    }

    #[test]
    fn what_somebody_else_owns_too_stays() {
        let fields = json!({"f:spec": {"f:replicas": {}}, "f:metadata": {"f:labels": {"f:a": {}, "f:b": {}}}});
        let other = json!({
            "manager": "kubectl", "operation": "Update",
            "fieldsV1": {"f:spec": {"f:replicas": {}}, "f:metadata": {"f:labels": {".": {}, "f:a": {}}}},
        });
        let live = live(&json!([ours(&fields), other]));
        assert_eq!(said(&json!({"spec": {}}), &live), ["metadata.labels.b: \"2\" → (no longer set)"]);
    }

    #[test]
    fn what_only_others_own_is_not_looked_at() {
        let status =
            json!({"manager": "lazaret", "operation": "Apply", "subresource": "status", "fieldsV1": {"f:spec": {}}});
        let other = json!({"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}});
        assert_eq!(said(&json!({}), &live(&json!([status, other]))), [""; 0]);
        assert_eq!(said(&json!({}), &json!({"metadata": {}})), [""; 0]);
    }
}
