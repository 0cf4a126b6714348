//! Asks coordinators about consumer groups, also about those of other members.
//!
//! librdkafka 2.12 can end the process that asks: when the connection to a coordinator breaks between two steps of a question
//! (librdkafka#4605), as every restart of a broker may do. So a process of its own asks. When that ends, the questions that it
//! had are errors, and the next one starts another.
//!
//! It also loses its way to a coordinator at times, when brokers restart, and finds it only when some broker comes or goes: a
//! process whose client had no answer in time is asked nothing more, either.
//!
//! The two speak JSON, a line each, over the standard input and output of the process: first the settings of its client, which
//! no list of processes shows there, then questions, each with a number that its answer has, too. It ends with its input.

mod answer;
mod librdkafka;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

pub use answer::answer;

use super::connection::Connection;
use super::observer::TIMEOUT;
use crate::domain::observe::group::GroupView;

/// The command of this binary that answers.
pub const COMMAND: &str = "groups";

/// The longest that an answer takes: Kafka's time, librdkafka's, and that of a machine with much to do. A process that takes
/// longer hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(TIMEOUT.as_secs() + 5);

/// How long after a process has ended badly the next one is started.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// How many questions may wait to be taken on.
const QUESTIONS: usize = 64;

/// What is committed for the partitions of a group, by topic and partition: the offset, and what stands beside it.
pub type Committed = BTreeMap<(String, i32), (i64, String)>;

/// Why a question about a group has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GroupsError {
    /// Kafka did not answer, or not as hoped.
    #[error("{0}")]
    Kafka(String),
    /// The process that asks could not be started, has ended, or hangs.
    #[error("the process that asks about groups {0}")]
    Process(String),
}

#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Describe(String),
    Committed(String),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Described(GroupView),
    Committed(Vec<((String, i32), (i64, String))>),
    Failed(String),
    TimedOut(String),
}

/// A line in either direction.
#[derive(Debug, Serialize, Deserialize)]
struct Numbered<T> {
    number: u64,
    of: T,
}

/// Asks about the groups of one Kafka. Once the last clone is dropped the process that asks is ended.
#[derive(Clone)]
pub struct Groups {
    questions: mpsc::Sender<(Question, Reply)>,
}

type Reply = oneshot::Sender<Result<Answer, GroupsError>>;

impl Groups {
    /// Prepares to ask by this program, which is `lazaret`. Nothing is started yet.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(program: impl Into<PathBuf>, connection: &Connection) -> Self {
        let (sender, questions) = mpsc::channel(QUESTIONS);
        tokio::spawn(run(program.into(), connection.group_observer(), questions));
        Self { questions: sender }
    }

    /// Describes a group. One that does not exist is `Dead`.
    pub async fn describe(&self, group: String) -> Result<GroupView, GroupsError> {
        match self.ask(Question::Describe(group)).await? {
            Answer::Described(group) => Ok(group),
            other => Err(unexpected(other)),
        }
    }

    /// What a group has committed; nothing where there is no such group.
    pub async fn committed(&self, group: String) -> Result<Committed, GroupsError> {
        match self.ask(Question::Committed(group)).await? {
            Answer::Committed(committed) => Ok(committed.into_iter().collect()),
            other => Err(unexpected(other)),
        }
    }

    async fn ask(&self, question: Question) -> Result<Answer, GroupsError> {
        let (reply, answer) = oneshot::channel();
        let ended = |_| GroupsError::Process("is not there any more".to_owned());
        self.questions.send((question, reply)).await.map_err(|_| ended(()))?;
        answer.await.map_err(|_| ended(()))?
    }
}

/// This program.
pub fn this_program() -> PathBuf {
    // A name that stays right when the file is replaced.
    let linux = PathBuf::from("/proc/self/exe");
    if linux.exists() { linux } else { std::env::current_exe().unwrap_or_else(|_| "lazaret".into()) }
}

fn unexpected(answer: Answer) -> GroupsError {
    match answer {
        Answer::Failed(error) | Answer::TimedOut(error) => GroupsError::Kafka(error),
        other => GroupsError::Process(format!("has answered another question: {other:?}")),
    }
}

