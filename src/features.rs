//! Which features this build has, and the error where one is missing.
//!
//! A demonstration on a laptop calls no endpoint with TLS, sees no cluster and sends no spans. What these three take to
//! compile is more than all the rest, so `make demo` is built without.

use std::fmt;

/// A feature of cargo that a build may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Endpoints with TLS.
    Https,
    /// The operator, and the plugin of kubectl.
    Kubernetes,
    /// Spans of attempts, sent to a collector.
    Otlp,
}

impl Feature {
    /// Whether this build has it.
    pub const fn is_built(self) -> bool {
        match self {
            Self::Https => cfg!(feature = "https"),
            Self::Kubernetes => cfg!(feature = "kubernetes"),
            Self::Otlp => cfg!(feature = "otlp"),
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Https => "https",
            Self::Kubernetes => "kubernetes",
            Self::Otlp => "otlp",
        })
    }
}

/// A feature that was requested is missing in this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this build was made without the feature `{0}`, as `make demo` does: `cargo build --release` makes one with everything"
)]
pub struct NotBuilt(pub Feature);
