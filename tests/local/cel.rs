//! What expressions decide, case by case of CEL's own conformance tests: as the language says, or they are refused.
//!
//! Needs no cluster, but Go, with which the cases are fetched when they are not there.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lazaret::domain::policy::expression::{EvaluationError, Expression, Facts, Vocabulary};
use regex::Regex;
use serde_json::{Map, Value, json};

/// How many cases of each file are decided. Of the files that are not here none is: they are about messages of protocol
/// buffers, and about extensions.
const DECIDED: [(&str, usize); 14] = [
    ("basic", 41),
    ("comparisons", 332),
    ("conversions", 66),
    ("fields", 49),
    ("fp_math", 30),
    ("integer_math", 64),
    ("lists", 39),
    ("logic", 30),
    ("macros", 42),
    ("parse", 175),
    ("plumbing", 5),
    ("string", 51),
    ("timestamps", 70),
    ("type_deduction", 12),
];

/// Why a case is refused: a part of what is said, and the reason.
const REFUSED: [(&str, &str); 6] = [
    ("which is unknown here", "a name, a type or a function that no record has or needs"),
    (
        "unsupported syntax",
        "extensions: optional values, and quotes around a field, for which `value['content-type']` does",
    ),
    ("argument must be a simple name", "a variable as only an optimizer writes it"),
    ("the pattern of `matches` has to be a text", "what a pattern may cost"),
    ("brackets are nested deeper", "what the parser may cost"),
    ("a list is gone through for each element of another", "what a record may cost"),
];

/// How a case ends.
enum End {
    AsTheLanguageSays,
    Refused(String),
    Otherwise(String),
    /// It is about values that no record holds.
    NotOurs,
}

