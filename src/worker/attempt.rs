//! Attempts: a partition's records wait, are processed, and what becomes of them is decided.

pub(super) mod context;
pub(super) mod partition;
pub mod processor;
pub(super) mod refetch;
pub(super) mod spans;
pub(super) mod throttle;
