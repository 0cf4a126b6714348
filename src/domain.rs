//! The rules of an error path, as pure functions and plain data.
//!
//! Nothing here does I/O, reads a clock, spawns or waits: time and randomness are passed in. Neither the Kafka client
//! nor Kubernetes nor the async runtime is named below this module; `tests/local/architecture.rs` keeps it so.
//!
//! | module | rule |
//! |---|---|
//! | [`record`] | what a record is: bytes that stay bytes |
//! | [`time`] | instants as Kafka counts them |
//! | [`failure`] | what can come of calling a processor |
//! | [`http`] | what an HTTP answer means |
//! | [`expression`] | CEL over a record |
//! | [`rules`] | the processor that is written in CEL |
//! | [`pipeline`] | what a user declared, complete and checked |
//! | [`topic`] | how a topic that exists compares with the one that is asked for |
//! | [`policy`] | how often and when a failure is tried again |
//! | [`decide`] | what happens to a record now |
//! | [`breaker`] | whether the processor is asked at all |
//! | [`pace`] | when the next call may start |
//! | [`provenance`] | where a record came from and how often it was tried |
//! | [`envelope`] | the records written to the retry topic and the dead letter topic |
//! | [`dead_letter`] | what a dead letter says of itself, whoever wrote it |
//! | [`dead_letters`] | how many dead letters there are, and of which kinds |
//! | [`load`] | what the records of a partition cost in memory, and whether it may take in more |
//! | [`lane`] | which records may be processed at the same time |
//! | [`due_queue`] | which record is due next |
//! | [`delay_queue`] | which of the records that wait are due, and have room |
//! | [`pending`] | which of the records that wait are held in memory |
//! | [`offsets`] | which offset is safe to commit |
//! | [`commit_metadata`] | finished offsets above the committed one, as text |
//! | [`lag`] | how much of a topic is not processed yet |
//! | [`group`] | what changed in a consumer group, and why |
//! | [`rebalance`] | which steps are one rebalance |
//! | [`round`] | what may be routed together, and what is committed with it |
//! | [`partition_state`] | what is known of one assigned partition |
//! | [`settlement`] | what is written, committed and given up next |
//! | [`tally`] | how many records a partition holds |
//! | [`stats`] | what a worker says of itself, and what all of them did together |
//! | [`switch`] | which of several settings of a switch holds |

pub mod breaker;
pub mod commit_metadata;
pub mod dead_letter;
pub mod dead_letters;
pub mod decide;
pub mod delay_queue;
pub mod due_queue;
pub mod envelope;
pub mod expression;
pub mod failure;
pub mod group;
pub mod http;
pub mod lag;
pub mod lane;
pub mod load;
pub mod offsets;
pub mod pace;
pub mod partition_state;
pub mod pending;
pub mod pipeline;
pub mod policy;
pub mod provenance;
pub mod rebalance;
pub mod record;
pub mod round;
pub mod rules;
pub mod settlement;
pub mod stats;
pub mod switch;
pub mod tally;
pub mod time;
pub mod topic;
pub mod topic_id;
