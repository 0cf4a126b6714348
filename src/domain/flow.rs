//! How much is taken on at a time, and when: what waits, what may run, and what holds back.

pub mod breaker;
pub mod delay_queue;
pub mod due_queue;
pub mod lane;
pub mod load;
pub mod pace;
pub mod pending;
