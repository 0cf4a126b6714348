//! Reads single records again whose bytes were let go of while they wait.
//!
//! A stage may have more records waiting than it can hold in memory. It then keeps only where they are and when they are
//! due, and asks for them here shortly before. This reads as a member of no group, so that the consumer of the stage goes
//! on undisturbed.

use std::iter::Peekable;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tracing::debug;

use crate::domain::record::Record;
use crate::kafka::connection::Connection;
use crate::kafka::record::to_record;
use crate::worker::fail::FailOnPanic;

/// How long one look for a record takes; in between it is seen whether somebody still waits.
const POLL: Duration = Duration::from_millis(200);

/// How long the records of one request may stay away before the next request has its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a broker may take to say where a log starts.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Records between two that are wanted are read over, unless they are more than this.
const READ_OVER: i64 = 1_000;

/// Records of one partition that are wanted.
pub struct Wanted {
    pub partition: i32,
    /// Where they are, in ascending order.
    pub offsets: Vec<i64>,
    /// Where they go, in parts as they come.
    pub reply: mpsc::UnboundedSender<Found>,
}

/// What was read again.
#[derive(Debug)]
pub enum Found {
    /// It is still there.
    Record(Record),
    /// There is no record at this offset any more.
    Gone(i64),
}

/// Asks for records. The thread that reads them ends when nobody can ask any more.
#[derive(Clone)]
pub struct Refetch(std_mpsc::Sender<Wanted>);

impl Refetch {
    /// Starts to wait for requests.
    pub fn start(connection: &Connection, topic: Arc<str>, failed: FailOnPanic) -> std::io::Result<Self> {
        let (sender, requests) = std_mpsc::channel::<Wanted>();
        let connection = connection.clone();
        std::thread::Builder::new().name("refetch".into()).spawn(move || {
            let _fail_on_panic = failed;
            let mut consumer = None;
            for wanted in requests {
                let reading = consumer.take().map_or_else(|| connection.reader().create(), Ok);
                let read = reading.and_then(|reading: BaseConsumer| {
                    read(&reading, &topic, wanted)?;
                    reading.unassign()?;
                    Ok(reading)
                });
                consumer = read.inspect_err(|error| debug!(%error, "could not read records again")).ok();
                if consumer.is_none() {
                    // What was not read is asked for again, at once.
                    std::thread::sleep(PAUSE);
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// Asks for records. They come, or the channel for them is closed.
    pub fn ask(&self, wanted: Wanted) {
        // The thread is gone only when it has panicked, and then the process ends.
        let _ = self.0.send(wanted);
    }
}

fn read(consumer: &BaseConsumer, topic: &Arc<str>, wanted: Wanted) -> KafkaResult<()> {
    let Wanted { partition, offsets, reply } = wanted;
    let mut offsets = offsets.into_iter().peekable();
    let Some(&first) = offsets.peek() else { return Ok(()) };
    start_at(consumer, topic, partition, first)?;
    let mut deadline = Instant::now() + PATIENCE;
    while let Some(&next) = offsets.peek() {
        // Others wait, too; what has not come is asked for again.
        if reply.is_closed() || Instant::now() > deadline {
            return Ok(());
        }
        let record = match consumer.poll(POLL) {
            Some(Ok(message)) if message.offset() < next => continue,
            Some(Ok(message)) => to_record(&message, topic),
            // The end says nothing by itself: a broker that has just become the leader may not know yet how far it goes.
            Some(Err(KafkaError::PartitionEOF(_))) => {
                let (start, _) = consumer.fetch_watermarks(topic, partition, QUESTION_TIMEOUT)?;
                drop_below(&mut offsets, start, &reply);
                continue;
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                return Err(KafkaError::MessageConsumptionFatal(code));
            }
            // Kafka is away, or slow.
            Some(Err(_)) | None => continue,
        };
        drop_below(&mut offsets, record.offset, &reply);
        let at = record.offset;
        deadline = Instant::now() + PATIENCE;
        if offsets.next_if_eq(&at).is_some() {
            let _ = reply.send(Found::Record(record));
        }
        if let Some(&next) = offsets.peek()
            && next - at > READ_OVER
        {
            start_at(consumer, topic, partition, next)?;
        }
    }
    Ok(())
}

/// Takes note that there is nothing below this offset.
fn drop_below(offsets: &mut Peekable<impl Iterator<Item = i64>>, end: i64, reply: &mpsc::UnboundedSender<Found>) {
    while let Some(gone) = offsets.next_if(|offset| *offset < end) {
        // Nobody waits when the partition was given up.
        let _ = reply.send(Found::Gone(gone));
    }
}

fn start_at(consumer: &BaseConsumer, topic: &str, partition: i32, offset: i64) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    consumer.assign(&list)
}
