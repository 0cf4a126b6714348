//! Everything that a Kafka client is needed for, short of the engine itself: settings, records, topics, counts.
//!
//! What these modules do is thin; what is decided is decided in [`crate::domain`].

pub mod admin;
pub mod connection;
pub mod counter;
pub mod embedded;
pub mod groups;
pub mod log_reader;
pub mod observer;
pub mod reader;
pub mod record;
pub mod topics;
