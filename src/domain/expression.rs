//! CEL expressions over a record and what happened to it.
//!
//! Evaluating one must cost next to nothing, since it happens for every record: the program and its functions are built
//! once, and of the record only what the expression names is converted. `value.amount < 0` reads one number out of a
//! large document and skips the rest of it.
//!
//! Reference: the [CEL language definition](https://github.com/google/cel-spec/blob/master/doc/langdef.md).

mod json;
mod survey;

use std::collections::BTreeSet;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock, OnceLock};

use cel::common::ast::IdedExpr;
use cel::context::VariableResolver;
use cel::objects::{Map, Value};
use cel::{Context, Program};

use super::failure::Failure;
use super::record::Record;
use survey::Survey;

/// The functions of CEL's standard library, made once for all evaluations.
static FUNCTIONS: LazyLock<Context<'static>> = LazyLock::new(Context::default);

/// What [`FUNCTIONS`] holds. An unknown function must be refused when the expression is read: at run time it would send
/// every record to the dead letter topic.
const FUNCTION_NAMES: [&str; 23] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "bytes",
    "int",
    "uint",
    "double",
    "min",
    "max",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
];

/// A compiled expression.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    syntax: Arc<IdedExpr>,
    reads: ValueFields,
}

/// The names that an expression may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// `value`: a document that is not a record yet.
    Document,
    /// What a record says: `key`, `value`, `headers`, `topic`, `partition`, `offset`, `timestamp`.
    Record,
    /// What a record says and how it failed: also `status`, `errorType`, `errorMessage`, `attempts`.
    Failure,
}

impl Vocabulary {
    fn names(self) -> &'static [&'static str] {
        const ALL: [&str; 11] = [
            "value",
            "key",
            "headers",
            "topic",
            "partition",
            "offset",
            "timestamp",
            "status",
            "errorType",
            "errorMessage",
            "attempts",
        ];
        match self {
            Self::Document => &ALL[..1],
            Self::Record => &ALL[..7],
            Self::Failure => &ALL,
        }
    }
}

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// It is no CEL.
    #[error("`{source_text}` does not compile: {reason}")]
    Syntax {
        /// The expression.
        source_text: String,
        /// What the parser says, in one line.
        reason: String,
    },
    /// It uses a name or a function that does not exist.
    #[error("`{source_text}` uses `{name}`, which is unknown here; it may use {known}")]
    Unknown {
        /// The expression.
        source_text: String,
        /// The unknown name.
        name: String,
        /// What could be used instead.
        known: String,
    },
}

/// Why an expression has no answer for a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// The expression reads the value, and the value is not JSON.
    #[error("the value is not JSON: {0}")]
    NotJson(String),
    /// The record lacks what the expression names, or it is of another type.
    #[error("`{expression}` cannot be evaluated: {reason}")]
    Failed {
        /// The expression.
        expression: Arc<str>,
        /// What CEL says.
        reason: String,
    },
    /// The answer is of another type than the one that is needed.
    #[error("`{expression}` answers with {found}, not with {needed}")]
    WrongType {
        /// The expression.
        expression: Arc<str>,
        /// The type that it answered with.
        found: String,
        /// The type that was needed.
        needed: &'static str,
    },
}

impl Expression {
    /// Compiles `source`, which may use the names of `vocabulary`.
    pub fn compile(source: &str, vocabulary: Vocabulary) -> Result<Self, ExpressionError> {
        let program = Program::compile(source).map_err(|errors| ExpressionError::Syntax {
            source_text: one_line(source),
            reason: errors.errors.first().map_or_else(|| "empty".into(), |e| one_line(&e.msg)),
        })?;
        let survey = Survey::of(program.expression());
        let mut syntax = program.expression().clone();
        survey::make_selection_strict(&mut syntax);
        let unknown = |names: &BTreeSet<String>, known: &[&str]| {
            let name = names.iter().find(|name| !known.contains(&name.as_str()))?.clone();
            Some(ExpressionError::Unknown { source_text: one_line(source), name, known: known.join(", ") })
        };
        match unknown(&survey.variables, vocabulary.names()).or_else(|| unknown(&survey.functions, &FUNCTION_NAMES)) {
            Some(error) => Err(error),
            None => Ok(Self { source: source.into(), syntax: Arc::new(syntax), reads: survey.reads }),
        }
    }

