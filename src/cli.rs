//! The command line: what can be asked of the binary, and how each request is met.
//!
//! Exit codes: 0 done, 1 it failed while it ran, 2 what was asked for is wrong (arguments, files).

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
use crate::domain::provenance::Stage;
use crate::kafka::connection::{Connection, addresses};
use crate::operator::{self, OperatorSettings};
use crate::plugin::{self, PluginCommand};
use crate::shutdown::Shutdown;
use crate::telemetry::{self, LogFormat};
use crate::worker::process::{Process, ProcessSettings, Summary};
use crate::worker::processor::{FaultSwitch, Processor};

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
    /// Look after the pipelines of a Kubernetes cluster.
    Operator(OperatorArgs),
    /// Print the custom resource definitions.
    Crds,
    #[command(flatten)]
    Plugin(PluginCommand),
}

/// The file name under which kubectl finds its plugin `lazaret`.
const PLUGIN: &str = "kubectl-lazaret";

/// Says how error handling pipelines are, and what their operator would do.
#[derive(Debug, Parser)]
#[command(name = PLUGIN, bin_name = "kubectl lazaret", version, propagate_version = true)]
struct Kubectl {
    #[command(subcommand)]
    command: PluginCommand,
}

impl Cli {
    /// Reads the command line, or ends the process with what is wrong with it. As a plugin of kubectl the binary has only
    /// the commands for that.
    pub fn read() -> Self {
        let name = std::env::args_os().next().map(PathBuf::from);
        let name = name.as_deref().and_then(Path::file_stem);
        match name.is_some_and(|name| name == PLUGIN) {
            true => Self { command: Command::Plugin(Kubectl::parse().command), log_format: None },
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
    /// A name that resolves to every worker, and the port of their HTTP API: errors that are simulated at one of them are
    /// then simulated at all. Default: only at that one.
    #[arg(long, value_name = "HOST:PORT", value_parser = addresses)]
    peers: Option<String>,
}

#[derive(Debug, Args)]
struct OperatorArgs {
    /// A namespace whose pipelines to look after; may be given several times. Default: all namespaces.
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// The image that workers run; this binary is its entry point.
    #[arg(long, value_name = "IMAGE")]
    worker_image: String,
    /// Where health and metrics are served.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The Lease by which several replicas agree on the one that acts, in the namespace that they run in.
    #[arg(long, default_value = "lazaret-operator", value_name = "NAME")]
    lease: String,
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
    if !matches!(cli.command, Command::Plugin(_)) || std::env::var_os("RUST_LOG").is_some() {
        telemetry::init(cli.log_format.unwrap_or_default());
    }
    let result = match cli.command {
        Command::Dev(args) => serve(|shutdown| dev(args, shutdown)),
        Command::Worker(args) => serve(|shutdown| worker(args, shutdown)),
        Command::Operator(args) => serve(|shutdown| operator(args, shutdown)),
        Command::Crds => print(&api::crds()),
        Command::Plugin(command) => block_on(plugin(command)),
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
    for Pipeline { name, processor, .. } in &pipelines {
        let made = Processor::new(processor, FaultSwitch::default());
        made.map_err(|error| refused(format!("{name}: spec.{error}")))?;
    }
    Ok(pipelines)
}

/// The name of this process in dead letters: the pod's, where there is one.
fn process_name() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| format!("lazaret-{}", std::process::id()))
}
