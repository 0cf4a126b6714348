//! What starts the tests' cluster anew: the box itself, and an installation from nothing. One test at a time has it.

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod install;

/// There is one box.
static BOX: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