    /// The parts of a record's value that this expression reads.
    pub fn reads(&self) -> &ValueFields {
        &self.reads
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Evaluates to a yes or no.
    pub fn is_true(&self, facts: &Facts<'_>) -> Result<bool, EvaluationError> {
        match self.evaluate(facts)? {
            Value::Bool(answer) => Ok(answer),
            other => Err(self.wrong_type(&other, "true or false")),
        }
    }

    /// Evaluates to text: a string as it is, a number or boolean as it prints, null as nothing.
    pub fn text(&self, facts: &Facts<'_>) -> Result<Option<String>, EvaluationError> {
        match self.evaluate(facts)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.to_string())),
            Value::Int(number) => Ok(Some(number.to_string())),
            Value::UInt(number) => Ok(Some(number.to_string())),
            Value::Float(number) => Ok(Some(number.to_string())),
            Value::Bool(answer) => Ok(Some(answer.to_string())),
            other => Err(self.wrong_type(&other, "text or a number")),
        }
    }

    fn evaluate(&self, facts: &Facts<'_>) -> Result<Value, EvaluationError> {
        if self.reads != ValueFields::None {
            facts.value().as_ref().map_err(Clone::clone)?;
        }
        let mut context = FUNCTIONS.new_inner_scope();
        context.set_variable_resolver(facts);
        let failed = |reason: String| EvaluationError::Failed { expression: self.source.clone(), reason };
        // The interpreter panics on some arithmetic. One record must not take down the partition that it came from.
        let answer = std::panic::catch_unwind(AssertUnwindSafe(|| Value::resolve(&self.syntax, &context)));
        let answer = answer.map_err(|_| failed("the interpreter failed".into()))?;
        answer.map_err(|error| failed(one_line(&error.to_string())))
    }

    fn wrong_type(&self, found: &Value, needed: &'static str) -> EvaluationError {
        EvaluationError::WrongType { expression: self.source.clone(), found: found.type_of().to_string(), needed }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression(`{}`)", self.source)
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The top-level fields of the value that expressions read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ValueFields {
    /// The value is not read, and need not be JSON.
    #[default]
    None,
    /// Only these fields of it are read.
    Some(BTreeSet<String>),
    /// It is read as a whole.
    All,
}

impl ValueFields {
    /// Adds what `other` names.
    pub fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::None) | (Self::All, _) => {}
            (Self::Some(mine), Self::Some(theirs)) => mine.extend(theirs.iter().cloned()),
            (_, other) => *self = other.clone(),
        }
    }
}

/// What expressions can ask about. The value is parsed at the first question about it, and only once.
pub struct Facts<'a> {
    document: Option<&'a [u8]>,
    record: Option<&'a Record>,
    failure: Option<(&'a Failure, u32)>,
    reads: &'a ValueFields,
    value: OnceLock<Result<Value, EvaluationError>>,
}

impl<'a> Facts<'a> {
    /// A document that is not a record yet, of which `reads` is read.
    pub fn of_document(document: &'a [u8], reads: &'a ValueFields) -> Self {
        Self { document: Some(document), record: None, failure: None, reads, value: OnceLock::new() }
    }

    /// A record, of whose value `reads` is read.
    pub fn of_record(record: &'a Record, reads: &'a ValueFields) -> Self {
        let document = record.value.as_deref();
        Self { document, record: Some(record), failure: None, reads, value: OnceLock::new() }
    }

    /// A record that failed, after so many attempts.
    pub fn of_failure(record: &'a Record, failure: &'a Failure, attempts: u32) -> Self {
        Self { failure: Some((failure, attempts)), ..Self::of_record(record, &ValueFields::All) }
    }

