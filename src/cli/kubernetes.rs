//! What can be asked about a cluster: to run its operator, and what `kubectl lazaret` answers.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::{PLUGIN, Refused, block_on, print, process_name, serve};
use crate::operator::{self, OperatorSettings};
use crate::plugin::{self, PluginCommand};
use crate::shutdown::Shutdown;

#[derive(Debug, Subcommand)]
pub(super) enum KubernetesCommand {
    /// Run the controller for the pipelines of a Kubernetes cluster.
    Operator(OperatorArgs),
    #[command(flatten)]
    Plugin(PluginCommand),
}

/// Says how error handling pipelines are, and what their operator would do.
#[derive(Debug, Parser)]
#[command(name = PLUGIN, bin_name = "kubectl lazaret", version, propagate_version = true)]
struct Kubectl {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Args)]
pub(super) struct OperatorArgs {
    /// A namespace whose pipelines to manage; may be given several times. Default: all namespaces.
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// The image that workers run; this binary is its entry point.
    #[arg(long, value_name = "IMAGE")]
    worker_image: String,
    /// Where health and metrics are served.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: std::net::SocketAddr,
    /// The Lease by which several replicas agree on the one that acts, in the namespace that they run in.
    #[arg(long, default_value = "lazaret-operator", value_name = "NAME")]
    lease: String,
}

impl KubernetesCommand {
    /// Reads the command line of the plugin of kubectl.
    pub fn read_as_plugin() -> Self {
        Self::Plugin(Kubectl::parse().command)
    }

    /// Whether it is a person's question, which is answered and nothing more.
    pub fn is_question(&self) -> bool {
        matches!(self, Self::Plugin(_))
    }

    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Operator(args) => serve(|shutdown| operator(args, shutdown)),
            Self::Plugin(command) => block_on(plugin(command)),
        }
    }
}

async fn operator(args: OperatorArgs, mut shutdown: Shutdown) -> Result<()> {
    let OperatorArgs { namespaces, worker_image, listen, lease } = args;
    let settings = OperatorSettings { namespaces, worker_image, listen, lease, name: process_name() };
    Ok(operator::run(settings, shutdown.requested()).await?)
}

async fn plugin(command: PluginCommand) -> Result<()> {
    match plugin::run(command).await {
        Ok(answer) => print(&answer),
        Err(error) if error.is_refusal() => Err(Refused(plugin::printable(&error.to_string())).into()),
        Err(error) => Err(anyhow::Error::msg(plugin::printable(&error.to_string()))),
    }
}
