//! What a build without Kubernetes answers to what concerns a cluster: that it has none, and which build has.
//!
//! The commands are known, though not listed: to a person who types one, "unknown command" would be misleading.

use std::ffi::OsString;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::{PLUGIN, Refused};
use crate::features::{Feature, NotBuilt};

#[derive(Debug, Subcommand)]
pub(super) enum KubernetesCommand {
    #[command(hide = true, disable_help_flag = true)]
    Operator(Anything),
    #[command(hide = true, disable_help_flag = true)]
    Status(Anything),
    #[command(hide = true, disable_help_flag = true)]
    Explain(Anything),
    #[command(hide = true, disable_help_flag = true)]
    Dlt(Anything),
}

#[derive(Debug, Parser)]
#[command(name = PLUGIN, bin_name = "kubectl lazaret", version)]
struct Kubectl {
    #[command(subcommand)]
    command: KubernetesCommand,
}

/// The rest of the command line, whatever it is.
#[derive(Debug, Args)]
pub(super) struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<OsString>,
}

impl KubernetesCommand {
    /// Reads the command line of the plugin of kubectl.
    pub fn read_as_plugin() -> Self {
        Kubectl::parse().command
    }

    /// Whether it is a person's question, which is answered and nothing more: here each is.
    pub fn is_question(&self) -> bool {
        true
    }

    /// Refuses it.
    pub fn run(self) -> Result<()> {
        Err(Refused(NotBuilt(Feature::Kubernetes).to_string()).into())
    }
}
