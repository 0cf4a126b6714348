//! What the stand-in asks of Kafka, over the wire: of what a broker answers, nothing may be lost on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    IncrementalAlterConfigsRequest, MetadataRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::contract::{Topic, Wanted};

/// How long a broker may take for what it is asked.
const TIMEOUT_MS: i32 = 30_000;

/// The kind of a topic among resources that have a configuration, and where such a setting comes from.
const TOPIC: i8 = 2;
const SET_ON_THE_TOPIC: i8 = 1;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No broker answered in time.
    #[error("org.apache.kafka.common.errors.TimeoutException: Timed out waiting for a node assignment. Call: {0}")]
    Timeout(&'static str),
    /// A broker refused it. This reads as the Java client's exception does.
    #[error("org.apache.kafka.common.errors.{}: {message}", exception(*.code))]
    Refused { code: ResponseError, message: String },
}

fn exception(code: ResponseError) -> String {
    let name = match code {
        ResponseError::InvalidConfig => "InvalidConfiguration".to_owned(),
        other => format!("{other:?}"),
    };
    if name.ends_with("Exception") { name } else { format!("{name}Exception") }
}

fn refused(code: i16, message: Option<StrBytes>) -> Result<(), AdminError> {
    match code.err() {
        None => Ok(()),
        Some(code) => Err(AdminError::Refused {
            code,
            message: message.map_or_else(|| code.to_string(), |text| text.to_string()),
        }),
    }
}

/// A connection to a broker, which is made when it is needed. Brokers pass on what is the controller's to do.
pub struct Admin {
    address: String,
    timeout: Duration,
    stream: Option<TcpStream>,
}

impl Admin {
    /// Nothing is sent yet. A call is tried again until `timeout` is over.
    pub fn new(address: String, timeout: Duration) -> Self {
        Self { address, timeout, stream: None }
    }

    /// The topic as it is, if it is.
    pub async fn describe(&mut self, topic: &str) -> Result<Option<Topic>, AdminError> {
        let resource = DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text(topic));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let described = self.call("describeConfigs", request, 4).await?;
        let Some(described) = described.results.into_iter().next() else { return Ok(None) };
        match refused(described.error_code, described.error_message) {
            Err(AdminError::Refused {
                code: ResponseError::UnknownTopicOrPartition | ResponseError::InvalidTopicException,
                ..
            }) => return Ok(None),
            result => result?,
        }
        let set = described.configs.into_iter().filter(|entry| entry.config_source == SET_ON_THE_TOPIC);
        let config = set.map(|entry| (entry.name.to_string(), entry.value.unwrap_or_default().to_string())).collect();

        let named = MetadataRequestTopic::default().with_name(Some(name(topic)));
        let request = MetadataRequest::default().with_topics(Some(vec![named])).with_allow_auto_topic_creation(false);
        let answer = self.call("describeTopics", request, 12).await?;
        let Some(found) = answer.topics.into_iter().next().filter(|found| found.error_code == 0) else {
            return Ok(None);
        };
        let mut replicas: Vec<_> =
            found.partitions.iter().map(|p| (p.partition_index, p.replica_nodes.len())).collect();
        replicas.sort_unstable();
        Ok(Some(Topic { id: URL_SAFE_NO_PAD.encode(found.topic_id), replicas, config }))
    }

    /// Makes a topic and returns its id.
    pub async fn create(&mut self, wanted: &Wanted) -> Result<String, AdminError> {
        let setting = |(name, value): (&String, &String)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(name(&wanted.name))
            .with_num_partitions(wanted.partitions.unwrap_or(-1))
            .with_replication_factor(wanted.replicas.unwrap_or(-1))
            .with_configs(wanted.config.iter().map(setting).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
        let answer = self.call("createTopics", request, 7).await?;
        let result = answer.topics.into_iter().next().unwrap_or_default();
        refused(result.error_code, result.error_message)?;
        Ok(URL_SAFE_NO_PAD.encode(result.topic_id))
    }

    /// Changes settings of a topic; one without a value gets its default back.
    pub async fn alter(&mut self, topic: &str, changes: &BTreeMap<String, Option<String>>) -> Result<(), AdminError> {
        let change = |(name, value): (&String, &Option<String>)| {
            let (operation, value) = (i8::from(value.is_none()), value.as_deref().map(text));
            AlterableConfig::default().with_name(text(name)).with_config_operation(operation).with_value(value)
        };
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(topic))
            .with_configs(changes.iter().map(change).collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.call("incrementalAlterConfigs", request, 1).await?;
        let result = answer.responses.into_iter().next().unwrap_or_default();
        refused(result.error_code, result.error_message)
    }

    /// Raises a topic's partitions to `count`.
    pub async fn add_partitions(&mut self, topic: &str, count: i32) -> Result<(), AdminError> {
        let topic = CreatePartitionsTopic::default().with_name(name(topic)).with_count(count).with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
        let answer = self.call("createPartitions", request, 3).await?;
        let result = answer.results.into_iter().next().unwrap_or_default();
        refused(result.error_code, result.error_message)
    }

    /// Deletes a topic, if it is there.
    pub async fn delete(&mut self, topic: &str) -> Result<(), AdminError> {
        let request = DeleteTopicsRequest::default().with_topic_names(vec![name(topic)]).with_timeout_ms(TIMEOUT_MS);
        let answer = self.call("deleteTopics", request, 5).await?;
        let result = answer.responses.into_iter().next().unwrap_or_default();
        match refused(result.error_code, result.error_message) {
            Err(AdminError::Refused {
                code: ResponseError::UnknownTopicOrPartition | ResponseError::InvalidTopicException,
                ..
            }) => Ok(()),
            result => result,
        }
    }

    /// Asks until a broker answers. Every request here may be sent twice: that changes nothing but the second answer.
    async fn call<R: Request>(
        &mut self,
        what: &'static str,
        request: R,
        version: i16,
    ) -> Result<R::Response, AdminError> {
        let tried = tokio::time::timeout(self.timeout, async {
            loop {
                match self.ask(&request, version).await {
                    Ok(answer) => return answer,
                    Err(error) => {
                        tracing::debug!(%error, what, "no answer from Kafka");
                        self.stream = None;
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            }
        });
        tried.await.map_err(|_| {
            self.stream = None;
            AdminError::Timeout(what)
        })
    }

    async fn ask<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, anyhow::Error> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_client_id(Some(text("topic-operator")));
        let mut message = BytesMut::new();
        message.put_i32(0); // its length, once that is known
        header.encode(&mut message, R::header_version(version))?;
        request.encode(&mut message, version)?;
        let length = i32::try_from(message.len() - 4)?;
        message[..4].copy_from_slice(&length.to_be_bytes());

        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(TcpStream::connect(&self.address).await?),
        };
        stream.write_all(&message).await?;
        let mut answer = vec![0; usize::try_from(stream.read_i32().await?)?];
        stream.read_exact(&mut answer).await?;
        let mut answer = Bytes::from(answer);
        ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
        R::Response::decode(&mut answer, version)
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}
