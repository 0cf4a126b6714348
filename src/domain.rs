//! The rules of an error path, as pure functions and plain data.
//!
//! Nothing here does I/O, reads a clock, spawns or waits: time and randomness are passed in. Neither the Kafka client
//! nor Kubernetes nor the async runtime is named below this module; `tests/local/architecture.rs` keeps it so.
//!
//! | module | rules |
//! |---|---|
//! | [`pipeline`], [`topic`] | what a user declared, complete and checked, and how what exists compares with it |
//! | [`record`] | what a record is, where it came from, how it failed, and what is written of it |
//! | [`policy`] | what happens to a record that failed: expressions, rules, answers, delays, the decision |
//! | [`flow`] | how much is taken on at a time, and when: load, lanes, what waits until it is due, pace, the circuit breaker |
//! | [`commit`] | what is written and committed, and in which order |
//! | [`observe`] | what can be seen from outside: stats, lag, dead letters, groups |
//! | [`time`], [`switch`] | instants as Kafka counts them; which of several settings of a switch holds |
//!
//! `commit` stands on `flow`, `policy` and `observe` on `record`, and everything on `time`.

pub mod commit;
pub mod flow;
pub mod observe;
pub mod pipeline;
pub mod policy;
pub mod record;
pub mod switch;
pub mod time;
pub mod topic;
