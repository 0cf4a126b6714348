//! CEL expressions over a record and what happened to it.
//!
//! Evaluating one must cost next to nothing, since it happens for every record: the program and its functions are built
//! once, and of the record only what the expression names is converted. `value.amount < 0` reads one number out of a
//! large document and skips the rest of it.
//!
//! Reference: the [CEL language definition](https://github.com/google/cel-spec/blob/master/doc/langdef.md).

mod facts;
mod functions;
mod json;
mod pattern;
mod rewrite;
mod survey;

use std::collections::BTreeSet;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use cel::common::ast::IdedExpr;
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::objects::Value;
use cel::parser::Parser;

pub use facts::Facts;
use functions::{FUNCTION_NAMES, FUNCTIONS};
use pattern::Pattern;
use survey::Survey;

/// The longest expression, and how deep brackets may be nested in it. The processes that
/// compile and evaluate it serve others, too.
pub const MAX_BYTES: usize = 2_048;
const MAX_NESTING: usize = 24;

/// How deep the parser may descend, and the stack that it may need for that: for each bracket it goes through all operators.
const MAX_RECURSION: u16 = 48;
const PARSER_STACK: usize = 16 << 20;

/// How deep what it finds may lie in each other: of `1 + 2 + 3` the first sum lies in the second one.
const MAX_DEPTH: usize = 32;

/// A compiled expression.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    syntax: Arc<IdedExpr>,
    /// The patterns of `matches`, which it names by their numbers.
    patterns: Arc<[Pattern]>,
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
    /// It may cost too much where it is compiled, or for a record.
    #[error("`{source_text}` is too dear: {reason}")]
    TooDear {
        /// The expression.
        source_text: String,
        /// What about it, and what is allowed.
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
        let too_dear = |reason: String| ExpressionError::TooDear { source_text: shown(source), reason };
        if source.len() > MAX_BYTES {
            return Err(too_dear(format!("it has {} bytes, and may have {MAX_BYTES}", source.len())));
        }
        if nesting(source) > MAX_NESTING {
            return Err(too_dear(format!("brackets are nested deeper than {MAX_NESTING} levels")));
        }
        let syntax_error = |reason| ExpressionError::Syntax { source_text: shown(source), reason };
        let mut syntax = parse(source).map_err(syntax_error)?;
        if survey::is_deeper_than(MAX_DEPTH, &syntax) {
            return Err(too_dear(format!("its parts lie in each other more than {MAX_DEPTH} deep")));
        }
        let survey = Survey::of(&syntax);
        if let Some(reason) = survey.too_dear {
            return Err(too_dear(reason));
        }
        let patterns = rewrite::take_patterns(&mut syntax).map_err(too_dear)?;
        rewrite::make_selection_strict(&mut syntax);
        rewrite::make_functions_strict(&mut syntax);
        let unknown = |names: &BTreeSet<String>, known: &[&str]| {
            let name = names.iter().find(|name| !known.contains(&name.as_str()))?.clone();
            Some(ExpressionError::Unknown { source_text: shown(source), name, known: known.join(", ") })
        };
        match unknown(&survey.variables, vocabulary.names()).or_else(|| unknown(&survey.functions, &FUNCTION_NAMES)) {
            Some(error) => Err(error),
            None => {
                let (syntax, patterns) = (Arc::new(syntax), patterns.into());
                Ok(Self { source: source.into(), syntax, patterns, reads: survey.reads })
            }
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
        let names = Names { facts, patterns: &self.patterns };
        let mut context = FUNCTIONS.new_inner_scope();
        context.set_variable_resolver(&names);
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

/// What the names in an expression stand for.
struct Names<'a> {
    facts: &'a Facts<'a>,
    patterns: &'a [Pattern],
}

impl VariableResolver for Names<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        match rewrite::pattern_number(name) {
            Some(number) => self.patterns.get(number).map(|pattern| CowVal::Borrowed(pattern)),
            None => self.facts.resolve(name),
        }
    }
}

