//! What is written and committed, and in which order.

pub mod commit_metadata;
pub mod offsets;
pub mod partition_state;
pub mod round;
pub mod settlement;
