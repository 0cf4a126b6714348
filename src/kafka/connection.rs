//! Where a Kafka cluster is, and the client settings that correctness rests on.

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::FutureProducer;
use tracing::{debug, warn};

use crate::domain::pipeline::{Assignor, GroupProtocol, Membership};

/// What is logged of clients that only ask and read. They connect again every second while a broker is away, and the caller
/// gets the error anyway.
pub(super) const QUIET: RDKafkaLogLevel = RDKafkaLogLevel::Critical;

/// The shortest and the longest time between two signs of life.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// The longest that a transaction may be open. A worker that dies leaves one open at times; until it ends, nobody learns
/// what its group has committed, nor reads on behind its records. The worker that takes its place ends it at once.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of records that share a request. Only a record that was sent alone is known to be too large itself: one
/// of this size always is.
pub const BATCH_BYTES: usize = 64 << 10;

/// The most bytes of records that a producer holds at once. It takes in no record that is larger.
pub const QUEUE_BYTES: usize = 64 << 20;

/// A Kafka cluster, by its bootstrap addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    bootstrap_servers: String,
}

/// A client context that puts librdkafka's log where everything else is logged.
#[derive(Clone, Debug)]
pub struct LogContext;

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if level as i32 <= RDKafkaLogLevel::Warning as i32 {
            warn!(target: "lazaret::kafka", facility, "{message}");
        } else {
            debug!(target: "lazaret::kafka", facility, "{message}");
        }
    }

    /// librdkafka logs the same events, with more in them.
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "lazaret::kafka", %error, reason, "client error");
    }
}

