//! Takes a record in over HTTP and writes it to a pipeline's main topic, where the pipeline allows it.
//!
//! The body becomes the value byte for byte. It is checked to be JSON, never changed, and never logged. A client that
//! goes away while its record is being written does not take the record back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::HttpBody;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::EXPECT;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use serde::Serialize;
use serde::de::IgnoredAny;
use tracing::warn;
use utoipa::ToSchema;

use super::problem::Problem;
use super::{Api, health};
use crate::domain::pipeline::{IngressPlan, Pipeline};
use crate::domain::policy::expression::{Expression, Facts};
use crate::domain::record::{Header, Outgoing};
use crate::kafka::record::to_future_record;
use crate::worker::attempt::spans::{TRACEPARENT, TRACESTATE};

/// How long to ask whether a topic exists, once it is known that a record could not be written to it.
const DIAGNOSIS: Duration = Duration::from_secs(1);

/// How much of a body that is too large is read beyond the limit, and thrown away. A client that is cut off while it sends
/// often sees a broken connection instead of the answer.
const DISCARDED_BYTES: usize = 16 << 20;

/// Where a record was written.
#[derive(Debug, Serialize, ToSchema)]
pub struct Written {
    /// The topic.
    topic: String,
    /// Its partition.
    partition: i32,
    /// The offset there.
    offset: i64,
}

/// Writes one record to the main topic of a pipeline of this process.
///
/// The value is the body as it was sent. The key is what `spec.ingress.key` makes of it, null without. The headers
/// `traceparent` and, beside it, `tracestate` of the request become headers of the record. The answer comes when all in-sync
/// replicas have the record.
#[utoipa::path(post, path = "/api/v1/{topic}", tag = "records",
    params(("topic" = String, Path, description = "A main topic whose pipeline has `spec.ingress.enabled`.")),
    request_body(content = serde_json::Value, description = "Any JSON value, whatever the Content-Type says."),
    responses(
        (status = 202, body = Written, description = "All in-sync replicas have the record."),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "The body is not JSON."),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "No pipeline of this process takes records for this topic."),
        (status = 413, body = Problem, content_type = "application/problem+json",
            description = "The body is larger than `spec.ingress.maxBytes`, or than the broker takes."),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`spec.ingress.key` finds no key in the body."),
        (status = 503, body = Problem, content_type = "application/problem+json",
            description = "Kafka did not acknowledge the record, which may or may not have been written.",
            headers(("Retry-After" = u64, description = "Seconds after which to try again."))),
    )
)]
pub async fn write(
    State(api): State<Arc<Api>>,
    topic: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<(StatusCode, Json<Written>), Problem> {
    // A path that is not UTF-8 names no topic.
    let topic = topic.map(|Path(topic)| topic).unwrap_or_default();
    let (pipeline, plan) = find(&api, &topic)?;
    let headers = trace_headers(request.headers());
    let body = read(request, plan.max_bytes).await?;
    check_json(&body)?;
    let key = plan.key.as_ref().map(|expression| key(expression, &body)).transpose()?.flatten();
    let record = Outgoing { topic: pipeline.main.topic.clone(), key, value: Some(body), headers };
    match api.producer.send(to_future_record(&record), Duration::ZERO).await {
        Ok(delivery) => {
            let written = Written { topic, partition: delivery.partition, offset: delivery.offset };
            Ok((StatusCode::ACCEPTED, Json(written)))
        }
        Err((error, _)) => {
            warn!(topic, %error, "posted record not written");
            Err(explain(&api, &record.topic, &error).await)
        }
    }
}

/// The pipeline that takes records for this topic.
fn find<'a>(api: &'a Api, topic: &str) -> Result<(&'a Pipeline, &'a IngressPlan), Problem> {
    let open = || api.pipelines().filter_map(|pipeline| Some((pipeline, pipeline.ingress.as_ref()?)));
    if let Some(found) = open().find(|(pipeline, _)| *pipeline.main.topic == *topic) {
        return Ok(found);
    }
    let detail = match api.pipelines().find(|pipeline| *pipeline.main.topic == *topic) {
        Some(pipeline) => {
            let name = &pipeline.name;
            format!("pipeline `{name}` takes no records over HTTP: set `spec.ingress.enabled: true`")
        }
        None => {
            let topics: BTreeSet<_> = open().map(|(pipeline, _)| &*pipeline.main.topic).collect();
            let topics = topics.into_iter().collect::<Vec<_>>().join(", ");
            let open = if topics.is_empty() { "none, `spec.ingress.enabled` is off" } else { &topics };
            format!("`{topic}` takes no records here; topics that do: {open}")
        }
    };
    Err(Problem::new(StatusCode::NOT_FOUND, detail))
}

