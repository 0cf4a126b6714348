//! Reads pipelines from a YAML file as strictly as the API server would, and says where it is wrong.
//!
//! The CRD's schema decides what may be written, here as in a cluster: one walk over it finds unknown fields, missing
//! ones, wrong types and values out of bounds, then the CEL rules are run. This module opens no file.

mod check;
mod document;
mod fault;

use std::sync::LazyLock;

use kube::{CustomResourceExt, Resource, core::ObjectMeta};
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use thiserror::Error;

use self::document::Document;
pub use self::fault::Fault;
use super::v1alpha1::ErrorHandlingPipeline;

/// All that is wrong with a file, one line each: `orders.yaml:12: spec.retry.maxAttemps: unknown field, …`.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{}", lines(.problems))]
pub struct FileError {
    /// What is wrong, in the order of the file; never empty.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{file}:{line}: {}{fault}", prefix(.path))]
pub struct Problem {
    /// The file's name, as it was given.
    pub file: String,
    /// The line, counted from 1.
    pub line: u64,
    /// The field, such as `spec.retry.rules[0].when`; empty when the document itself is wrong.
    pub path: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Reads all pipelines of a file, which holds one or several YAML documents.
///
/// `file_name` only serves the messages. Documents without content are passed over; a file without any pipeline is an
/// error, and so is one that holds anything else than pipelines.
pub fn parse(file_name: &str, text: &str) -> Result<Vec<ErrorHandlingPipeline>, FileError> {
    let problem = |line, path, fault| Problem { file: file_name.to_owned(), line, path, fault };
    let documents = document::read(text).map_err(|(line, message)| FileError {
        problems: vec![problem(line, String::new(), Fault::Syntax(message))],
    })?;

    let mut pipelines = Vec::new();
    let mut problems = Vec::new();
    for document in documents {
        match pipeline(&document) {
            Ok(pipeline) => pipelines.push(pipeline),
            Err(found) => {
                let located = found.into_iter().map(|(path, fault)| problem(document.line(&path), path, fault));
                problems.extend(located);
            }
        }
    }
    if pipelines.is_empty() && problems.is_empty() {
        problems.push(problem(1, String::new(), Fault::Empty));
    }
    if problems.is_empty() {
        return Ok(pipelines);
    }
    problems.sort_by_key(|problem| problem.line);
    Err(FileError { problems })
}

/// Checks one document, in the order in which a mistake makes the next check pointless.
fn pipeline(document: &Document) -> Result<ErrorHandlingPipeline, Vec<(String, Fault)>> {
    for (field, expected) in
        [("kind", ErrorHandlingPipeline::kind(&())), ("apiVersion", ErrorHandlingPipeline::api_version(&()))]
    {
        if let Some(given) = document.value.get(field).and_then(Value::as_str)
            && given != expected
        {
            let fault = Fault::OtherKind { given: given.to_owned(), expected: expected.into_owned() };
            return Err(vec![(field.to_owned(), fault)]);
        }
    }

    let found = check::check(&SCHEMA, &document.value);
    if !found.is_empty() {
        return Err(found);
    }

    let value = check::without_nulls(document.value.clone());
    let pipeline: ErrorHandlingPipeline = serde_path_to_error::deserialize(value)
        .map_err(|error| vec![(error.path().to_string(), Fault::Unreadable(error.inner().to_string()))])?;
    match pipeline.validate_cel() {
        Ok(()) => Ok(pipeline),
        Err(broken) => Err(broken.into_iter().map(|rule| (rule.field_path, Fault::Rule(rule.message))).collect()),
    }
}

/// The CRD's schema, completed by what the API server knows without being told: the fields of `metadata`.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let crd = json!(ErrorHandlingPipeline::crd());
    let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    let mut generator = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true).into_generator();
    let mut metadata = json!(generator.root_schema_for::<ObjectMeta>());
    metadata["required"] = json!(["name"]);
    schema["properties"]["metadata"] = metadata;
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
    schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    schema
});

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

