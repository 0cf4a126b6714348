//! The functions that expressions may call: those of CEL's standard library, `min` and `max`, and what takes the place of
//! one that decides otherwise than the language says.

use std::sync::{Arc, LazyLock};

use cel::common::types::{CelBool, CelList, CelString, DYN_TYPE};
use cel::common::value::CowVal;
use cel::{Context, Env, ExecutionError};

use super::pattern::{Pattern, is_in};

/// Made once for all evaluations.
pub(super) static FUNCTIONS: LazyLock<Context<'static, 'static>> = LazyLock::new(|| {
    let taken = "no other function has its name and its types";
    let mut functions = Env::stdlib();
    cel::add_overload!(functions, fn is_in: (CelString, Pattern) -> CelBool, name = "matches", id = "matches_pattern")
        .expect(taken);
    cel::add_member_overload!(functions, fn is_in: (CelString, Pattern) -> CelBool, name = "matches", id = "string_matches_pattern")
        .expect(taken);
    functions.add_overload(SUM, "sum", vec![DYN_TYPE, DYN_TYPE], sum).expect(taken);
    functions.add_overload(DURATION, "exact_duration", vec![DYN_TYPE], duration).expect(taken);
    let mut functions = Context::with_env(Arc::new(functions));
    functions.add_function("min", cel::functions::min).expect(taken);
    functions.add_function("max", cel::functions::max).expect(taken);
    functions
});

/// What a sum calls, and what `duration` does. No function that is named in an expression can have such a name.
pub(super) const SUM: &str = "@sum";
pub(super) const DURATION: &str = "@duration";

static STANDARD: LazyLock<Env> = LazyLock::new(Env::stdlib);

/// The sum of two values of one type.
fn sum<'b, 'v>(values: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [left, right] = &values[..] else {
        return Err(ExecutionError::invalid_argument_count(2, values.len()));
    };
    let is_list = |value: &CowVal<'_, '_>| value.downcast_ref::<CelList>().is_some();
    let none = || {
        let types = [left, right].map(|value| value.get_type().name().to_owned());
        ExecutionError::no_such_overload("_+_", types.into())
    };
    if is_list(left) && !is_list(right) {
        return Err(none());
    }
    Ok(CowVal::Owned(left.as_adder().ok_or_else(none)?.add(right.as_ref())?.into_owned()))
}

/// What a text says, as the language reads it.
///
/// The interpreter reads `1.001s` as a nanosecond less, and takes texts that are no durations, `1h-30m` and `1e3s`.
fn duration<'b, 'v>(mut values: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    if let [value] = &mut values[..]
        && let Some(text) = value.downcast_ref::<CelString>()
    {
        let error = || ExecutionError::function_error("duration", format!("'{}' is not a duration", text.inner()));
        *value = CowVal::owned(CelString::from(in_whole_numbers(text.inner()).ok_or_else(error)?));
    }
    match STANDARD.find_overload("duration", &values) {
        Some(standard) => standard(values),
        None => {
            let types = values.iter().map(|value| value.get_type().name().to_owned()).collect();
            Err(ExecutionError::no_such_overload("duration", types))
        }
    }
}

/// The same duration, written without fractions; `None` if it is none, or one that has more nanoseconds than 64 bits can say.
fn in_whole_numbers(text: &str) -> Option<String> {
    const UNITS: [(&str, i128); 6] = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some("0".to_owned());
    }
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut nanoseconds = 0_i64;
    loop {
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        let (unit, size) = UNITS.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        rest = &after[unit.len()..];
        // What is less than a nanosecond is left out.
        let number =
            format!("{whole}{:0<15.15}", fraction).parse::<i128>().ok().filter(|_| whole.len() + fraction.len() > 0)?;
        nanoseconds =
            nanoseconds.checked_add(i64::try_from(number.checked_mul(size)? / 1_000_000_000_000_000).ok()?)?;
        if rest.is_empty() {
            break;
        }
    }
    let (seconds, nanoseconds) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    Some(format!("{sign}{}h{}m{}s{nanoseconds}ns", seconds / 3_600, seconds / 60 % 60, seconds % 60))
}

/// What [`FUNCTIONS`] holds. An unknown function must be refused when the expression is read: at run time it would send
/// every record to the dead letter topic.
pub(super) const FUNCTION_NAMES: [&str; 23] = [
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
