//! What the tests stand on: the API in this process, a client that checks each answer against the served document, and
//! a broker or its absence.

use crate::support::ports::closed_port;
use crate::support::unique;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lazaret::api::{file, validate};
use lazaret::domain::pipeline::Pipeline;
use lazaret::domain::record::Record;
use lazaret::domain::record::provenance::Stage;
use lazaret::kafka::connection::{Connection, LogContext};
use lazaret::kafka::counter::Counter;
use lazaret::kafka::embedded::EmbeddedBroker;
use lazaret::kafka::observer::{Observer, Reachability};
use lazaret::kafka::record::to_record;
use lazaret::worker::attempt::processor::FaultSwitch;
use lazaret::worker::metrics::{Metrics, StageMetrics};
use lazaret::worker::serve::http::{Api, StageView, router};
use lazaret::worker::serve::kept_count::KeptCount;
use lazaret::worker::serve::peers::Peers;
use prometheus_client::registry::Registry;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use reqwest::{Body, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Three pipelines that take records, one of which lets failures be injected, and one that does neither.
pub const OPEN: &str = "
apiVersion: lazaret.dev/v1alpha1
kind: ErrorHandlingPipeline
metadata: {name: orders}
spec:
  kafka: {cluster: main}
  topic: {name: orders, partitions: 3}
  processor: {rules: [{when: value.amount < 0, error: 'ValidationException: Invalid amount'}]}
  ingress: {enabled: true, key: value.orderId}
  faultInjection: {enabled: true}
---
apiVersion: lazaret.dev/v1alpha1
kind: ErrorHandlingPipeline
metadata: {name: small}
spec:
  kafka: {cluster: main}
  topic: {name: small}
  processor: {http: {url: http://small}}
  ingress: {enabled: true, maxBytes: 1Ki}
  circuitBreaker: {enabled: false}
---
apiVersion: lazaret.dev/v1alpha1
kind: ErrorHandlingPipeline
metadata: {name: stats}
spec:
  kafka: {cluster: main}
  topic: {name: stats}
  processor: {http: {url: http://stats}}
  ingress: {enabled: true}
---
apiVersion: lazaret.dev/v1alpha1
kind: ErrorHandlingPipeline
metadata: {name: closed}
spec:
  kafka: {cluster: main}
  topic: {name: closed}
  processor: {http: {url: http://closed}}
";

/// A pipeline with everything as it is by default.
pub const CLOSED: &str = "
apiVersion: lazaret.dev/v1alpha1
kind: ErrorHandlingPipeline
metadata: {name: closed}
spec:
  kafka: {cluster: main}
  topic: {name: closed}
  processor: {http: {url: http://closed}}
";

/// Method, path and status, as the document has them.
pub type Documented = (String, String, u16);

pub struct Bed {
    /// `None` where the cluster is somebody else's, or away.
    pub broker: Option<EmbeddedBroker>,
    pub bootstrap_servers: String,
    pub document: Value,
    pub fault: FaultSwitch,
    pub kafka: watch::Sender<Reachability>,
    /// Main and retry of each pipeline.
    pub metrics: Vec<Arc<StageMetrics>>,
    pub address: String,
    client: reqwest::Client,
    connection: Connection,
    seen: Arc<Mutex<BTreeSet<Documented>>>,
}

/// An answer, text as a JSON string.
pub struct Answer {
    pub body: Value,
    status: u16,
    headers: reqwest::header::HeaderMap,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    #[track_caller]
    pub fn details(&self, part: &str) {
        let detail = self.body["detail"].as_str().expect("a problem has a detail");
        assert!(detail.contains(part), "`{part}` is not in: {detail}");
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

impl Bed {
    /// With a broker that has all topics.
    pub async fn start(yaml: &str) -> Self {
        let broker = EmbeddedBroker::start().unwrap();
        for topic in pipelines(yaml).iter().flat_map(|pipeline| &pipeline.topics) {
            broker.create_topic(topic).unwrap();
        }
        let bed = Self::at(broker.connection(), yaml, |_| {}).await;
        Self { broker: Some(broker), ..bed }
    }

    /// With nobody where the broker should be, which is known.
    pub async fn without_broker(yaml: &str) -> Self {
        Self::among(None, yaml).await
    }

    /// The same, as one of several workers.
    pub async fn among(peers: Option<Peers>, yaml: &str) -> Self {
        let bed = Self::with(Connection::new(closed_port()), yaml, |_| {}, peers).await;
        bed.kafka.send_replace(Reachability::Unreachable { error: "connection refused".into() });
        bed
    }

    /// With the cluster at `connection`, and a producer with other settings.
    pub async fn at(connection: Connection, yaml: &str, settings: fn(&mut ClientConfig)) -> Self {
        Self::with(connection, yaml, settings, None).await
    }

    async fn with(connection: Connection, yaml: &str, settings: fn(&mut ClientConfig), peers: Option<Peers>) -> Self {
        let mut registry = Registry::with_prefix("lazaret");
        let families = Metrics::register(&mut registry);
        let mut stages = Vec::new();
        for pipeline in pipelines(yaml).into_iter().map(Arc::new) {
            for stage in [Stage::Main, Stage::Retry] {
                let metrics = Arc::new(families.stage(&pipeline.name, stage));
                stages.push(StageView { pipeline: pipeline.clone(), stage, metrics });
            }
        }
        let metrics = stages.iter().map(|view| view.metrics.clone()).collect();
        let letters: BTreeSet<_> = stages.iter().flat_map(|view| view.pipeline.policy.dead_letter_topics()).collect();
        let (kafka, receiver) = watch::channel(Reachability::Reachable);
        let (fault, bootstrap_servers) = (FaultSwitch::default(), connection.bootstrap_servers().to_owned());
        let api = Api {
            stages,
            fault: fault.clone(),
            peers,
            registry: Arc::new(registry),
            kafka: receiver,
            bootstrap_servers: bootstrap_servers.clone(),
            observer: Observer::new(&connection).unwrap(),
            dead_letters: KeptCount::new(Counter::new(&connection).unwrap(), letters),
            producer: producer(&connection, settings),
            worker: "worker-0".into(),
            instance: unique("instance"),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router(api)).await });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let document = client.get(format!("http://{address}/openapi.json")).send().await.unwrap().json().await.unwrap();
        let (broker, seen) = (None, Arc::default());
        Self { broker, bootstrap_servers, document, fault, kafka, metrics, address, client, connection, seen }
    }

    /// Notes what is seen where `other` does.
    pub fn merge_into(mut self, other: &Self) -> Self {
        self.seen = other.seen.clone();
        self
    }

    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("http://{}{path}", self.address))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path), "GET", path).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(self.request("POST", path).body(body), "POST", path).await
    }

    /// Sends a request and checks the answer against the document.
    pub async fn send(&self, request: RequestBuilder, method: &str, path: &str) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let content_type = headers["content-type"].to_str().unwrap();
        let media_type = content_type.split(';').next().unwrap().to_owned();
        let text = response.text().await.unwrap();
        let body = if media_type.ends_with("json") { serde_json::from_str(&text).unwrap() } else { json!(text) };

        let path = path.split('?').next().unwrap();
        let schema = match self.operation(&method.to_lowercase(), path) {
            Some((path, operation)) => {
                let documented = &operation["responses"][status.to_string()];
                assert!(
                    documented.is_object(),
                    "{method} {path} answered with {status}, which is not documented: {body}"
                );
                self.seen.lock().unwrap().insert((method.to_lowercase(), path, status));
                documented["content"][&media_type]["schema"].clone()
            }
            None => {
                assert!(
                    (status == 404 || status == 405) && media_type == "application/problem+json",
                    "{status} {body}"
                );
                json!({"$ref": "#/components/schemas/Problem"})
            }
        };
        assert!(schema.is_object(), "{method} {path} {status}: {media_type} is not documented");
        self.validate(&schema, &body);
        if media_type == "application/problem+json" {
            assert_eq!((&body["status"], &body["type"]), (&json!(status), &json!("about:blank")));
        }
        Answer { body, status, headers }
    }

    /// The operation that serves a path, and the path as the document has it.
    fn operation(&self, method: &str, path: &str) -> Option<(String, &Value)> {
        let topic = path.strip_prefix("/api/v1/").filter(|topic| !topic.is_empty() && !topic.contains('/'));
        let candidates = [Some(path), topic.map(|_| "/api/v1/{topic}")];
        let find = |path: &str| Some((path.to_owned(), self.document["paths"].get(path)?.get(method)?));
        candidates.into_iter().flatten().find_map(find)
    }

    /// The body must be as the schema says, without anything that the schema does not name.
    fn validate(&self, schema: &Value, body: &Value) {
        let mut schema = schema.clone();
        schema["components"] = self.document["components"].clone();
        schema["unevaluatedProperties"] = json!(false);
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let errors: Vec<_> = validator.iter_errors(body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {body}");
    }

    pub fn documented(&self) -> BTreeSet<Documented> {
        let mut documented = BTreeSet::new();
        for (path, item) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                for status in operation["responses"].as_object().unwrap().keys() {
                    documented.insert((method.clone(), path.clone(), status.parse().unwrap()));
                }
            }
        }
        documented
    }

    pub fn seen(&self) -> BTreeSet<Documented> {
        self.seen.lock().unwrap().clone()
    }

    /// Reads the record that an answer says was written.
    pub async fn read_back(&self, answer: &Answer) -> Record {
        let consumer: StreamConsumer = self.connection.observer().set("group.id", "reader").create().unwrap();
        let place = |name: &str| answer.body[name].as_i64().unwrap();
        let topic = answer.body["topic"].as_str().unwrap();
        let mut assignment = TopicPartitionList::new();
        let partition = i32::try_from(place("partition")).unwrap();
        assignment.add_partition_offset(topic, partition, Offset::Offset(place("offset"))).unwrap();
        consumer.assign(&assignment).unwrap();
        let message = tokio::time::timeout(Duration::from_secs(20), consumer.recv()).await.unwrap().unwrap();
        let record = to_record(&message, &topic.into());
        assert_eq!((record.partition, record.offset), (partition, place("offset")));
        record
    }

    /// Writes a record past the API.
    pub async fn produce(&self, topic: &str) {
        let record = FutureRecord::<str, str>::to(topic).payload("x");
        producer(&self.connection, |_| {}).send(record, Duration::ZERO).await.unwrap();
    }

    /// Sends these bytes and nothing more, and reads all that comes back.
    pub async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        if !request.contains("expect:") {
            stream.shutdown().await.unwrap();
        }
        let mut answer = String::new();
        let reading = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer));
        reading.await.unwrap().unwrap();
        answer
    }

    /// Sends these bytes, gives the API time to start on them, and is gone.
    pub async fn hang_up_after(&self, request: &str) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        self.get("/healthz").await;
    }
}

fn pipelines(yaml: &str) -> Vec<Pipeline> {
    validate::validate_all(&file::parse("test.yaml", yaml).unwrap()).unwrap()
}

/// As the workers' producer, but it gives up after a second.
fn producer(connection: &Connection, settings: fn(&mut ClientConfig)) -> FutureProducer<LogContext> {
    let mut config = connection.observer();
    config.set("acks", "all").set("partitioner", "murmur2_random").set("message.timeout.ms", "1000");
    config.set("message.max.bytes", "100000000");
    settings(&mut config);
    config.create_with_context(LogContext).unwrap()
}
