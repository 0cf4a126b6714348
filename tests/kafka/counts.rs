//! What is told of records and groups on Apache Kafka, beside what somebody else who looks would say.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lazaret::domain::observe::dead_letters::{DeadLetters, Summary};
use lazaret::domain::observe::group::{GroupView, RebalanceReason, compare};
use lazaret::domain::record::provenance::Stage;
use lazaret::domain::time::Timestamp;
use lazaret::kafka::connection::Connection;
use lazaret::kafka::embedded::EmbeddedBroker;
use lazaret::kafka::groups::Groups;
use lazaret::kafka::log_reader::{LogReader, Logs};
use lazaret::kafka::observer::Observer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use serde_json::json;

use crate::support::engine::Engine;
use crate::support::lazaret::bash;
use crate::support::pipeline::pipeline;
use crate::support::topics::{self, committed, delete_records, producer, read_all, write, write_in_transactions};
use crate::support::{Broker, DEADLINE, eventually, kafka, unique};

const LAZARET: &str = env!("CARGO_BIN_EXE_lazaret");

fn groups(connection: &Connection) -> Groups {
    Groups::new(LAZARET, connection)
}

struct Bed {
    observer: Observer,
    reader: LogReader,
    topic: Arc<str>,
    partitions: i32,
}

impl Bed {
    async fn new(name: &str, partitions: i32) -> Self {
        let topic = unique(name);
        topics::create(kafka(), &topic, partitions, &[]).await;
        topics::has(kafka(), &topic, Some(partitions as usize)).await;
        let connection = Connection::new(kafka());
        let (observer, reader) = (Observer::new(&connection).unwrap(), LogReader::new(&connection).unwrap());
        Self { observer, reader, topic: topic.into(), partitions }
    }

    async fn logs(&self) -> Logs {
        let partitions = (0..self.partitions).map(|partition| (self.topic.clone(), partition)).collect();
        self.observer.logs(partitions).await.unwrap()
    }

    async fn count(&self, letters: DeadLetters) -> (DeadLetters, Summary) {
        let (letters, complete) = self.reader.catch_up(letters, self.logs().await, DEADLINE).await;
        assert!(complete.unwrap());
        let summary = letters.summary(Timestamp(i64::MAX / 2));
        (letters, summary)
    }

