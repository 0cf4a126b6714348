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
    let mut functions = Context::with_env(Arc::new(functions));
    functions.add_function("min", cel::functions::min).expect(taken);
    functions.add_function("max", cel::functions::max).expect(taken);
    functions
});

/// What a sum calls. No function that is named in an expression can have this name.
pub(super) const SUM: &str = "@sum";

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
