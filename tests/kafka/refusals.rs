//! What Kafka refuses is told apart from a Kafka that does not answer, and said with its topic.

use lazaret::kafka::connection::Connection;
use lazaret::kafka::topics::{TopicError, Topics};

use crate::support::pipeline::pipeline;
use crate::support::ports::closed_port;
use crate::support::{kafka, unique};

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_kafka_does_not_take_is_refused_and_a_kafka_that_is_not_there_is_unreachable() {
    let topic = unique("refused");
    let spec = format!(
        "topic: {{name: {topic}, partitions: 1, config: {{retention.ms: soon}}}}\nprocessor: {{rules: [{{when: 'false', error: E}}]}}"
    );
    let plans = pipeline(&topic, &spec).topics;
    let made =
        async |address: &str| Topics::new(&Connection::new(address)).unwrap().create_missing(&plans).await.unwrap_err();
    let refused = made(kafka()).await;
    assert!(matches!(&refused, TopicError::Refused { topic: of, .. } if *of == topic), "{refused}");
    assert_eq!(refused.reason(), "KafkaRefused");
    assert!(refused.to_string().contains(&topic), "{refused}");
    let nobody = closed_port();
    let unreachable = made(&nobody).await;
    assert_eq!(unreachable.reason(), "KafkaUnreachable");
    assert!(unreachable.to_string().contains(&nobody), "{unreachable}");
}
