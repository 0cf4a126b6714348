//! The `lazaret` binary; see [`lazaret::cli`] for what it can be asked.

use std::process::ExitCode;

fn main() -> ExitCode {
    lazaret::cli::run(lazaret::cli::Cli::read())
}
