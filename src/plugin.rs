//! `kubectl lazaret`: says how pipelines are, what died in them, and what the operator would do about one. It only reads.
//!
//! It takes the operator's own rooms, so it cannot be of another opinion: `explain` looks up, judges and builds with
//! them, and stops where the operator would apply.
//!
//! `status` ends with 0 whenever it could be told how the pipelines are. A script that waits for one to be ready has
//! `kubectl wait --for=condition=Ready`.

mod cluster;
mod diff;
mod dlt;
mod error;
mod explain;
mod layout;
mod status;

use clap::{Args, Subcommand};
use k8s_openapi::jiff::Timestamp;

use cluster::{Cluster, ClusterArgs};
use dlt::DltCommand;
pub use error::PluginError;
use explain::read::Asked;
pub use layout::printable;

/// What can be asked of a cluster.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Say how pipelines are: a line for each, or all of one and what to do next.
    #[command(
        after_help = "Ends with 0 when it could be told, ready or not. To wait: kubectl wait ehp/NAME --for=condition=Ready"
    )]
    Status(StatusArgs),
    /// Print what the operator would apply for a pipeline, and how that differs from what is there.
    #[command(after_help = "Nothing is written. Ends with 1 when the pipeline cannot run.")]
    Explain(ExplainArgs),
    /// Read dead letters.
    Dlt {
        /// What to read of them.
        #[command(subcommand)]
        command: DltCommand,
    },
}

/// Of which pipelines to say how they are.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The pipeline. Default: all, a line each.
    name: Option<String>,
    /// The namespace. Default: that of the context.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "name"])]
    all_namespaces: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Which pipeline to explain.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The pipeline.
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// A file with pipelines in YAML, as they are to be; `-` is standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with = "name")]
    file: Option<std::path::PathBuf>,
    /// The namespace. Default: what the file says, else that of the context.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The image of the workers. Default: the one that they have.
    #[arg(long, value_name = "IMAGE")]
    worker_image: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Answers.
pub async fn run(command: PluginCommand) -> Result<String, PluginError> {
    let answer = match command {
        PluginCommand::Status(args) => status(args).await,
        PluginCommand::Explain(args) => explain(args).await,
        PluginCommand::Dlt { command } => dlt::run(command).await,
    };
    answer.map(|text| printable(&text))
}

async fn status(args: StatusArgs) -> Result<String, PluginError> {
    let cluster = Cluster::choose(args.cluster).await?;
    let namespace = args.namespace.unwrap_or_else(|| cluster.namespace.clone());
    let Some(name) = args.name else {
        let namespace = (!args.all_namespaces).then_some(namespace.as_str());
        return Ok(status::list(&cluster.pipelines(namespace).await?, namespace, Timestamp::now()));
    };
    let object = cluster.pipeline(&namespace, &name).await?;
    let stages = cluster.stages(&object).await?;
    let events = cluster.events(&object).await?;
    Ok(status::page(&status::Page { object, stages, events }, Timestamp::now()))
}

async fn explain(args: ExplainArgs) -> Result<String, PluginError> {
    // A file is read first: what is wrong with it needs no cluster.
    let written = args.file.as_deref().map(explain::read::file).transpose()?;
    let cluster = Cluster::choose(args.cluster).await?;
    let asked = match (written, args.name) {
        (Some(written), _) => explain::read::in_namespace(&cluster, written, args.namespace.as_deref()).await?,
        (None, name) => {
            let namespace = args.namespace.unwrap_or_else(|| cluster.namespace.clone());
            vec![Asked::There(cluster.pipeline(&namespace, &name.unwrap_or_default()).await?)]
        }
    };
    let mut text = String::new();
    for asked in asked {
        let seen = explain::read::look(&cluster, asked).await?;
        let plan = explain::read::plan(&cluster, seen, args.worker_image.as_deref()).await?;
        text.push_str(&explain::explain(&plan));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