    fn value(&self) -> &Result<Value, EvaluationError> {
        self.value.get_or_init(|| match self.document {
            None => Ok(Value::Null),
            Some(bytes) => json::parse(bytes, self.reads).map_err(|e| EvaluationError::NotJson(e.to_string())),
        })
    }
}

impl VariableResolver for Facts<'_> {
    fn resolve(&self, name: &str) -> Option<Value> {
        if name == "value" {
            return self.value().as_ref().ok().cloned();
        }
        if let Some((failure, attempts)) = self.failure {
            match name {
                "status" => return Some(Value::Int(failure.status.unwrap_or(0).into())),
                "errorType" => return Some(string(&failure.error_type)),
                "errorMessage" => return Some(string(&failure.message)),
                "attempts" => return Some(Value::Int(attempts.into())),
                _ => {}
            }
        }
        let record = self.record?;
        match name {
            "key" => Some(text_or_bytes(record.key.as_deref())),
            "topic" => Some(string(&record.topic)),
            "partition" => Some(Value::Int(record.partition.into())),
            "offset" => Some(Value::Int(record.offset)),
            "timestamp" => Some(record.timestamp.map_or(Value::Null, |t| Value::Int(t.0))),
            "headers" => {
                let entry = |h: &super::record::Header| (h.name.as_str().into(), text_or_bytes(h.value.as_deref()));
                Some(Value::Map(Map { map: Arc::new(record.headers.iter().map(entry).collect()) }))
            }
            _ => None,
        }
    }
}

