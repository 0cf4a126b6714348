//! Where logs go and what they look like: text for a person, JSON for a pod's log collector. And what metrics are served as.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// The media type of metrics in the format of OpenMetrics 1.0.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Default for LogFormat {
    /// JSON in a pod, else text.
    fn default() -> Self {
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() { Self::Json } else { Self::Text }
    }
}

/// Standard error, for as long as somebody reads it.
///
/// `2>&1 | grep …` ends with the terminal's Ctrl-C before the process that it reads from has drained; a disk may be full. A
/// line that cannot be written is lost, and nothing else is.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

/// What is logged by default. rdkafka itself tells of each connection that breaks to clients which only ask.
const FILTER: &str = "info,rdkafka=off";

/// Starts to log to standard error. `RUST_LOG` chooses what, `info` by default.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| StandardError);
    match format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            subscriber.with_target(false).with_ansi(ansi).init();
        }
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}
