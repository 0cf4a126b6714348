//! With what one Kafka is asked, and read.

use crate::kafka::connection::Connection;
use crate::kafka::groups::{Groups, this_program};
use crate::kafka::log_reader::LogReader;
use crate::kafka::observer::{KafkaError, Observer};

/// The clients for one Kafka.
pub struct Kafka {
    /// Asks about topics.
    pub observer: Observer,
    /// Asks about groups.
    pub groups: Groups,
    /// Reads dead letters, and whether there is a record at all at the end of a partition.
    pub reader: LogReader,
}

impl Kafka {
    /// Prepares all of them. Nothing is asked yet.
    pub fn new(connection: &Connection) -> Result<Self, KafkaError> {
        Ok(Self {
            observer: Observer::new(connection)?,
            groups: Groups::new(this_program(), connection),
            reader: LogReader::new(connection)?,
        })
    }
}