/// Reads the body, of which never more than `max_bytes` is held.
async fn read(request: Request, max_bytes: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than the {max_bytes} bytes that `spec.ingress.maxBytes` allows");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    // A client that waits for leave to send need not send what will be refused.
    let asks_first = request.headers().contains_key(EXPECT);
    if asks_first && request.body().size_hint().lower() > max_bytes as u64 {
        return Err(too_large());
    }
    let mut chunks = request.into_body().into_data_stream();
    let (mut body, mut size) = (BytesMut::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let cut_off = |_| Problem::new(StatusCode::BAD_REQUEST, "the body ended before its time");
        let chunk = chunk.map_err(cut_off)?;
        size += chunk.len();
        if size <= max_bytes {
            body.extend_from_slice(&chunk);
        } else if size - max_bytes > DISCARDED_BYTES {
            break;
        }
    }
    if size > max_bytes { Err(too_large()) } else { Ok(body.freeze()) }
}

/// Checks the bytes without making anything of them.
fn check_json(body: &[u8]) -> Result<(), Problem> {
    let not_json = |reason: String| Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {reason}"));
    // The parser does not look into the strings that it passes over.
    let text = std::str::from_utf8(body).map_err(|error| {
        let valid = &body[..error.valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n');
        let column = line.clone().next_back().map_or(0, <[u8]>::len) + 1;
        not_json(format!("not UTF-8 at line {} column {column}", line.count()))
    })?;
    serde_json::from_str(text).map(|IgnoredAny| ()).map_err(|error| not_json(error.to_string()))
}

fn key(expression: &Expression, body: &[u8]) -> Result<Option<Bytes>, Problem> {
    match expression.text(&Facts::of_document(body, expression.reads())) {
        Ok(key) => Ok(key.map(Bytes::from)),
        Err(error) => {
            let detail = format!("the body has no key: `spec.ingress.key`: {error}");
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
        }
    }
}

/// What ties the record to the trace that it came from: the request headers that go on with it.
fn trace_headers(headers: &HeaderMap) -> Vec<Header> {
    let Some(parent) = headers.get(TRACEPARENT) else { return vec![] };
    // Several lines of it are one list.
    let states: Vec<_> = headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
    let state = (!states.is_empty()).then(|| Header::new(TRACESTATE, states.join(&b',')));
    std::iter::once(Header::new(TRACEPARENT, parent.as_bytes().to_vec())).chain(state).collect()
}

/// Says why a record was not written.
///
/// For a topic that does not exist the client waits, in case it is being created, until the delivery times out: hence
/// the question at the end.
async fn explain(api: &Api, topic: &Arc<str>, error: &KafkaError) -> Problem {
    let unavailable = |reason| Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason);
    let servers = &api.bootstrap_servers;
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize) => {
            let detail = format!("the record is larger than topic `{topic}` takes (`max.message.bytes`)");
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail);
        }
        Some(Code::QueueFull) => return unavailable("too many records wait to be written".to_owned()),
        _ => {}
    }
    if let Some(away) = health::away(api) {
        return unavailable(format!("the record was not acknowledged: {away}"));
    }
    let exists = tokio::time::timeout(DIAGNOSIS, api.observer.has_topic(topic.clone())).await;
    unavailable(match exists {
        Ok(Ok(false)) => format!("topic `{topic}` does not exist in Kafka at {servers}"),
        _ => format!("Kafka at {servers} did not acknowledge the record: {error}"),
    })
}
