//! What can go wrong in a reconcile, and how it is said.

use crate::kafka::topics::TopicError;

/// Why a reconcile failed: it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("the API server refused or did not answer")]
    Api(#[from] kube::Error),
    /// The whole took too long.
    #[error("the API server did not answer in time")]
    Timeout,
    /// The Kafka of a pipeline refused or did not answer.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// An object of that name is there already, and is not ours.
    #[error(
        "{kind} `{name}` exists already and does not belong to this pipeline: rename or delete it, or rename the pipeline"
    )]
    NameTaken {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
    },
    /// An object of that name goes, or is of a pipeline of the same name that is gone.
    #[error("{kind} `{name}` is still there from before")]
    Leftover {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
    },
    /// Another replica acts now.
    #[error("the lease was lost")]
    LeaseLost,
}

impl Error {
    /// In a word, for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Api(kube::Error::Api(status)) if status.code == 403 => "Forbidden",
            Self::Api(kube::Error::Api(status)) if status.is_conflict() => "Conflict",
            Self::Api(_) | Self::Timeout => "ApiServerError",
            Self::Topics(error) => error.reason(),
            Self::NameTaken { .. } | Self::Leftover { .. } => "NameTaken",
            Self::LeaseLost => "LeaseLost",
        }
    }

    /// For conditions: with its causes, on one line.
    pub fn in_words(&self) -> String {
        match self {
            // A quota and an admission policy forbid things, too.
            Self::Api(kube::Error::Api(status)) if status.code == 403 && status.message.contains(" cannot ") => {
                format!("the operator lacks a permission: {}", status.message)
            }
            Self::Api(kube::Error::Api(status)) => format!("the API server refused: {}", status.message),
            error => with_causes(error),
        }
    }

    /// When the pipeline's user hears of it.
    pub fn said(&self) -> Said {
        match self {
            Self::Api(kube::Error::Api(status)) => {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                let is_ending = causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating");
                match status.code {
                    _ if status.is_conflict() || is_ending => Said::Never,
                    403 | 422 => Said::AtOnce,
                    _ => Said::AfterSome,
                }
            }
            Self::Api(_) | Self::Timeout => Said::AfterSome,
            Self::Topics(_) | Self::NameTaken { .. } => Said::AtOnce,
            Self::Leftover { .. } | Self::LeaseLost => Said::Never,
        }
    }
}

/// When the user of a pipeline hears of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is a matter of moments: somebody else wrote at the same time, the namespace goes, another replica acts.
    Never,
    /// One answer that fails says little; several in a row do.
    AfterSome,
    /// Somebody has to do something.
    AtOnce,
}

/// An error with its causes, on one line. Some errors say their causes themselves: nothing is said twice.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source()).map(ToString::to_string);
    causes.fold(error.to_string(), |text, cause| if text.ends_with(&cause) { text } else { format!("{text}: {cause}") })
}