/// Parses an expression, on a thread that has a stack for it.
fn parse(source: &str) -> Result<IdedExpr, String> {
    let parse = || Parser::new().max_recursion_depth(MAX_RECURSION).parse(source);
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().stack_size(PARSER_STACK).spawn_scoped(scope, parse);
        let parsed = parser.map_err(|error| format!("no thread for the parser: {error}"))?.join();
        let parsed = parsed.map_err(|_| "the parser failed".to_owned())?;
        parsed.map_err(|errors| errors.errors.first().map_or_else(|| "empty".into(), |error| one_line(&error.msg)))
    })
}

/// An expression as a message shows it.
fn shown(source: &str) -> String {
    let line = one_line(source);
    match line.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// How deep brackets are nested, those in texts aside.
fn nesting(source: &str) -> usize {
    let (mut depth, mut deepest, mut quote) = (0usize, 0, None);
    let mut bytes = source.bytes();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => drop(bytes.next()),
            (Some(open), _) if byte == open => quote = None,
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, b'(' | b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::record::Record;
    use crate::domain::record::failure::{Failure, FailureKind};
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
        for name in FUNCTION_NAMES.into_iter().filter(|name| *name != "matches") {
            let is_known = |source: String| {
                asked(&source, Some(b"{}")).err().is_none_or(|error| !error.to_string().contains("Undeclared"))
            };
            let forms =
                [format!("{name}(1, 2, 3, 4) == 0"), format!("timestamp('2030-01-01T00:00:00Z').{name}(1, 2, 3) == 0")];
            assert!(forms.into_iter().any(is_known), "{name}");
        }
    }

    /// What an older interpreter decided otherwise, without a word.
    #[test]
    fn decides_as_the_language_says() {
        let value =
            Some(br#"{"bad": true, "one": 1, "x": 2, "ratio": 1.5, "items": [1, 2], "name": "\u00e9"}"#.as_slice());
        for source in [
            "!!value.bad",
            "!!!!value.bad && !(!!!value.bad)",
            "--1 == 1 && -(-value.one) == 1",
            "0 == 0.0 && value.one == 1.0 && 1u == 1",
            "1.0 in [1, 2] && value.one in [1.0] && !(3.0 in value.items)",
            "value.one < value.ratio && value.ratio < 2 && value.one <= 1.0",
            "value.items.exists(i, i == value.x) && value.items.all(i, i > 0)",
            "size(value.name) == 1",
            "value.missing == 1 || value.bad",
            "!(value.missing == 1 && !value.bad)",
        ] {
            assert_eq!(asked(source, value), Ok(true), "{source}");
        }
    }

    #[test]
    fn a_pattern_is_compiled_once_and_asked_wherever_it_stands() {
        let value = Some(br#"{"name": "order-17", "tags": ["a1", "b2"], "n": 7}"#.as_slice());
        for (source, answer) in [
            ("value.name.matches('[0-9]') && matches(value.name, '^order')", true),
            ("value.name.matches('^[0-9]') || value.name.matches('^17')", false),
            ("value.tags.all(tag, tag.matches('^[ab][0-9]$'))", true),
            ("value.tags.filter(tag, tag.matches('^a')) == ['a1'] && !key.matches('^a')", true),
            ("[value.name].exists(name, name.matches('7$')) && {'a': 'b'.matches('b')}['a']", true),
        ] {
            assert_eq!(asked(source, value), Ok(answer), "{source}");
            assert_eq!(Expression::compile(source, Vocabulary::Record).unwrap().source(), source);
        }
        let error = asked("value.n.matches('7')", value).unwrap_err().to_string();
        assert!(error.contains("no matching overload for 'matches'"), "{error}");
        for source in ["matches(key)", "key.matches()", "key.matches('a', 'b')", "matches(key, 'a', 'b')"] {
            let refused = Expression::compile(source, Vocabulary::Record).unwrap_err().to_string();
            assert!(refused.contains("`matches` takes a text and a pattern"), "{refused}");
        }
    }

    #[test]
    fn a_sum_has_parts_of_one_type() {
        let value = Some(br#"{"list": [1], "map": {"a": 1}, "text": "x", "n": 1}"#.as_slice());
        for source in ["value.list + [2] == [1, 2]", "value.text + 'y' == 'xy'", "value.n + 1 == 2", "0.5 + 0.5 == 1.0"]
        {
            assert_eq!(asked(source, value), Ok(true), "{source}");
        }
        assert_eq!(asked("value.list.map(n, n + 1) == [2] && value.list.exists_one(n, n == 1)", value), Ok(true));
        for source in ["value.list + value.map == [1, 'a']", "value.map + value.list == []", "value.n + 0.5 == 1.5"] {
            assert!(matches!(asked(source, value), Err(EvaluationError::Failed { .. })), "{source}");
        }
    }

    #[test]
    fn a_duration_is_exact_and_nothing_else_is_one() {
        for source in [
            "duration('1.001s') == duration('1001ms')",
            "duration('-1h0.5m') == duration('-3630s') && duration('0') == duration('0s') && duration('+1.s') == duration('1s')",
            "duration('2562047h47m16.854775807s') > duration('2562047h47m16.854775806s')",
            "string(duration('1.5ns') + duration('.1us')) == '0.000000101s' && duration(duration('1s')) == duration('1s')",
        ] {
            assert_eq!(asked(source, Some(b"{}")), Ok(true), "{source}");
        }
        for text in ["1h-30m", "--1h", "1e3s", "infs", "1h+1m", "1", "", "s", ".s", "1h 1m", "1x", "2562048h", "1hs"] {
            let source = format!("duration('{text}') != duration('7s')");
            assert!(matches!(asked(&source, Some(b"{}")), Err(EvaluationError::Failed { .. })), "{source}");
        }
    }

    /// Each of these took an interpreter, or all that share a process with it, down, or could.
    #[test]
    fn what_may_cost_too_much_is_refused_with_its_reason() {
        let refused = |source: &str| match Expression::compile(source, Vocabulary::Record) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{} is compiled", shown(source)),
        };
        let nested = |open: &str, close: &str, levels: usize| {
            format!("{}key == 'a'{}", open.repeat(levels), close.repeat(levels))
        };
        assert!(refused(&format!("key == '{}'", "x".repeat(3_000))).contains("2048"));
        assert!(refused(&nested("(", ")", 90)).contains("nested deeper than 24"));
        assert!(refused(&nested("!!(", ")", 30)).contains("nested deeper than 24"));
        assert!(refused(&"[".repeat(2_000)).contains("nested deeper than 24"));
        assert!(refused(&format!("0{} == 0", " + 1".repeat(500))).contains("more than 32 deep"));
        assert!(refused(&format!("value{} == 0", ".a".repeat(1_000))).contains("more than 32 deep"));
        assert!(refused(&format!("{}1 == 1", "true ? 1 : ".repeat(170))).contains("Recursion limit"));
        // A text in which `\` does not escape hides what follows from the count of brackets, not from the parser.
        assert!(refused(&format!(r"key == r'\' || {}", nested("(", ")", 90))).contains("Recursion limit"));
        assert!(refused(&format!(r"key == r'\' || {}", "[".repeat(1_900))).contains("Recursion limit"));
        assert!(refused("value.a.exists(x, value.b.exists(y, x == y))").contains("for each element of another"));
        assert!(refused("key.matches(headers.pattern)").contains("a text in quotes"));
        assert!(refused("key.matches('(a{1000}){1000}')").contains("size limit"));
        assert!(refused("matches(key, '(')").contains("regex"));
        for source in [
            &*nested("(", ")", 24),
            &*nested("!!(", ")", 20),
            &*format!("0{} == 28", " + 1".repeat(28)),
            &*format!("{}key == 'a'", "key == 'b' || ".repeat(100)),
            &*format!("{}true", "!".repeat(2_000)),
            "key == '((((((((((((((((((((((((((((((' || key == \"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"((\"",
            "value.a.exists(x, x == 1) || value.b.exists(x, x == 1)",
            "key.matches('^[a-z]{1,8}$') && matches(key, '[0-9]')",
        ] {
            let compiled = Expression::compile(source, Vocabulary::Record);
            assert!(compiled.is_ok(), "{source}: {compiled:?}");
            let _ = asked(source, Some(b"{}"));
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