/// Has questions answered until nobody is left who could ask one.
async fn run(program: PathBuf, settings: ClientConfig, mut questions: mpsc::Receiver<(Question, Reply)>) {
    while let Some(first) = questions.recv().await {
        if let Err(why) = serve(&program, &settings, first, &mut questions).await {
            warn!(target: "lazaret::kafka", "the process that asks about groups {why}: another one is started");
            sleep(RESTART_PAUSE).await;
        }
    }
}

/// Starts a process and has it answer, as long as it does and there is somebody who could ask. An error is how it ended.
async fn serve(
    program: &Path,
    settings: &ClientConfig,
    first: (Question, Reply),
    questions: &mut mpsc::Receiver<(Question, Reply)>,
) -> Result<(), String> {
    let mut process = match Process::start(program, settings).await {
        Ok(process) => process,
        Err(error) => {
            let why = format!("could not be started: {error}");
            let asked = std::iter::once(first).chain(std::iter::from_fn(|| questions.try_recv().ok()));
            asked.for_each(|(_, reply)| drop(reply.send(Err(GroupsError::Process(why.clone())))));
            return Err(why);
        }
    };
    process.ask(first).await?;
    loop {
        tokio::select! {
            question = questions.recv() => match question {
                Some(question) => process.ask(question).await?,
                None => return Ok(()),
            },
            is_lost = process.answer() => if is_lost? {
                // Others may have an answer still; meanwhile the next process serves.
                tokio::spawn(async move {
                    while !process.waiting.is_empty() && process.answer().await.is_ok() {}
                });
                return Ok(());
            },
        }
    }
}

/// The process that asks; it is killed when this is dropped.
struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Who waits for an answer, and until when, by the numbers of their questions.
    waiting: BTreeMap<u64, (Instant, Reply)>,
    number: u64,
}

impl Process {
    async fn start(program: &Path, settings: &ClientConfig) -> Result<Self, String> {
        let mut child = Command::new(program)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            // Ctrl-C is for this process, which ends that one.
            .process_group(0)
            .spawn()
            .map_err(|error| error.to_string())?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no input or output".to_owned());
        };
        let mut process =
            Self { child, input, output: BufReader::new(output).lines(), waiting: BTreeMap::new(), number: 0 };
        process.write(&settings.config_map()).await?;
        Ok(process)
    }

    /// Passes a question on.
    async fn ask(&mut self, (question, reply): (Question, Reply)) -> Result<(), String> {
        self.number += 1;
        self.waiting.insert(self.number, (Instant::now() + ANSWER_TIMEOUT, reply));
        let written = self.write(&Numbered { number: self.number, of: question }).await;
        written.map_err(|why| self.fail(why))
    }

    /// Passes the next answer on; it may be given up at any time. Returns whether librdkafka had none in time.
    async fn answer(&mut self) -> Result<bool, String> {
        // Numbers rise: the first one waits longest.
        let deadline = self.waiting.first_key_value().map(|(_, (deadline, _))| *deadline);
        let line = tokio::select! {
            line = self.output.next_line() => line,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                return Err(self.fail("does not answer".to_owned()));
            }
        };
        let Ok(Some(line)) = line else {
            let why = self.end().await;
            return Err(self.fail(why));
        };
        match serde_json::from_str::<Numbered<Answer>>(&line) {
            Ok(Numbered { number, of }) => {
                let is_lost = matches!(of, Answer::TimedOut(_));
                if let Some((_, reply)) = self.waiting.remove(&number) {
                    let _ = reply.send(Ok(of));
                }
                Ok(is_lost)
            }
            Err(error) => Err(self.fail(format!("is not understood: {error}"))),
        }
    }

    /// Says to all who wait that there will be no answer.
    fn fail(&mut self, why: String) -> String {
        for (_, reply) in std::mem::take(&mut self.waiting).into_values() {
            let _ = reply.send(Err(GroupsError::Process(why.clone())));
        }
        why
    }

    async fn write(&mut self, line: &impl Serialize) -> Result<(), String> {
        let mut line = serde_json::to_vec(line).map_err(|error| error.to_string())?;
        line.push(b'\n');
        match self.input.write_all(&line).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.end().await),
        }
    }

    /// Waits for a process that has closed its input or output, and says how it ended.
    async fn end(&mut self) -> String {
        match tokio::time::timeout(RESTART_PAUSE, self.child.wait()).await {
            Ok(Ok(status)) => format!("ended with {status}"),
            Ok(Err(error)) => format!("is lost: {error}"),
            Err(_) => "has closed its output".to_owned(),
        }
    }
}
