//! What is served beside the work: the HTTP API, with counts, failures on demand, and records in.

pub mod http;
pub mod kept_count;
pub(super) mod latest;
pub mod peers;
