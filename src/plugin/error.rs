//! Why a question to a cluster has no answer: one line each, that says what to do.

use crate::operator::error::{Error, with_causes};

/// Why a command of the plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no kubeconfig, or it cannot be used.
    #[error("no cluster can be chosen: {0}; say --kubeconfig FILE or --context CONTEXT, or set KUBECONFIG")]
    Config(String),
    /// The kubeconfig says something that no client can be made of.
    #[error("the client for the API server could not be made: {0}")]
    Client(String),
    /// Nobody answers.
    #[error("the API server at {url} does not answer: {why}; is the cluster up, and is it the right --context?")]
    Unreachable {
        /// Its address.
        url: String,
        /// What the client says.
        why: String,
    },
    /// The credentials are not taken.
    #[error("the API server at {0} does not know you: log in to the cluster again")]
    Unauthorized(String),
    /// A right is missing.
    #[error("you may not do that: {0}; ask for a role that may, or name with -n a namespace where you have one")]
    Forbidden(String),
    /// The cluster knows no pipelines.
    #[error("Lazaret is not installed in this cluster: install its chart, or at least its CRDs (lazaret crds)")]
    NotInstalled,
    /// The API server refused for another reason.
    #[error("the API server refused: {0}")]
    Api(String),
    /// There is no such pipeline.
    #[error("there is no pipeline `{name}` in the namespace `{namespace}`{hint}")]
    NotFound {
        /// The name.
        name: String,
        /// Where it was looked for.
        namespace: String,
        /// What may have been meant.
        hint: String,
    },
    /// The pipeline is there, but of another version.
    #[error("the pipeline `{name}` cannot be read: {why}; apply it anew")]
    Unreadable {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A file cannot be read, or what is in it is wrong.
    #[error("{0}")]
    File(String),
    /// The file and the command line name different namespaces.
    #[error("{name} is in the namespace `{in_file}` by its file, and -n says `{asked}`: leave one of them out")]
    OtherNamespace {
        /// The pipeline.
        name: String,
        /// What the file says.
        in_file: String,
        /// What the command line says.
        asked: String,
    },
    /// Nothing says which image workers run.
    #[error("which image the workers of `{0}` would run is not known, as it has none yet: say --worker-image IMAGE")]
    NoImage(String),
    /// The command line does not say enough.
    #[error("{0}")]
    Usage(String),
    /// There is nobody to ask.
    #[error(
        "no worker of `{0}` runs, which could read its dead letters: start one, or say --bootstrap-servers HOST:PORT if \
         Kafka can be reached from here"
    )]
    NoWorker(String),
    /// There never is anybody to ask.
    #[error(
        "the consumers of `{0}` are not Lazaret's, so there is no worker that could read its dead letters: say \
         --bootstrap-servers HOST:PORT, where Kafka can be reached from here"
    )]
    NoWorkerEver(String),
    /// A worker could not answer.
    #[error("by the worker {pod}: {why}")]
    Worker {
        /// Its pod.
        pod: String,
        /// What it said.
        why: String,
        /// Whether it said that what was asked for is wrong.
        is_refusal: bool,
    },
    /// Kafka does not answer.
    #[error("Kafka at {bootstrap_servers} could not be read: {why}; is it reachable from here?")]
    Kafka {
        /// Where it was looked for.
        bootstrap_servers: String,
        /// What the client says.
        why: String,
    },
    /// There is no such topic.
    #[error("there is no topic `{0}` in this Kafka; `kubectl lazaret status NAME` lists those of a pipeline")]
    NoTopic(String),
    /// There is nothing at this place.
    #[error("there is no dead letter at {position} of {topic}: retention may have taken it, or it never was one")]
    NoLetter {
        /// The topic.
        topic: String,
        /// The place in it.
        position: String,
    },
    /// The pipeline cannot run.
    #[error("the pipeline `{name}` cannot run: {reason}: {message}")]
    Invalid {
        /// Its name.
        name: String,
        /// Why, in a word.
        reason: &'static str,
        /// Why, and what to do.
        message: String,
    },
}

impl PluginError {
    /// What the API server at an address said, or why it said nothing.
    pub fn of(error: &kube::Error, url: &str) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                401 => Self::Unauthorized(url.to_owned()),
                403 => Self::Forbidden(status.message.clone()),
                code if status.message.is_empty() => Self::Api(format!("HTTP status {code}")),
                _ => Self::Api(status.message.clone()),
            },
            error => Self::Unreachable {
                url: url.to_owned(),
                why: std::error::Error::source(error).map_or_else(|| error.to_string(), with_causes),
            },
        }
    }

    /// What the operator's own code says.
    pub fn of_operator(error: &Error, url: &str) -> Self {
        match error {
            Error::Api(error) => Self::of(error, url),
            error => Self::Api(with_causes(error)),
        }
    }

    /// Whether what was asked for is wrong, and not the world.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Config(_)
                | Self::NotFound { .. }
                | Self::File(_)
                | Self::OtherNamespace { .. }
                | Self::NoImage(_)
                | Self::Usage(_)
                | Self::NoWorkerEver(_)
                | Self::Worker { is_refusal: true, .. }
                | Self::NoTopic(_)
                | Self::NoLetter { .. }
        )
    }
}
