//! Pipelines from YAML, as a user would write them.

use lazaret::api::{file, validate};
use lazaret::domain::pipeline::Pipeline;

/// The pipeline of a spec, on topics named after `name`. The spec is indented by nobody: it begins at the margin.
pub fn pipeline(name: &str, spec: &str) -> Pipeline {
    let text = yaml(name, spec);
    let objects = file::parse("test.yaml", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    validate::validate(&objects[0]).unwrap_or_else(|error| panic!("{error}"))
}

/// The YAML of a pipeline with short timeouts, so that rebalances do not make tests slow.
pub fn yaml(name: &str, spec: &str) -> String {
    let spec = spec.trim().replace('\n', "\n  ");
    let consumer = match spec.contains("consumer:") {
        true => "",
        false => "\n  consumer: {sessionTimeout: 6s, drainTimeout: 3s}",
    };
    let topic = match spec.contains("topic:") {
        true => String::new(),
        false => format!("\n  topic: {{name: {name}, partitions: 3}}"),
    };
    format!(
        "apiVersion: lazaret.dev/v1alpha1\nkind: ErrorHandlingPipeline\nmetadata: {{name: {name}}}\nspec:\n  \
         kafka: {{bootstrapServers: 'localhost:9092'}}{topic}{consumer}\n  {spec}\n"
    )
}
