//! The engine and what reads its topics, on the embedded broker and on a real Kafka.

#[path = "../support/mod.rs"]
mod support;

mod counts;
mod dlt;
mod engine;
mod exactly_once;
mod finished_ahead;
mod hand_over;
mod http_api;
mod keep_order;
mod labs;
mod large_records;
mod memory;
mod open_transaction;
mod partitioner;
mod peers;
mod pending;
mod refusals;
mod silent_kafka;
mod throttle;
mod traces;
mod upgrade;
