//! What needs neither Kafka nor a cluster: the layout of the code, the mutants, the CRD, the chart, the alerts, what expressions
//! decide, and what is said to wrong input.

#[path = "../support/mod.rs"]
mod support;

mod helm;

mod alerts;
mod architecture;
mod cel;
mod chart;
mod crds;
mod mutants;
mod wrong_turns;
