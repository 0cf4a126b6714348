//! What can be wrong with a file, in the words of the person who wrote it.

use serde_json::Value;
use thiserror::Error;

/// What is wrong with one field, or with a document.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Fault {
    /// The text is not YAML.
    #[error("{0}")]
    Syntax(String),
    /// No document has content.
    #[error("no ErrorHandlingPipeline in this file")]
    Empty,
    /// The object is of another kind or version.
    #[error("is {given:?}, but only {expected:?} can be read from a file")]
    OtherKind {
        /// What the file says.
        given: String,
        /// What it would have to say.
        expected: String,
    },
    /// The field does not exist.
    #[error("unknown field{}", did_you_mean(.nearest))]
    UnknownField {
        /// The known field that is spelled most like it, if one is.
        nearest: Option<String>,
    },
    /// A field that must be there is not.
    #[error("is required")]
    Missing,
    /// The value is of another type than the field.
    #[error("must be {expected}, not {}", shown(.given))]
    WrongType {
        /// What the field takes.
        expected: &'static str,
        /// What was given.
        given: Value,
    },
    /// The value is none of those that the field takes.
    #[error("must be {}, not {}", choice(.allowed), shown(.given))]
    OtherChoice {
        /// What the field takes.
        allowed: Vec<Value>,
        /// What was given.
        given: Value,
    },
    /// The text has another form than the field.
    #[error("{given:?} has the wrong form: expected something like {example}")]
    WrongForm {
        /// What was given.
        given: String,
        /// A text that the field would take, or the pattern where there is no example.
        example: String,
    },
    /// There must be something.
    #[error("must not be empty")]
    Blank,
    /// The number, length or count is out of bounds.
    #[error("must {verb} {bound} {limit}{unit}, not {given}")]
    OutOfBounds {
        /// `be` for a number, `have` for what has a length.
        verb: &'static str,
        /// `at least` or `at most`.
        bound: &'static str,
        /// The limit.
        limit: f64,
        /// What is counted, with a space before it; empty for a number.
        unit: &'static str,
        /// What was given.
        given: f64,
    },
    /// The value passes the schema but has no meaning, a number of digits too many for instance.
    #[error("{0}")]
    Unreadable(String),
    /// A validation rule of the CRD is broken.
    #[error("{0}")]
    Rule(String),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|field| format!(", did you mean `{field}`?")).unwrap_or_default()
}

fn choice(allowed: &[Value]) -> String {
    let names: Vec<_> = allowed.iter().map(|value| value.as_str().map_or(value.to_string(), str::to_owned)).collect();
    match names.as_slice() {
        [names @ .., last] if !names.is_empty() => format!("{} or {last}", names.join(", ")),
        names => names.concat(),
    }
}

/// Shows a value as briefly as it can be recognised.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        scalar => scalar.to_string(),
    }
}
