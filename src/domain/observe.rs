//! What can be seen from outside: what workers say of themselves, and what Kafka says of topics and groups.

pub mod dead_letters;
pub mod group;
pub mod lag;
pub mod rebalance;
pub mod stats;
pub mod tally;
