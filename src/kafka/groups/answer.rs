//! The process that asks: it answers what it reads.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::librdkafka::{committed, describe};
use super::{Answer, Numbered, Question};
use crate::kafka::connection::{QUIET, forget_errors};
use crate::kafka::observer::TIMEOUT;

/// Answers the questions on standard input until it ends, each on a thread of its own: a coordinator that is silent must not
/// keep others from being asked.
///
/// # Errors
/// What was read is no question, the settings are none of a client, or the other side is gone.
pub fn answer() -> io::Result<()> {
    let mut lines = io::stdin().lock().lines();
    let Some(settings) = lines.next() else { return Ok(()) };
    let settings: BTreeMap<String, String> = serde_json::from_str(&settings?)?;
    let settings = settings.into_iter().collect::<ClientConfig>().set_log_level(QUIET).clone();
    let client: Arc<BaseConsumer> = Arc::new(settings.create().map_err(io::Error::other)?);
    for line in lines {
        let Numbered { number, of } = serde_json::from_str(&line?)?;
        forget_errors(&client);
        let client = client.clone();
        std::thread::spawn(move || {
            let line = Numbered { number, of: answer_to(&client, of) };
            // Nobody may be there any more: then the input ends, too.
            let _ = write(&line);
        });
    }
    // What is still asked is not waited for.
    std::mem::forget(client);
    Ok(())
}

fn answer_to(client: &BaseConsumer, question: Question) -> Answer {
    let answer = match question {
        Question::Describe(group) => describe(client, &group, TIMEOUT).map(Answer::Described),
        Question::Committed(group) => {
            committed(client, &group, TIMEOUT).map(|committed| Answer::Committed(committed.into_iter().collect()))
        }
    };
    answer.unwrap_or_else(|error: KafkaError| match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::OperationTimedOut) => Answer::TimedOut(error.to_string()),
        _ => Answer::Failed(error.to_string()),
    })
}

fn write(line: &Numbered<Answer>) -> io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}
