//! The command line: what can be asked of the binary, and how each request is met.
//!
//! What concerns a cluster is in `kubernetes`, which a build without that feature replaces with an answer that says so.
//!
//! Exit codes: 0 done, 1 it failed while it ran, 2 what was asked for is wrong (arguments, files).

#[cfg_attr(not(feature = "kubernetes"), path = "cli/no_kubernetes.rs")]
mod kubernetes;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::api::{self, file, validate};
use crate::dev::{Dev, DevSettings};
use crate::domain::pipeline::Pipeline;
use crate::domain::record::provenance::Stage;
use crate::features::{Feature, NotBuilt};
use crate::kafka::connection::{Connection, addresses};
use crate::kafka::groups;
use crate::shutdown::Shutdown;
use crate::telemetry::{self, LogFormat};
use crate::worker::attempt::processor::{FaultSwitch, Processor};
use crate::worker::process::{Process, ProcessSettings, Summary};
use kubernetes::KubernetesCommand;

/// Gives every Kafka topic a professional error path.
#[derive(Debug, Parser)]
#[command(name = "lazaret", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What a line of the log looks like. Default: json in a pod, else text.
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run whole pipelines on this machine, on an embedded broker or a Kafka of your own.
    Dev(DevArgs),
    /// Run one stage of the pipelines in a file.
    Worker(WorkerArgs),
    /// Print the custom resource definitions.
    Crds,
    /// Answer the operator's questions about consumer groups, which come on standard input.
    #[command(name = groups::COMMAND, hide = true)]
    Groups,
    #[command(flatten)]
    Kubernetes(KubernetesCommand),
}

/// The file name under which kubectl finds its plugin `lazaret`.
const PLUGIN: &str = "kubectl-lazaret";

impl Cli {
    /// Reads the command line, or ends the process with what is wrong with it. As a plugin of kubectl the binary has only
    /// the commands for that.
    pub fn read() -> Self {
        let name = std::env::args_os().next().map(PathBuf::from);
        let name = name.as_deref().and_then(Path::file_stem);
        match name.is_some_and(|name| name == PLUGIN) {
            true => Self { command: Command::Kubernetes(KubernetesCommand::read_as_plugin()), log_format: None },
            false => Self::parse(),
        }
    }
}

