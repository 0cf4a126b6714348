//! What is changed about an expression before it is evaluated: where the interpreter would decide otherwise than the language
//! says, and where it would do for each record what can be done once.
//!
//! | expression | what the interpreter does | what is done about it |
//! |---|---|---|
//! | `a.b` where `a` is no map | answered `false` once | it becomes `a["b"]`, which is an error |
//! | a list `+` a map | adds the keys | an error |
//! | `duration('1.001s')` | loses a nanosecond | is exact |
//! | `duration('1h-30m')`, `duration('1e3s')` | takes them | an error, as for all that are no durations |
//! | `matches` | compiles the pattern for each record, and reads it otherwise than RE2 | see [`super::pattern`] |
//! | `a.?b`, `[?a]`, and quotes around a field | are extensions | refused by the parser |
//! | an int and a double beyond 2^53 | compares them as doubles, as other implementations do | left so |
//! | a macro over a map | goes through the keys in any order, which the language allows | left so |

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::CelString;

use super::functions::{DURATION, SUM};
use super::pattern::Pattern;

/// Takes the patterns of `matches` out, compiled, and puts their numbers in their places; or says why one cannot be used.
pub(super) fn take_patterns(expression: &mut IdedExpr) -> Result<Vec<Pattern>, String> {
    let mut patterns = vec![];
    take_patterns_into(&mut patterns, expression)?;
    Ok(patterns)
}

fn take_patterns_into(patterns: &mut Vec<Pattern>, node: &mut IdedExpr) -> Result<(), String> {
    if let Expr::Call(call) = &mut node.expr
        && call.func_name == "matches"
    {
        let pattern = match (&call.target, &mut call.args[..]) {
            (Some(_), [pattern]) | (None, [_, pattern]) => pattern,
            _ => return Err("`matches` takes a text and a pattern".to_owned()),
        };
        // A pattern that a record brings could be anything.
        let Expr::Literal(LiteralValue::String(text)) = &pattern.expr else {
            return Err("the pattern of `matches` has to be a text in quotes".to_owned());
        };
        let compiled = Pattern::compile(text.inner())?;
        pattern.expr = Expr::Ident(format!("{PATTERN}{}", patterns.len()));
        patterns.push(compiled);
    }
    parts(node).into_iter().try_for_each(|part| take_patterns_into(patterns, part))
}

/// What the name of a pattern begins with. No name that is written in an expression can.
const PATTERN: char = '@';

/// The number of the pattern that has this name.
pub(super) fn pattern_number(name: &str) -> Option<usize> {
    name.strip_prefix(PATTERN)?.parse().ok()
}

/// Turns each `a.b` into `a["b"]`.
///
/// The interpreter answers `a.b` with `false` where `a` is no map, instead of with an error as the language says; a
/// record that lacks a field could then pass for one that has it. Indexing is strict. `has(a.b)` stays as it is.
pub(super) fn make_selection_strict(node: &mut IdedExpr) {
    parts(node).into_iter().for_each(make_selection_strict);
    if let Expr::Select(select) = &mut node.expr
        && !select.test
    {
        let field = LiteralValue::String(CelString::from(std::mem::take(&mut select.field)));
        let field = IdedExpr { id: node.id, expr: Expr::Literal(field) };
        let args = vec![std::mem::take(&mut *select.operand), field];
        node.expr = Expr::Call(CallExpr { func_name: operators::INDEX.to_owned(), target: None, args });
    }
}

/// Turns each `a + b` into a call of [`SUM`], and each call of `duration` into one of [`DURATION`].
///
/// The interpreter adds the keys of a map to a list, where the language has no such sum. The sums that macros are made of
/// stay as they are: it knows them by their form.
pub(super) fn make_functions_strict(node: &mut IdedExpr) {
    parts(node).into_iter().for_each(make_functions_strict);
    let Expr::Call(call) = &mut node.expr else { return };
    let is_of_macro =
        matches!(call.args.first().map(|first| &first.expr), Some(Expr::Ident(name)) if name.starts_with('@'));
    match (call.func_name.as_str(), &call.target) {
        (operators::ADD, _) if !is_of_macro => call.func_name = SUM.to_owned(),
        ("duration", None) => call.func_name = DURATION.to_owned(),
        _ => {}
    }
}

fn parts(node: &mut IdedExpr) -> Vec<&mut IdedExpr> {
    match &mut node.expr {
        Expr::Select(select) => vec![&mut select.operand],
        Expr::Call(call) => call.target.iter_mut().map(|target| &mut **target).chain(&mut call.args).collect(),
        Expr::List(list) => list.elements.iter_mut().collect(),
        Expr::Map(map) => map.entries.iter_mut().flat_map(|entry| entry_parts(&mut entry.expr)).collect(),
        Expr::Struct(object) => object.entries.iter_mut().flat_map(|entry| entry_parts(&mut entry.expr)).collect(),
        Expr::Comprehension(c) => {
            vec![&mut c.iter_range, &mut c.accu_init, &mut c.loop_cond, &mut c.loop_step, &mut c.result]
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => vec![],
    }
}

fn entry_parts(entry: &mut EntryExpr) -> Vec<&mut IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&mut field.value],
        EntryExpr::MapEntry(entry) => vec![&mut entry.key, &mut entry.value],
    }
}
