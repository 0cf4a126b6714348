//! Compares an object as the operator would apply it with the one that is there. Pure.
//!
//! The API server adds defaults, and others own fields of the same objects: so only the fields that would be applied are
//! compared, and what the operator applied earlier and would not apply any more ([`given_up`]).

mod given_up;
mod quantity;
mod text;

pub use given_up::given_up;

use serde_json::Value;

/// A field that is not as it would be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where it is, such as `spec.template.spec.containers[worker].image`.
    pub path: String,
    /// What is there; `None`: nothing.
    pub from: Option<Value>,
    /// What would be applied; `None`: nothing any more.
    pub to: Option<Value>,
}

/// The fields of `wanted` that `live` has otherwise or not at all.
pub fn changes(wanted: &Value, live: &Value) -> Vec<Change> {
    let mut changes = vec![];
    compare("", wanted, Some(live), false, &mut changes);
    changes
}

/// `amounts` says that the values are quantities, of which the API server may write `0.1` as `100m`.
fn compare(path: &str, wanted: &Value, live: Option<&Value>, amounts: bool, changes: &mut Vec<Change>) {
    let change = |from: Option<&Value>| Change { path: path.into(), from: from.cloned(), to: Some(wanted.clone()) };
    match (wanted, live) {
        (Value::Object(wanted), Some(Value::Object(live))) => {
            for (name, wanted) in wanted {
                compare(&field(path, name), wanted, live.get(name), holds_amounts(path), changes);
            }
        }
        (Value::Array(wanted), Some(Value::Array(live))) if is_named(wanted) && is_named(live) => {
            for element in wanted {
                let name = name_of(element);
                let known = live.iter().find(|known| name_of(known) == name);
                compare(&format!("{path}[{}]", name.unwrap_or_default()), element, known, false, changes);
            }
        }
        (Value::Array(wanted), Some(Value::Array(live))) => {
            for (index, element) in wanted.iter().enumerate() {
                compare(&format!("{path}[{index}]"), element, live.get(index), false, changes);
            }
            for (index, element) in live.iter().enumerate().skip(wanted.len()) {
                changes.push(Change { path: format!("{path}[{index}]"), from: Some(element.clone()), to: None });
            }
        }
        (wanted, Some(live)) if is_same(wanted, live, amounts) => {}
        // The API server leaves out what is empty.
        (wanted, None) if is_empty(wanted) => {}
        (_, live) => changes.push(change(live)),
    }
}

fn holds_amounts(path: &str) -> bool {
    path.ends_with(".limits") || path.ends_with(".requests")
}

fn is_same(wanted: &Value, live: &Value, amounts: bool) -> bool {
    match (wanted, live) {
        (Value::Number(wanted), Value::Number(live)) => wanted.as_f64() == live.as_f64(),
        (Value::String(wanted), Value::String(live)) if amounts => wanted == live || quantity::is_same(wanted, live),
        (wanted, live) => wanted == live || (is_empty(wanted) && is_empty(live)),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether the elements of a list are known by their names, as containers and variables are.
fn is_named(list: &[Value]) -> bool {
    let names: std::collections::BTreeSet<_> = list.iter().filter_map(name_of).collect();
    names.len() == list.len()
}

fn name_of(element: &Value) -> Option<&str> {
    element.get("name")?.as_str()
}

/// The path of a field: `.name`, or `[a.name]` where a dot would mislead.
fn field(path: &str, name: &str) -> String {
    match name.contains(['.', '/', '[']) {
        true => format!("{path}[{name}]"),
        false if path.is_empty() => name.to_owned(),
        false => format!("{path}.{name}"),
    }
}

impl Change {
    /// For a person: one line, or a few where one of several lines has changed.
    pub fn lines(&self) -> Vec<String> {
        let path = &self.path;
        if let (Some(Value::String(from)), Some(Value::String(to))) = (&self.from, &self.to)
            && (from.contains('\n') || to.contains('\n'))
        {
            return std::iter::once(format!("{path}:")).chain(text::differences(from, to)).collect();
        }
        let shown = |value: &Option<Value>, without: &str| value.as_ref().map_or(without.to_owned(), Value::to_string);
        vec![format!("{path}: {} → {}", shown(&self.from, "(not set)"), shown(&self.to, "(no longer set)"))]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(wanted: &Value, live: &Value) -> Vec<String> {
        changes(wanted, live).iter().flat_map(Change::lines).collect()
    }

    #[test]
    fn what_the_api_server_adds_is_no_difference() {
        let wanted = json!({"spec": {"containers": [{"name": "worker", "image": "a", "env": []}], "affinity": {}}});
        let live = json!({
            "metadata": {"uid": "1"}, "status": {},
            "spec": {"containers": [{"name": "worker", "image": "a", "imagePullPolicy": "Always"}], "dnsPolicy": "x"},
        });
        assert_eq!(said(&wanted, &live), [""; 0]);
    }

    #[test]
    fn a_field_that_differs_is_named_with_both_values() {
        let wanted =
            json!({"spec": {"replicas": 3, "image": "b"}, "metadata": {"labels": {"lazaret.dev/stage": "main"}}});
        let live = json!({"spec": {"replicas": 1, "image": "a"}, "metadata": {"labels": {}}});
        assert_eq!(
            said(&wanted, &live),
            [
                "metadata.labels[lazaret.dev/stage]: (not set) → \"main\"",
                "spec.image: \"a\" → \"b\"",
                "spec.replicas: 1 → 3"
            ]
        );
    }

    #[test]
    fn elements_that_have_a_name_are_found_by_it() {
        let wanted = json!([{"name": "a", "value": "1"}, {"name": "b", "value": "2"}, {"name": "d", "value": ""}]);
        let live = json!([{"name": "c", "value": "3"}, {"name": "d"}, {"name": "b", "value": "0"}]);
        assert_eq!(
            said(&json!({"env": wanted}), &json!({"env": live})),
            ["env[a]: (not set) → {\"name\":\"a\",\"value\":\"1\"}", "env[b].value: \"0\" → \"2\""]
        );
    }

    #[test]
    fn other_elements_are_found_by_their_place() {
        let wanted = json!({"args": ["worker", "--stage", "main"]});
        assert_eq!(
            said(&wanted, &json!({"args": ["worker", "--x", "main", "--y"]})),
            ["args[1]: \"--x\" → \"--stage\"", "args[3]: \"--y\" → (no longer set)"]
        );
        assert_eq!(said(&wanted, &json!({"args": ["worker", "--stage"]})), ["args[2]: (not set) → \"main\""]);
    }

    #[test]
    fn an_amount_is_the_same_however_it_is_written() {
        let wanted = json!({"resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}, "requests": {"cpu": "2"}}});
        let live = json!({"resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "1"}}});
        assert_eq!(said(&wanted, &live), ["resources.requests.cpu: \"1\" → \"2\""]);
        assert_eq!(said(&json!({"env": {"cpu": "0.5"}}), &json!({"env": {"cpu": "500m"}})).len(), 1);
    }

    #[test]
    fn a_text_of_several_lines_is_compared_line_by_line() {
        let change = Change { path: "data[a.yaml]".into(), from: Some(json!("a\nb\nc")), to: Some(json!("a\nx\nc")) };
        assert_eq!(change.lines(), ["data[a.yaml]:", "  a", "- b", "+ x", "  c"]);
    }
}