#[derive(Debug, Args)]
struct DevArgs {
    /// Files with pipelines in YAML.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// A Kafka to use instead of the embedded broker; missing topics are created there.
    #[arg(long, value_name = "HOST:PORT", value_parser = addresses)]
    bootstrap_servers: Option<String>,
    /// Where the HTTP API listens.
    #[arg(long, default_value = "127.0.0.1:18082", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

#[derive(Debug, Args)]
struct WorkerArgs {
    /// The stage to run.
    #[arg(long, value_enum)]
    stage: StageName,
    /// Files with pipelines in YAML.
    #[arg(long = "file", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where Kafka is. Default: what the file says in spec.kafka.bootstrapServers.
    #[arg(long, value_name = "HOST:PORT", value_parser = addresses)]
    bootstrap_servers: Option<String>,
    /// Where the HTTP API listens.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// A name that resolves to every worker of both stages, and the port of their HTTP API; or several. The stats of one of
    /// them are then those of all, and errors that are simulated at one are simulated at all. Default: this worker is the
    /// only one.
    #[arg(long, value_name = "HOST:PORT", value_parser = addresses)]
    peers: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StageName {
    Main,
    Retry,
}

impl From<StageName> for Stage {
    fn from(name: StageName) -> Self {
        match name {
            StageName::Main => Self::Main,
            StageName::Retry => Self::Retry,
        }
    }
}

/// What the user asked for is wrong: nothing was started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// Does what the command line asks for.
pub fn run(cli: Cli) -> ExitCode {
    // An answer to a person has no log beside it, unless it is asked for.
    let is_question = matches!(&cli.command, Command::Kubernetes(command) if command.is_question());
    if !is_question || std::env::var_os("RUST_LOG").is_some() {
        telemetry::init(cli.log_format.unwrap_or_default());
    }
    let result = match cli.command {
        Command::Dev(args) => serve(|shutdown| dev(args, shutdown)),
        Command::Worker(args) => serve(|shutdown| worker(args, shutdown)),
        Command::Crds => print(&api::crds()),
        Command::Groups => groups::answer().context("questions about groups cannot be answered"),
        Command::Kubernetes(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "lazaret: {error:#}");
            ExitCode::from(if error.is::<Refused>() { 2 } else { 1 })
        }
    }
}

/// Writes to standard output.
fn print(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("standard output cannot be written")
}

/// Runs what goes on until it is asked to stop.
///
/// Requests to stop are listened for before anything else is done. The first process of a container is sent SIGTERM once, and
/// nothing happens where it does not listen yet: a worker that is deleted while it starts would be killed half a minute later.
fn serve<F: Future<Output = Result<()>>>(command: impl FnOnce(Shutdown) -> F) -> Result<()> {
    block_on(async {
        let shutdown = Shutdown::listen().context("cannot listen for signals")?;
        command(shutdown).await
    })
}

/// Runs to the end, and then waits for nothing more: a question to a Kafka that hangs must not keep the process.
fn block_on(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime could not be started")?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

async fn dev(args: DevArgs, mut shutdown: Shutdown) -> Result<()> {
    let pipelines = read(&args.files)?;
    let DevArgs { bootstrap_servers, listen, .. } = args;
    let mut dev = Dev::open(DevSettings { pipelines, bootstrap_servers, listen, name: process_name() }).await?;
    let started = tokio::select! {
        started = dev.start() => started.map(|()| true)?,
        () = shutdown.requested() => false,
    };
    let mut failed = false;
    if started {
        let _ = print(&format!("{}\n", dev.overview()));
        failed = tokio::select! {
            () = shutdown.requested() => false,
            () = dev.failed() => true,
        };
    }
    end(dev.stop(), shutdown, failed).await
}

async fn worker(args: WorkerArgs, mut shutdown: Shutdown) -> Result<()> {
    let pipelines = read(&args.files)?;
    let connection = Connection::new(kafka_of(&pipelines, args.bootstrap_servers)?);
    let stages = pipelines.into_iter().map(|pipeline| (Arc::new(pipeline), args.stage.into())).collect();
    let peers = args.peers.iter().flat_map(|names| names.split(',')).map(|name| name.trim().to_owned()).collect();
    let settings = ProcessSettings { stages, connection, listen: args.listen, peers, name: process_name() };
    let mut process = Process::open(settings).await?;
    process.start()?;
    let failed = tokio::select! {
        () = shutdown.requested() => false,
        () = process.failed() => true,
    };
    end(process.stop(), shutdown, failed).await
}

/// The one Kafka that all of the pipelines are on: what the command line says, else what they say.
fn kafka_of(pipelines: &[Pipeline], given: Option<String>) -> Result<String, Refused> {
    if let Some(address) = given {
        return Ok(address);
    }
    let mut named: Vec<_> = pipelines.iter().map(|pipeline| pipeline.bootstrap_servers.as_deref()).collect();
    named.dedup();
    match named[..] {
        [Some(address)] => Ok(address.to_owned()),
        [] | [None] => {
            Err(Refused("no Kafka is named: say --bootstrap-servers, or set spec.kafka.bootstrapServers".into()))
        }
        _ => Err(Refused(
            "the pipelines are not all on one Kafka: run a worker for each, or say --bootstrap-servers".into(),
        )),
    }
}

/// Waits for what was started to be finished; a second request to stop does not wait.
async fn end(stop: impl Future<Output = Summary>, mut shutdown: Shutdown, failed: bool) -> Result<()> {
    tracing::info!("stopping: finishing what was started");
    let Summary { clean, processed, retried, dead_lettered } = tokio::select! {
        summary = stop => summary,
        () = shutdown.requested() => bail!("stopped at once: records in flight are processed again at the next start"),
    };
    // What was done is done, whether or not somebody reads of it.
    let _ = print(&format!("stopped: {processed} processed, {retried} retried, {dead_lettered} sent to the DLT\n"));
    if failed {
        bail!("a stage could not go on: see the log");
    }
    if !clean {
        bail!("not everything could be finished: some records are processed again at the next start");
    }
    Ok(())
}

/// Reads and checks pipelines from files.
fn read(files: &[PathBuf]) -> Result<Vec<Pipeline>> {
    let refused = |message: String| anyhow::Error::new(Refused(message));
    let mut objects = vec![];
    for path in files {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| refused(format!("{name}: {error}")))?;
        objects.extend(file::parse(&name, &text).map_err(|error| refused(error.to_string()))?);
    }
    if objects.is_empty() {
        return Err(refused("there is no pipeline in the files".into()));
    }
    let pipelines = validate::validate_all(&objects).map_err(|error| refused(error.to_string()))?;
    for Pipeline { name, processor, tracing, .. } in &pipelines {
        let made = Processor::new(processor, FaultSwitch::default());
        made.map_err(|error| refused(format!("{name}: spec.{error}")))?;
        if tracing.is_some() && !Feature::Otlp.is_built() {
            return Err(refused(format!("{name}: spec.tracing: {}", NotBuilt(Feature::Otlp))));
        }
    }
    Ok(pipelines)
}

/// The name of this process in dead letters: the pod's, where there is one.
fn process_name() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| format!("lazaret-{}", std::process::id()))
}

/// What a build without Kubernetes has in the place of `kubernetes`; it is compiled into the tests of any build.
#[cfg(all(test, feature = "kubernetes"))]
#[path = "cli/no_kubernetes.rs"]
#[allow(dead_code, reason = "the plugin's command line is read from the process")]
mod without;

#[cfg(all(test, feature = "kubernetes"))]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Without {
        #[command(subcommand)]
        command: without::KubernetesCommand,
    }

    #[test]
    fn a_build_without_kubernetes_knows_the_commands_for_it_and_says_what_it_lacks() {
        let lines =
            ["operator --worker-image x", "operator --help", "status -A", "explain -f x", "dlt list -n kafka x"];
        for line in lines {
            let asked = Without::try_parse_from(["lazaret"].into_iter().chain(line.split(' ')));
            let asked = asked.unwrap_or_else(|error| panic!("{line}: {error}"));
            let error = asked.command.run().unwrap_err();
            assert!(error.is::<Refused>() && error.to_string().contains("the feature `kubernetes`"), "{line}: {error}");
        }
        assert!(Without::try_parse_from(["lazaret", "oprator"]).is_err());
    }

    #[test]
    fn a_build_has_the_same_commands_with_kubernetes_and_without() {
        let names = |command: clap::Command| {
            let mut names: Vec<_> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
            names.sort_unstable();
            names
        };
        let with = kubernetes::KubernetesCommand::augment_subcommands(clap::Command::new("lazaret"));
        assert_eq!(names(with), names(<Without as clap::CommandFactory>::command()));
    }
}
