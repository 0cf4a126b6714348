//! Lazaret gives every Kafka topic a professional error path: retry with backoff, a dead letter topic, classification of
//! errors and graceful rebalancing, declared in one custom resource.
//!
//! # The map
//!
//! Imports point one way, downwards; `tests/local/architecture.rs` keeps it so.
//!
//! ```text
//! main, cli
//!     │
//!  dev   plugin     everything in one process, for a laptop  ·  kubectl lazaret: reads, and says what is and what would be
//!     │
//!   worker          the data plane: one engine, two stages, and its HTTP API
//!  operator         the control plane: makes the cluster as each pipeline asks for
//!     │
//! api   kafka       what users write  ·  settings, records and topics of a Kafka client
//!     │
//!   domain          the rules, pure: no I/O, no clock, no async
//! ```

pub mod api;
pub mod cli;
pub mod dev;
pub mod domain;
pub mod features;
pub mod kafka;
#[cfg(feature = "kubernetes")]
pub mod operator;
#[cfg(feature = "kubernetes")]
pub mod plugin;
pub mod shutdown;
pub mod telemetry;
pub mod worker;
