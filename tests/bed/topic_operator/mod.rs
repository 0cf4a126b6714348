//! The stand-in for Strimzi's topic operator, for tests that run one of their own.

mod admin;
mod contract;
mod operator;

pub use contract::FINALIZER;
pub use operator::{Settings, run, served};