    fn seen_by_others(&self) -> u64 {
        read_all(kafka(), &self.topic).len() as u64
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_those_that_a_reader_of_what_was_committed_sees_whatever_else_takes_offsets() {
    let bed = Bed::new("letters", 3).await;
    write_in_transactions(kafka(), &bed.topic, 40, 10);
    let (letters, summary) = bed.count(DeadLetters::default()).await;
    assert_eq!((summary.total, bed.seen_by_others()), (300, 300));
    let offsets: i64 = bed.logs().await.values().map(|log| log.end - log.start).sum();
    assert!(offsets >= 340, "markers and what was given up take offsets: {offsets}");
    let by_type: Vec<_> = summary.causes.iter().map(|c| (&*c.cause.error_type, c.count)).collect();
    assert_eq!(by_type, [("ValidationException", 210), ("BusyException", 90)]);

    write_in_transactions(kafka(), &bed.topic, 4, 10);
    let (letters, summary) = bed.count(letters).await;
    assert_eq!((summary.total, bed.seen_by_others()), (330, 330), "what came since");

    // Retention takes half of each partition, wherever that falls.
    for ((topic, partition), log) in bed.logs().await {
        delete_records(kafka(), &topic, partition, log.start + (log.end - log.start) / 2).await;
    }
    let (_, summary) = bed.count(letters).await;
    assert!(summary.total < 330 && summary.total > 0, "{}", summary.total);
    assert_eq!(summary.total, bed.seen_by_others());
    let (_, anew) = bed.count(DeadLetters::default()).await;
    assert_eq!((anew.total, &anew.causes.len()), (summary.total, &summary.causes.len()), "whoever counts anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_spring_and_of_connect_are_counted_by_error_type() {
    let bed = Bed::new("foreign", 1).await;
    let producer = producer(kafka());
    let spring = |headers: OwnedHeaders, prefix: &str, cause: Option<&str>| {
        let headers = headers
            .insert(Header { key: &format!("{prefix}original-topic"), value: Some("orders") })
            .insert(Header { key: &format!("{prefix}original-partition"), value: Some(&2i32.to_be_bytes()) })
            .insert(Header { key: &format!("{prefix}original-offset"), value: Some(&77i64.to_be_bytes()) })
            .insert(Header {
                key: &format!("{prefix}exception-fqcn"),
                value: Some("org.springframework.kafka.listener.ListenerExecutionFailedException"),
            });
        match cause {
            Some(cause) => headers.insert(Header { key: &format!("{prefix}exception-cause-fqcn"), value: Some(cause) }),
            None => headers,
        }
    };
    let illegal = "java.lang.IllegalArgumentException";
    for _ in 0..3 {
        let headers = spring(OwnedHeaders::new(), "kafka_dlt-", Some(illegal));
        write(&producer, &bed.topic, None, Some(b"{}"), Some(headers)).await;
    }
    let headers = spring(OwnedHeaders::new(), "kafka_", Some(illegal));
    write(&producer, &bed.topic, None, Some(b"{}"), Some(headers)).await;
    let data = "org.apache.kafka.connect.errors.DataException";
    let headers = OwnedHeaders::new()
        .insert(Header { key: "__connect.errors.topic", value: Some("orders") })
        .insert(Header { key: "__connect.errors.exception.class.name", value: Some(data) });
    write(&producer, &bed.topic, None, None, Some(headers)).await;
    write(&producer, &bed.topic, None, None, None).await;
    let (_, summary) = bed.count(DeadLetters::default()).await;
    let by_type: BTreeMap<_, _> = summary.causes.iter().map(|c| (&*c.cause.error_type, c.count)).collect();
    assert_eq!(by_type, BTreeMap::from([(illegal, 4), (data, 1), ("unknown", 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_again_is_counted_anew() {
    let bed = Bed::new("again", 1).await;
    let producer = producer(kafka());
    for _ in 0..5 {
        write(&producer, &bed.topic, None, Some(b"x"), None).await;
    }
    let (letters, summary) = bed.count(DeadLetters::default()).await;
    assert_eq!(summary.total, 5);
    topics::delete(kafka(), &bed.topic).await;
    topics::has(kafka(), &bed.topic, None).await;
    topics::create(kafka(), &bed.topic, 1, &[]).await;
    topics::has(kafka(), &bed.topic, Some(1)).await;
    eventually("the new topic has a leader", async || {
        write(&producer, &bed.topic, None, Some(b"x"), None).await;
        Some(())
    })
    .await;
    let (_, summary) = bed.count(letters).await;
    assert_eq!((summary.total, bed.seen_by_others()), (1, 1));
}

async fn at_rest(groups: &Groups, group: &str, members: usize) -> GroupView {
    eventually(&format!("{group} is at rest with {members} members"), async || {
        // While the topic of the groups is being made, who coordinates this one is not settled.
        let view = groups.describe(group.to_owned()).await.ok()?;
        (view.is_at_rest() && view.members.len() == members).then_some(view)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_described_with_its_members_and_what_they_read_in_both_protocols() {
    for protocol in ["Classic", "Consumer"] {
        let topic = unique("group");
        let more = format!(
            "topic: {{name: {topic}, partitions: 4}}\nconsumer: {{groupId: {topic}-main, groupProtocol: {protocol}}}\n\
             processor: {{rules: [{{when: value.amount < 0, error: 'E: bad'}}]}}"
        );
        let pipeline = pipeline(&topic, &more);
        Broker::Kafka.create_topics(&pipeline).await;
        let groups = groups(&Connection::new(kafka()));
        let group = &*pipeline.main.group_id;
        let none = at_rest(&groups, group, 0).await;
        assert_eq!(none.state, "Dead", "{protocol}: there is no such group yet");
        let first = Engine::start_stages(kafka(), &pipeline, &[Stage::Main]).await;
        let one = at_rest(&groups, group, 1).await;
        let member = one.members.values().next().unwrap();
        assert_eq!((&*member.client, member.partitions.len()), ("engine-test", 4), "{protocol}");
        assert!(member.partitions.contains(&(topic.clone(), 3)), "{protocol}: {member:?}");
        let second = Engine::start_stages(kafka(), &pipeline, &[Stage::Main]).await;
        let two = eventually("the partitions are shared", async || {
            let view = at_rest(&groups, group, 2).await;
            view.members.values().all(|member| member.partitions.len() == 2).then_some(view)
        })
        .await;
        let joined = compare(&one, &two, |_| true).unwrap();
        let counts = (joined.members_before, joined.members_after, joined.partitions_moved);
        assert_eq!((joined.reason, counts), (RebalanceReason::MemberJoined, (1, 2, 2)), "{protocol}");
        second.stop().await;
        let alone = at_rest(&groups, group, 1).await;
        assert_eq!(compare(&two, &alone, |_| false).unwrap().reason, RebalanceReason::MemberLeft, "{protocol}");

        write(&producer(kafka()), &topic, Some(b"k"), Some(json!({"amount": 1}).to_string().as_bytes()), None).await;
        first.settled(1).await;
        first.stop().await;
        let told = groups.committed(group.to_owned()).await.unwrap();
        let told: BTreeMap<_, _> = told.into_iter().map(|((_, partition), commit)| (partition, commit)).collect();
        assert_eq!(told, committed(kafka(), group, &topic), "{protocol}");
        assert_eq!(told.values().map(|(offset, _)| offset).sum::<i64>(), 1, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_does_not_answer_is_an_error_and_not_an_empty_answer() {
    let observer = Observer::new(&Connection::new("127.0.0.1:1")).unwrap();
    let topic: Arc<str> = "orders".into();
    let began = std::time::Instant::now();
    assert!(observer.partitions().await.is_err());
    assert!(observer.logs(BTreeSet::from([(topic, 0)])).await.is_err());
    let groups = groups(&Connection::new("127.0.0.1:1"));
    assert!(groups.describe("g".to_owned()).await.is_err());
    assert!(groups.committed("g".to_owned()).await.is_err());
    assert!(began.elapsed() < DEADLINE, "each question has its own deadline: {:?}", began.elapsed());
}

/// librdkafka ends the process when a client without a group is told so (librdkafka#5040): at the first use of a cluster, and
/// whenever a coordinator moves.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_has_moved_is_an_error_and_the_next_question_is_answered() {
    let broker = EmbeddedBroker::start().unwrap();
    let groups = groups(&broker.connection());
    broker.fail_offset_fetches(&[RDKafkaErrorCode::NotCoordinator]);
    assert!(groups.committed("orders".to_owned()).await.is_err());
    eventually("the next one is answered", async || groups.committed("orders".to_owned()).await.ok()).await;
}

/// The program that asks, with a note of which process it is.
struct Noted {
    program: PathBuf,
    pid: PathBuf,
}

impl Noted {
    fn new() -> Self {
        let name = unique("asks");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (program, pid) = (directory.join(&name), directory.join(format!("{name}.pid")));
        let script = format!("#!/bin/sh\necho $$ >{}\nexec {LAZARET} \"$@\"\n", pid.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { program, pid }
    }

    /// The process that was started last.
    fn process(&self) -> String {
        std::fs::read_to_string(&self.pid).unwrap().trim().to_owned()
    }
}

/// librdkafka ends the process that asks at times (librdkafka#4605).
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_or_hangs_while_it_asks_is_an_error_and_the_next_question_is_answered() {
    let noted = Noted::new();
    let groups = Groups::new(&noted.program, &Connection::new(kafka()));
    let committed = async || groups.committed("orders".to_owned()).await;
    let mut seen = BTreeSet::new();
    for (end, why) in [("ABRT", "ended with signal: 6 (SIGABRT)"), ("STOP", "does not answer")] {
        // It is stopped first, or it might have answered before the signal comes.
        let error = eventually("a question has no answer", async || {
            committed().await.ok()?;
            let process = noted.process();
            assert!(seen.insert(process.clone()), "{process} has answered after it ended");
            bash(&format!("kill -STOP {process}"));
            let end = async { bash(&format!("kill -{end} {process}; [[ {end} = STOP ]] || kill -CONT {process}")) };
            let (answer, _) = futures::join!(committed(), end);
            answer.err()
        });
        let error = error.await.to_string();
        assert!(error.contains(why), "{end}: {error}");
    }
    eventually("the question is answered", async || committed().await.ok()).await;
    seen.insert(noted.process());
    drop(groups);
    for process in seen {
        let process = PathBuf::from(format!("/proc/{process}/exe"));
        eventually("no process is left", async || std::fs::read_link(&process).is_err().then_some(())).await;
    }
}

/// librdkafka loses its way to a coordinator at times, and does not look for it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_had_no_answer_in_time_is_not_asked_again() {
    // A socket that takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let noted = Noted::new();
    let groups = Groups::new(&noted.program, &Connection::new(silent.local_addr().unwrap().to_string()));
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let (one, other) = futures::join!(groups.committed("orders".to_owned()), groups.describe("orders".to_owned()));
        let errors = [one.unwrap_err().to_string(), other.unwrap_err().to_string()];
        assert!(errors.iter().all(|error| error.contains("Timed out")), "{errors:?}");
        assert!(seen.insert(noted.process()), "another process asks each time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_answer_is_named_in_the_error() {
    for (program, why) in
        [("/nowhere/lazaret", "could not be started: No such file"), ("/bin/true", "ended with exit status: 0")]
    {
        let groups = Groups::new(program, &Connection::new("127.0.0.1:1"));
        let error = groups.committed("g".to_owned()).await.unwrap_err().to_string();
        assert!(error.contains(why), "{program}: {error}");
    }
}