impl Connection {
    /// A cluster at these addresses, `host:port` separated by commas.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self { bootstrap_servers: bootstrap_servers.into() }
    }

    /// The addresses.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "lazaret")
            .set("socket.keepalive.enable", "true")
            // A topic with the brokers' defaults, made by asking for it, would be none that anybody wants.
            .set("allow.auto.create.topics", "false")
            // A broker that comes back is found again within a second, not after the default of ten.
            .set("reconnect.backoff.max.ms", "1000");
        config
    }

    /// Settings of a client that only asks questions and belongs to no group.
    pub fn observer(&self) -> ClientConfig {
        let mut config = self.client();
        // A request is given up after five seconds. Without this, librdkafka would wait for the answer of a broker that hangs
        // for a minute, and send further requests on the same connection.
        config.set("socket.timeout.ms", "10000").set_log_level(QUIET);
        config
    }

    /// Settings of a client that asks coordinators about groups. It is a member of none: the group that it names has none.
    ///
    /// It has to name one. An answer that a coordinator has moved makes librdkafka look for the coordinator of the client's
    /// own group, also where it was asked about another; without one it ends the process (librdkafka#5040).
    pub(super) fn group_observer(&self) -> ClientConfig {
        let mut config = self.observer();
        config.set("group.id", "lazaret-observer").set("enable.auto.commit", "false");
        config
    }

    /// Settings of a consumer that is assigned what it reads, and says where a partition ends. What is asked of it while
    /// Kafka is away is an error to whoever asked.
    pub fn reader(&self) -> ClientConfig {
        let mut config = self.client();
        config
            // It is a member of no group; librdkafka wants a name all the same.
            .set("group.id", "lazaret-reader")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.queue.backoff.ms", "10")
            // Once it has read what there was, its last request would keep a broker busy for the default of half a second, and
            // the next topic waiting.
            .set("fetch.wait.max.ms", "10")
            .set_log_level(QUIET);
        config
    }

    /// Settings of the client that reads a stage's topic: it is assigned what it reads. Only what committed transactions wrote is
    /// read.
    pub fn stage_reader(&self, group_id: &str) -> ClientConfig {
        let mut config = self.client();
        config
            // It is a member of no group; librdkafka wants a name all the same.
            .set("group.id", group_id)
            .set("socket.timeout.ms", "10000")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            // How far behind a stage is, only its end tells: markers of transactions take offsets after the last record.
            .set("enable.partition.eof", "true")
            // What librdkafka fetches ahead is not under the engine's own cap on buffered bytes: keep it small.
            .set("queued.max.messages.kbytes", "16384")
            // It counts what is in the records, and each takes half a KiB more. An answer is taken whole, compressed as it is.
            .set("queued.min.messages", "20000")
            .set("fetch.max.bytes", "2097152")
            // With so small a queue it is full often; the default would then fetch nothing for a second.
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.message.max.bytes", "1048576")
            .set("topic.metadata.refresh.interval.ms", "10000");
        config
    }

    /// Settings of a stage's member of its group, which reads nothing, and is known to it as `instance` where its membership is static.
    ///
    /// librdkafka commits nothing by itself: the engine says what is finished.
    pub fn consumer(&self, group_id: &str, membership: &Membership, instance: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", group_id)
            .set("max.poll.interval.ms", millis(membership.max_poll_interval))
            // A coordinator that hangs must not keep a worker from stopping for the default of a minute.
            .set("socket.timeout.ms", "10000")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            // A topic that appears, or gains partitions, is noticed within this time.
            .set("topic.metadata.refresh.interval.ms", "10000");
        match membership.protocol {
            GroupProtocol::Classic(assignor) => {
                let heartbeat = (membership.session_timeout / 10).clamp(HEARTBEAT.0, HEARTBEAT.1);
                config
                    .set("partition.assignment.strategy", strategy(assignor))
                    .set("session.timeout.ms", millis(membership.session_timeout))
                    .set("heartbeat.interval.ms", millis(heartbeat));
            }
            // The broker has the timeouts of such a group.
            GroupProtocol::Consumer { assignor } => {
                config.set("group.protocol", "consumer").set("group.remote.assignor", assignor);
            }
        }
        if membership.is_static {
            config.set("group.instance.id", instance);
        }
        config
    }

    /// A producer for what must not get lost: acknowledged by all in-sync replicas, no duplicates by its own retries,
    /// and each key in the partition where the Java client would put it.
    ///
    /// An attempt to deliver is reported as failed after `timeout`.
    pub fn producer(&self, timeout: Duration) -> KafkaResult<FutureProducer<LogContext>> {
        self.producer_settings(timeout).create_with_context(LogContext)
    }

    /// The same, writing in transactions. Of two producers with one `id` the later one ends what the earlier one has
    /// begun, and shuts it out.
    pub fn transactional_producer(&self, id: &str, timeout: Duration) -> KafkaResult<FutureProducer<LogContext>> {
        let mut config = self.producer_settings(timeout.min(TRANSACTION_TIMEOUT));
        config.set("transactional.id", id).set("transaction.timeout.ms", millis(TRANSACTION_TIMEOUT));
        config.create_with_context(LogContext)
    }

    fn producer_settings(&self, timeout: Duration) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", millis(timeout))
            .set("linger.ms", "2")
            .set("batch.size", BATCH_BYTES.to_string())
            // Whether a record is too large is for the broker and the topic to say, not for the client's default of 1 MB.
            .set("message.max.bytes", "100000000")
            // What waits to be sent is a copy of what the engine holds already.
            .set("queue.buffering.max.kbytes", (QUEUE_BYTES >> 10).to_string());
        config
    }
}

/// Takes what a client has to say of connections that broke since it was last polled. It would keep all of it, and a reader
/// would take the oldest of it for an answer.
pub(super) fn forget_errors(client: &BaseConsumer) {
    while client.poll(Duration::ZERO).is_some() {}
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn strategy(assignor: Assignor) -> &'static str {
    match assignor {
        Assignor::CooperativeSticky => "cooperative-sticky",
        Assignor::Range => "range",
        Assignor::RoundRobin => "roundrobin",
    }
}

/// Checks addresses that are separated by commas, as somebody typed them. librdkafka would take what is no port for port 0 and say nothing.
pub fn addresses(text: &str) -> Result<String, String> {
    let is_address = |address: &str| {
        let Some((host, port)) = address.trim().rsplit_once(':') else { return false };
        !host.is_empty() && !host.contains(['/', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    match text.split(',').all(is_address) {
        true => Ok(text.to_owned()),
        false => Err("must be HOST:PORT, or several separated by commas".to_owned()),
    }
}
