//! A key goes to the partition where the Java client would put it.

use std::time::Duration;

use lazaret::kafka::connection::Connection;
use rdkafka::producer::FutureRecord;

use crate::support::{kafka, topics, unique};

/// Keys and their partitions of seven, as `BuiltInPartitioner.partitionForKey` of Kafka 4.3.1's own Java client gives them,
/// which is `Utils.toPositive(Utils.murmur2(key)) % 7`.
const OF_JAVA: [(&[u8], i32); 19] = [
    (b"", 2),
    (b"a", 5),
    (b"ab", 0),
    (b"abc", 4),
    (b"abcd", 5),
    (b"abcde", 4),
    (b"21", 3),
    (b"foobar", 0),
    (b"ORD-INVALID", 5),
    (b"0b7e5c2e-6f9b-4f0e-9a53-8d2f6f3f1c11", 1),
    ("Gr\u{fc}\u{df}e".as_bytes(), 4),
    ("\u{6ce8}\u{6587}-1".as_bytes(), 3),
    ("\u{1f6a2}".as_bytes(), 3),
    (b"\xff", 5),
    (b"\xff\xfe", 0),
    (b"\x80\x00\x7f", 0),
    (b"\x00", 0),
    (b"\x00\x00", 5),
    (b"\xc3\x28\xa0\xa1\xfe", 0),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_to_the_partition_where_the_java_client_would_put_it() {
    let topic = unique("murmur2");
    topics::create(kafka(), &topic, 7, &[]).await;
    let producer = Connection::new(kafka()).producer(Duration::from_secs(20)).unwrap();
    let counting: Vec<u8> = (0..1_000).map(|n: u32| n as u8).collect();
    let long: [(&[u8], i32); 2] = [(&counting, 4), (&[0xff; 257], 0)];
    for (key, partition) in OF_JAVA.into_iter().chain(long) {
        let record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&topic).key(key).payload(b"x");
        let delivery = producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error).unwrap();
        assert_eq!(delivery.partition, partition, "{}", key.escape_ascii());
    }
}