fn string(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

fn text_or_bytes(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => string(text),
        Some((bytes, Err(_))) => Value::Bytes(Arc::new(bytes.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::failure::FailureKind;
    use bytes::Bytes;

    fn record(value: Option<&[u8]>) -> Record {
        Record {
            topic: "orders".into(),
            partition: 2,
            offset: 17,
            timestamp: None,
            key: Some(Bytes::from_static(b"k1")),
            value: value.map(Bytes::copy_from_slice),
            headers: vec![crate::domain::record::Header::new("tenant", "blue")],
        }
    }

    fn asked(source: &str, value: Option<&[u8]>) -> Result<bool, EvaluationError> {
        let expression = Expression::compile(source, Vocabulary::Record).unwrap();
        let record = record(value);
        expression.is_true(&Facts::of_record(&record, expression.reads()))
    }

    #[test]
    fn reads_the_value_the_key_the_headers_and_the_place() {
        let value = Some(br#"{"amount": -50, "ratio": 0.5, "items": [1, 2], "who": {"name": "x"}}"#.as_slice());
        for source in [
            "value.amount < 0",
            "value.amount == -50 && value.ratio < 1",
            "value.ratio > 0",
            "value.amount < 0.5",
            "has(value.amount) && !has(value.missing)",
            "value.items.exists(i, i == 2) && size(value.items) == 2",
            "value['amount'] < 0",
            "value.who.name == 'x'",
            "key == 'k1'",
            "headers.tenant == 'blue'",
            "topic == 'orders' && partition == 2 && offset == 17 && timestamp == null",
            "value.who.name.matches('^x$')",
        ] {
            assert_eq!(asked(source, value), Ok(true), "{source}");
        }
    }

    #[test]
    fn only_an_expression_that_reads_the_value_needs_it_to_be_json() {
        let invalid = Some(b"\xff\xfe not json".as_slice());
        assert!(matches!(asked("value.amount < 0", invalid), Err(EvaluationError::NotJson(_))));
        assert_eq!(asked("key == 'k1'", invalid), Ok(true));
        assert!(matches!(asked("value.amount < 0", Some(b"")), Err(EvaluationError::NotJson(_))));
        assert!(matches!(asked("value.amount < 0", Some(b"{\"amount\": 1} x")), Err(EvaluationError::NotJson(_))));
    }

    #[test]
    fn a_missing_field_or_another_type_is_an_error_not_an_answer() {
        assert!(matches!(asked("value.amount < 0", Some(b"{}")), Err(EvaluationError::Failed { .. })));
        assert!(matches!(asked("value.amount < 0", Some(b"[1]")), Err(EvaluationError::Failed { .. })));
        assert!(matches!(asked("value.amount < 0", None), Err(EvaluationError::Failed { .. })));
        assert!(matches!(asked("value.amount < 0", Some(br#"{"amount":"x"}"#)), Err(EvaluationError::Failed { .. })));
        assert!(matches!(asked("1 + 1", Some(b"{}")), Err(EvaluationError::WrongType { .. })));
        for source in ["value.ok == false", "value.a.b == false", "!value.ok"] {
            for value in ["7", "[1]", "null", r#""text""#, r#"{"a": 7}"#] {
                assert!(asked(source, Some(value.as_bytes())).is_err(), "{source} on {value}");
            }
        }
    }

    #[test]
    fn arithmetic_that_the_interpreter_cannot_do_takes_nothing_down() {
        let smallest = br#"{"n": -9223372036854775808}"#;
        assert_ne!(asked("-value.n > 5", Some(smallest)), Ok(true));
    }

    #[test]
    fn a_wrong_expression_is_refused_with_its_reason_in_one_line() {
        for source in [
            "value.amount <",
            "",
            "amount < 0",
            "value.amount < 0 &&",
            "errorType == 'X'",
            "lower(key)",
            "A{b: 1} == 1",
        ] {
            let error = Expression::compile(source, Vocabulary::Record).unwrap_err().to_string();
            assert!(!error.contains('\n') && error.contains(source), "{error}");
        }
        let error = Expression::compile("amount < 0", Vocabulary::Record).unwrap_err().to_string();
        assert!(error.contains("`amount`, which is unknown") && error.contains("value, key"), "{error}");
    }

    #[test]
    fn names_just_the_fields_that_it_reads() {
        let reads = |source| Expression::compile(source, Vocabulary::Record).unwrap().reads;
        let fields = |names: &[&str]| ValueFields::Some(names.iter().map(|n| n.to_string()).collect());
        assert_eq!(reads("key == 'a'"), ValueFields::None);
        assert_eq!(reads("value.amount < 0 || value.who.name == 'x'"), fields(&["amount", "who"]));
        assert_eq!(reads("[{'a': value.a}].exists(x, x.a == value.b)"), fields(&["a", "b"]));
        assert_eq!(reads("size(value) > 3"), ValueFields::All);
        assert_eq!(reads("value['amount'] > 3"), ValueFields::All);
    }

    #[test]
    fn every_function_that_is_offered_exists() {
        for name in FUNCTION_NAMES {
            let asked = asked(&format!("{name}(1, 2, 3, 4) == 0"), Some(b"{}"));
            assert!(asked.err().is_none_or(|error| !error.to_string().contains("Undeclared")), "{name}");
        }
    }

    #[test]
    fn a_failure_adds_its_own_names() {
        let expression =
            Expression::compile("status == 503 && errorType == 'E' && attempts > 1", Vocabulary::Failure).unwrap();
        let mut failure = Failure::new(FailureKind::Retryable, "E", "m");
        failure.status = Some(503);
        assert_eq!(expression.is_true(&Facts::of_failure(&record(None), &failure, 2)), Ok(true));
    }

    #[test]
    fn text_is_what_a_key_can_be_made_of() {
        let text = |source, document: &str| {
            let expression = Expression::compile(source, Vocabulary::Document).unwrap();
            expression.text(&Facts::of_document(document.as_bytes(), expression.reads()))
        };
        assert_eq!(text("value.id", r#"{"id": "ORD-1"}"#), Ok(Some("ORD-1".into())));
        assert_eq!(text("value.id", r#"{"id": 7}"#), Ok(Some("7".into())));
        assert_eq!(text("value.id", r#"{"id": null}"#), Ok(None));
        assert!(matches!(text("value.id", r#"{"id": [1]}"#), Err(EvaluationError::WrongType { .. })));
    }
}