fn prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: &str = "\
apiVersion: lazaret.dev/v1alpha1
kind: ErrorHandlingPipeline
metadata: {name: orders}
spec:
  kafka: {cluster: main}
  topic: {name: orders}
  processor: {http: {url: http://orders}}
";

    /// Reads the smallest pipeline with more lines at its end, of which the first is line 8.
    fn with(more: &str) -> Result<ErrorHandlingPipeline, String> {
        parse("orders.yaml", &format!("{ORDERS}{more}"))
            .map(|mut pipelines| pipelines.remove(0))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line_and_the_one_that_was_meant() {
        let error = with("  retry:\n    maxAttemps: 3\n").unwrap_err();
        assert_eq!(error, "orders.yaml:9: spec.retry.maxAttemps: unknown field, did you mean `maxAttempts`?");
        let error = with("  moonPhase:\n").unwrap_err();
        assert_eq!(error, "orders.yaml:8: spec.moonPhase: unknown field");
    }

    #[test]
    fn metadata_is_read_as_strictly_as_the_spec() {
        let text = ORDERS.replace("{name: orders}\nspec", "{name: 5, lables: {a: b}, creationTimestamp: null}\nspec");
        assert_eq!(
            parse("orders.yaml", &text).unwrap_err().to_string(),
            "orders.yaml:3: metadata.lables: unknown field, did you mean `labels`?\n\
             orders.yaml:3: metadata.name: must be a string, not 5"
        );
        let text = ORDERS.replace("{name: orders}\nspec", "{}\nspec");
        assert_eq!(parse("orders.yaml", &text).unwrap_err().to_string(), "orders.yaml:3: metadata.name: is required");
    }

    #[test]
    fn each_fault_of_a_value_has_its_words() {
        for (more, message) in [
            ("maxAttempts: 0", "maxAttempts: must be at least 1, not 0"),
            ("maxAttempts: five", "maxAttempts: must be a whole number, not \"five\""),
            ("jitterFactor: 1.5", "jitterFactor: must be at most 1, not 1.5"),
            ("maxDelay: 5 minutes", "maxDelay: \"5 minutes\" has the wrong form: expected something like 1m30s"),
            (
                "maxDelay: 999999999999999h",
                "maxDelay: \"999999999999999h\" is not a duration: expected whole numbers with \
                 units (ms, s, m, h), such as 500ms, 30s or 1m30s",
            ),
            ("strategy: fixed", "strategy: must be Immediate, Fixed, Exponential or ExponentialJitter, not \"fixed\""),
            ("groupId: \"\"", "groupId: must not be empty"),
            ("topic: retries", "topic: must be an object with fields, not \"retries\""),
            ("rules: [{retryable: true}]", "rules[0].when: is required"),
            ("rules: [null]", "rules[0]: must be an object with fields, not empty"),
            (
                "topic: {config: {preallocate: true}}",
                "topic.config.preallocate: must be a whole number or a string, not true",
            ),
        ] {
            let error = with(&format!("  retry:\n    {more}\n")).unwrap_err();
            assert_eq!(error, format!("orders.yaml:9: spec.retry.{message}"));
        }
    }

    #[test]
    fn a_broken_rule_names_its_field_and_line() {
        let error = with("  retry:\n    initialDelay: 10m\n    maxDelay: 1m\n").unwrap_err();
        assert_eq!(
            error,
            "orders.yaml:10: spec.retry.maxDelay: must not be shorter than initialDelay: \
             raise maxDelay or lower initialDelay"
        );
    }

    #[test]
    fn everything_wrong_is_said_at_once_in_the_order_of_the_file() {
        let error = with("  ordering: key\n  dlt:\n    formt: Raw\n    topic: {partitions: 0}\n").unwrap_err();
        let lines: Vec<_> = error.lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "orders.yaml:8 spec.ordering",
                "orders.yaml:10 spec.dlt.formt",
                "orders.yaml:11 spec.dlt.topic.partitions"
            ]
        );
    }

    #[test]
    fn an_empty_field_counts_as_left_out() {
        let pipeline = with("  retry:\n  ingress: {key: }\n  consumer: {groupId: null}\n").unwrap();
        assert_eq!(pipeline, with("").unwrap());
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let pipeline =
            with("  dlt: {topic: &small {replicas: 1}}\n  retry: {topic: {<<: *small, partitions: 2}}\n").unwrap();
        assert_eq!((pipeline.spec.retry.topic.replicas, pipeline.spec.retry.topic.partitions), (1, 2));
    }

    #[test]
    fn numbers_in_a_topics_settings_need_no_quotes() {
        let pipeline = with("  retry: {topic: {config: {retention.ms: 2592000000}}}\n").unwrap();
        assert_eq!(pipeline.spec.retry.topic.config["retention.ms"], "2592000000");
    }

    #[test]
    fn a_file_may_hold_several_documents_but_nothing_else_than_pipelines() {
        let two = format!("# two of them\n---\n{ORDERS}---\n---\n{ORDERS}");
        assert_eq!(parse("orders.yaml", &two).unwrap().len(), 2);

        let topic = format!("{ORDERS}---\napiVersion: lazaret.dev/v1alpha1\nkind: KafkaTopic\n");
        assert_eq!(
            parse("orders.yaml", &topic).unwrap_err().to_string(),
            "orders.yaml:10: kind: is \"KafkaTopic\", but only \"ErrorHandlingPipeline\" can be read from a file"
        );
        let error = parse("orders.yaml", "# nothing\n").unwrap_err().to_string();
        assert_eq!(error, "orders.yaml:1: no ErrorHandlingPipeline in this file");
    }

    #[test]
    fn what_is_no_yaml_is_one_line_too() {
        let error = parse("orders.yaml", "a: b\n  c: d\n").unwrap_err().to_string();
        assert_eq!(error, "orders.yaml:2: mapping values are not allowed in this context");
        let error = parse("orders.yaml", "kind: a\nkind: b\n").unwrap_err().to_string();
        assert_eq!(error, "orders.yaml:2: duplicate mapping key `kind` is not allowed here");
    }
}
