//! How waits grow, in the retry policy and in its exceptions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the wait grows from one attempt to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// No wait.
    Immediate,
    /// Always the initial delay.
    Fixed,
    /// The initial delay, multiplied each time.
    Exponential,
    /// As `Exponential`, made longer or shorter at random.
    #[default]
    ExponentialJitter,
}