#[test]
fn no_case_of_the_language_is_decided_otherwise_than_it_says() {
    let (mut decided, mut wrong) = (BTreeMap::new(), vec![]);
    for (file, case) in cases() {
        match end(&case) {
            End::AsTheLanguageSays => *decided.entry(file).or_default() += 1,
            End::Refused(said) if REFUSED.iter().any(|(part, _)| said.contains(part)) => {}
            End::Refused(said) => wrong.push(format!("{file}: refused without a reason that is known: {said}")),
            End::Otherwise(said) => {
                let says = if case["evalError"].is_null() { &case["value"] } else { &case["evalError"] };
                wrong.push(format!("{file}: `{}` is {said}, and the language says {says}", case["expr"]));
            }
            End::NotOurs => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let decided: Vec<_> = decided.iter().map(|(file, cases)| (file.as_str(), *cases)).collect();
    assert_eq!(decided, DECIDED);
}

/// All cases that say what an expression evaluates to, each with the name of its file.
fn cases() -> Vec<(String, Value)> {
    let output = Command::new("tests/cel/build.sh").output().expect("tests/cel/build.sh can be run");
    assert!(output.status.success(), "no cases, which this test needs: {}", String::from_utf8_lossy(&output.stderr));
    let path = String::from_utf8(output.stdout).unwrap();
    let files: Map<String, Value> = serde_json::from_str(&fs::read_to_string(path.trim()).unwrap()).unwrap();
    let all = |file: &Value, field: &str| file[field].as_array().cloned().unwrap_or_default();
    let cases = files.iter().flat_map(|(name, file)| {
        let cases = all(file, "section").into_iter().flat_map(move |section| all(&section, "test"));
        cases.filter(|case| case["checkOnly"] != true).map(|case| (name.clone(), case))
    });
    cases.collect()
}

fn end(case: &Value) -> End {
    // What `dyn` gives is what it got; it tells those who check types that they need not.
    let mut source = case["expr"].as_str().unwrap().replace("dyn(", "(");
    let mut document = Map::new();
    for (name, bound) in case["bindings"].as_object().into_iter().flatten() {
        // These cannot be bound, which some cases are about.
        if ["true", "false", "null"].contains(&name.as_str()) {
            continue;
        }
        let Some(value) = held(&bound["value"]).filter(|_| !name.contains('.')) else { return End::NotOurs };
        let name_in_source = Regex::new(&format!(r"\b{name}\b")).unwrap();
        source = name_in_source.replace_all(&source, format!("value.{name}")).into_owned();
        document.insert(name.clone(), value);
    }
    let document = Value::Object(document).to_string();
    let asked = |source: &str| {
        let expression = Expression::compile(source, Vocabulary::Document).map_err(|error| error.to_string())?;
        Ok(expression.text(&Facts::of_document(document.as_bytes(), expression.reads())))
    };
    let answer = match asked(&source) {
        Ok(answer) => answer,
        Err(refusal) => return End::Refused(refusal),
    };
    if case["evalError"].is_object() {
        let is_right = matches!(answer, Err(EvaluationError::Failed { .. }));
        return if is_right { End::AsTheLanguageSays } else { End::Otherwise(format!("{answer:?}")) };
    }
    let result = [&case["value"], &case["typedResult"]["result"]].into_iter().find(|result| result.is_object());
    // A case that names no result is true.
    let result = result.cloned().unwrap_or_else(|| json!({"boolValue": true}));
    let (kind, value) = result.as_object().and_then(|result| result.iter().next()).unwrap();
    let is_right = match kind.as_str() {
        "nullValue" => answer == Ok(None),
        "boolValue" => answer == Ok(Some(value.to_string())),
        "int64Value" | "uint64Value" | "stringValue" => answer == Ok(value.as_str().map(str::to_owned)),
        "doubleValue" => {
            let number = |text: &str| text.parse::<f64>().ok();
            let said = answer.as_ref().ok().and_then(|text| number(text.as_deref()?));
            let right = value.as_f64().or_else(|| number(value.as_str()?)).unwrap();
            said.is_some_and(|said| said == right || said.is_nan() && right.is_nan())
        }
        // These have no text to compare.
        _ => match literal(&result).map(|right| asked(&format!("({source}) == {right}"))) {
            Some(Ok(answer)) => answer == Ok(Some("true".into())),
            Some(Err(refusal)) => return End::Refused(refusal),
            None => false,
        },
    };
    if is_right { End::AsTheLanguageSays } else { End::Otherwise(format!("{answer:?}")) }
}

fn parts(value: &Value, field: &str) -> Vec<Value> {
    value[field].as_array().cloned().unwrap_or_default()
}

/// A value as a record holds it, unless none can.
fn held(value: &Value) -> Option<Value> {
    let (kind, value) = value.as_object()?.iter().next()?;
    Some(match kind.as_str() {
        "nullValue" => Value::Null,
        "boolValue" | "stringValue" => value.clone(),
        "doubleValue" if value.is_number() => json!(value.as_f64()?),
        "int64Value" => json!(value.as_str()?.parse::<i64>().ok()?),
        "listValue" => Value::Array(parts(value, "values").iter().map(held).collect::<Option<_>>()?),
        "mapValue" => {
            let entry =
                |entry: &Value| Some((entry["key"]["stringValue"].as_str()?.to_owned(), held(&entry["value"])?));
            Value::Object(parts(value, "entries").iter().map(entry).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

/// A value as an expression writes it, unless none can.
fn literal(value: &Value) -> Option<String> {
    let (kind, value) = value.as_object()?.iter().next()?;
    Some(match kind.as_str() {
        "nullValue" => "null".into(),
        "boolValue" | "stringValue" => value.to_string(),
        "doubleValue" => format!("double('{}')", value.as_str().map_or(value.to_string(), str::to_owned)),
        "int64Value" => value.as_str()?.into(),
        "uint64Value" => format!("{}u", value.as_str()?),
        "bytesValue" => {
            let bytes = BASE64_STANDARD.decode(value.as_str()?).ok()?;
            format!("b'{}'", bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>())
        }
        "listValue" => {
            let values = parts(value, "values").iter().map(literal).collect::<Option<Vec<_>>>()?;
            format!("[{}]", values.join(", "))
        }
        "mapValue" => {
            let entry = |entry: &Value| Some(format!("{}: {}", literal(&entry["key"])?, literal(&entry["value"])?));
            let entries = parts(value, "entries").iter().map(entry).collect::<Option<Vec<_>>>()?;
            format!("{{{}}}", entries.join(", "))
        }
        _ => return None,
    })
}
