//! When records are kept from a processor that fails most of them.

use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::duration::Duration;

/// Keeps records from a processor that fails most of them, so that an outage does not use up their attempts and fill the
/// dead letter topic.
///
/// Each stage of each worker has a breaker of its own. While it is open the stage reads and processes nothing, keeps its
/// partitions, and no attempt is used up. Then a few records are tried, and it closes or opens again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Whether there is one. Default: `true`.
    pub enabled: bool,

    /// The share of failed calls that opens it, 0.01 to 1. Default: 0.5. Every failed call counts, also one whose record
    /// goes straight to the dead letter topic. A topic where it is usual that most records fail needs a higher share.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub failure_rate: f64,

    /// How many calls there must be within `window` before it can open, 1 to 1000000. Default: 100.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub minimum_calls: u32,

    /// How far back calls count: 1s to 1h. Default: `1m`.
    #[schemars(extend("x-kubernetes-validations" = of_a_second_to_an_hour()))]
    pub window: Duration,

    /// How long nothing is processed before records are tried again: 1s to 1h. Default: `30s`.
    #[schemars(extend("x-kubernetes-validations" = of_a_second_to_an_hour()))]
    pub open_for: Duration,

    /// How many calls are then tried, 1 to 1000. Default: 5. If fewer than `failureRate` of them fail it closes, else it
    /// opens again. A record whose trial fails stays where it is, and the trial is no attempt; only when its trials have
    /// failed `retry.maxAttempts` times does the last one count. So while every record fails hardly any goes to the dead
    /// letter topic; `enabled: false` lets them all go.
    #[schemars(range(min = 1, max = 1_000))]
    pub half_open_calls: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            enabled: true,
            failure_rate: 0.5,
            minimum_calls: 100,
            window: Duration::from_secs(60),
            open_for: Duration::from_secs(30),
            half_open_calls: 5,
        }
    }
}

fn of_a_second_to_an_hour() -> [Rule; 1] {
    [Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("must be 1s to 1h")]
}
