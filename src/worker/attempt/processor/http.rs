//! Calls a user's HTTP endpoint: one request an attempt, a CloudEvent in binary mode.
//!
//! Reference: [CloudEvents HTTP protocol binding 1.0.2](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md).

use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, Url};

use crate::domain::pipeline::HttpPlan;
use crate::domain::policy::http::{Answer, DISPOSITION, classify};
use crate::domain::record::Record;
use crate::domain::record::failure::{Failure, FailureKind, Outcome};
use crate::domain::record::provenance::{Provenance, forwarded_headers};
use crate::features::{Feature, NotBuilt};
use crate::worker::attempt::spans::{AttemptSpan, TRACEPARENT, TRACESTATE, trace_header};
use crate::worker::client::client;

/// How much of an error's body is read: enough for a problem document with a stack trace.
const BODY_MAX_BYTES: usize = 64 << 10;

/// What the binding percent-encodes in header values: all but printable ASCII, and of that space, `"` and `%`.
const CE_ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Why an endpoint cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("processor.http.url: {0}")]
    Url(String),
    /// The method is none.
    #[error("processor.http.method: `{0}` is no HTTP method")]
    Method(String),
    /// A header cannot be sent.
    #[error("processor.http.headers: `{0}` cannot be sent as a header")]
    Header(String),
    /// There is none to call.
    #[error("processor.external: its records are processed by a consumer of your own, so no worker is to be run")]
    External,
    /// It is called with TLS, which this build lacks.
    #[error("processor.http.url: {0}")]
    NoTls(NotBuilt),
    /// The client could not be made.
    #[error("the HTTP client could not be made")]
    Client(#[source] reqwest::Error),
}

/// A user's endpoint.
#[derive(Debug)]
pub(super) struct HttpProcessor {
    client: Client,
    method: Method,
    url: Url,
    headers: HeaderMap,
}

impl HttpProcessor {
    pub fn new(plan: &HttpPlan) -> Result<Self, ClientError> {
        let url = Url::parse(&plan.url).map_err(|e| ClientError::Url(format!("`{}`: {e}", plan.url)))?;
        check_scheme(&url, Feature::Https.is_built())?;
        let method = plan.method.parse().map_err(|_| ClientError::Method(plan.method.clone()))?;
        let header = |(name, value): (&String, &String)| {
            let parsed = name.parse::<HeaderName>().ok().zip(value.parse::<HeaderValue>().ok());
            parsed.ok_or_else(|| ClientError::Header(name.clone()))
        };
        let headers = plan.headers.iter().map(header).collect::<Result<_, _>>()?;
        let client = client(url.scheme() == "http").timeout(plan.timeout).build().map_err(ClientError::Client)?;
        Ok(Self { client, method, url, headers })
    }

    /// Makes one attempt.
    pub async fn call(&self, record: &Record, past: &Provenance, span: &AttemptSpan) -> Outcome {
        let mut request = self.client.request(self.method.clone(), self.url.clone());
        request = request.headers(request_headers(record, past, span)).headers(self.headers.clone());
        if let Some(value) = &record.value {
            request = request.body(value.clone());
        }
        match request.send().await {
            Ok(response) => answer(response).await,
            Err(error) => Outcome::Failed(no_answer(&error)),
        }
    }
}

/// Without TLS in the build every call would fail, one after the other.
fn check_scheme(url: &Url, has_tls: bool) -> Result<(), ClientError> {
    match url.scheme() {
        "https" if !has_tls => Err(ClientError::NoTls(NotBuilt(Feature::Https))),
        _ => Ok(()),
    }
}

/// The event's attributes and the record's own headers. A record that already is a CloudEvent in Kafka's binary mode
/// (`ce_id` and so on) keeps its attributes.
fn request_headers(record: &Record, past: &Provenance, span: &AttemptSpan) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: &str, value: &str| {
        if value.len() > ATTRIBUTE_MAX_BYTES {
            return;
        }
        let encoded = utf8_percent_encode(value, CE_ENCODED).to_string();
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::try_from(encoded)) {
            headers.insert(name, value);
        }
    };
    let id = past.idempotency_key();
    put("ce-specversion", "1.0");
    put("ce-id", &id);
    put("ce-source", &format!("kafka:{}", past.origin.topic));
    put("ce-type", "dev.lazaret.record");
    if let Some(time) = past.origin.timestamp {
        put("ce-time", &time.to_string());
    }
    if let Some(key) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) {
        put("ce-partitionkey", key);
    }
    for header in forwarded_headers(record) {
        let text = header.value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
        if let (Some(attribute), Some(text)) = (header.name.strip_prefix("ce_"), text) {
            put(&format!("ce-{attribute}"), text);
        }
    }
    put("lazaret-attempt", &past.attempts.saturating_add(1).to_string());
    headers.extend(HeaderValue::try_from(format!("\"{id}\"")).map(|value| (IDEMPOTENCY_KEY, value)));
    for (name, value) in trace_headers(record, span) {
        headers.extend(HeaderValue::try_from(value).map(|value| (HeaderName::from_static(name), value)));
    }
    let content_type = record.header_text("content-type").unwrap_or("application/json");
    headers.extend(HeaderValue::try_from(content_type).map(|value| (CONTENT_TYPE, value)));
    headers
}

/// A longer attribute is left out: servers refuse requests whose head is long, many from 8 KiB on.
const ATTRIBUTE_MAX_BYTES: usize = 1024;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What the endpoint goes on with: the attempt's span; where there is none, the trace that the record's producer began, or a
/// new one.
fn trace_headers(record: &Record, span: &AttemptSpan) -> Vec<(&'static str, String)> {
    let of_span = span.headers();
    if !of_span.is_empty() {
        return of_span;
    }
    let given = |name| trace_header(record, name).map(str::to_owned);
    match given(TRACEPARENT) {
        Some(parent) => [(TRACEPARENT, Some(parent)), (TRACESTATE, given(TRACESTATE))]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
        None => {
            let (trace, parent) = (rand::random::<u128>().max(1), rand::random::<u64>().max(1));
            vec![(TRACEPARENT, format!("00-{trace:032x}-{parent:016x}-01"))]
        }
    }
}

async fn answer(mut response: Response) -> Outcome {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (status, disposition) = (response.status().as_u16(), header(DISPOSITION));
    let retry_after = header(RETRY_AFTER.as_str()).and_then(|value| delay(&value));
    let mut body = Vec::new();
    // A body that breaks off is judged by what came of it: the status has been said.
    while body.len() < BODY_MAX_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        let room = BODY_MAX_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    classify(&Answer { status, disposition: disposition.as_deref(), retry_after, body: &body })
}

/// `Retry-After` in seconds, or as a date in one of the three forms that HTTP allows (RFC 9110, section 5.6.7).
fn delay(value: &str) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than a number holds are more than any policy grants.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A request without an answer. The type is the root's: what the client wraps around it says nothing to group by.
fn no_answer(error: &reqwest::Error) -> Failure {
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let error_type = match error {
        _ if error.is_timeout() => "TimeoutException",
        _ if error.is_connect() => "ConnectException",
        _ => "IOException",
    };
    Failure::new(FailureKind::Retryable, error_type, format!("{error_type}: {root}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::record::Header;
    use bytes::Bytes;

    #[test]
    fn a_build_without_tls_refuses_an_endpoint_with_it_and_says_which_build_has_it() {
        let check =
            |url: &str, has_tls| check_scheme(&url.parse().unwrap(), has_tls).map_err(|error| error.to_string());
        assert_eq!(check("https://orders/", true), Ok(()));
        assert_eq!(check("http://orders/", false), Ok(()));
        let error = check("https://orders/", false).unwrap_err();
        assert!(error.starts_with("processor.http.url: ") && error.contains("`https`"), "{error}");
        assert!(error.contains("cargo build --release"), "{error}");
    }

    fn headers_of(headers: Vec<Header>, key: &'static [u8]) -> HeaderMap {
        let record = Record {
            topic: "orders".into(),
            partition: 2,
            offset: 7,
            timestamp: None,
            key: Some(Bytes::from_static(key)),
            value: None,
            headers,
        };
        let past = Provenance { attempts: 1, ..Provenance::fresh(&record, "_tzumHZUMhEAAAAAAAAAKg".parse().ok()) };
        request_headers(&record, &past, &AttemptSpan::none())
    }

    #[test]
    fn a_request_is_a_cloud_event_with_a_key_that_is_stable_over_attempts() {
        let headers = headers_of(vec![], "clé 1".as_bytes());
        assert_eq!(headers["idempotency-key"], "\"orders:2:7:_tzumHZUMhEAAAAAAAAAKg\"");
        assert_eq!(headers["ce-id"], "orders:2:7:_tzumHZUMhEAAAAAAAAAKg");
        assert_eq!(headers["lazaret-attempt"], "2");
        assert_eq!(headers["ce-partitionkey"], "cl%C3%A9%201");
        assert_eq!(headers["traceparent"].len(), 55);
    }

    #[test]
    fn a_record_that_is_a_cloud_event_keeps_its_attributes() {
        let headers = headers_of(vec![Header::new("ce_id", "e-1"), Header::new("ce_type", "shop.order")], b"k");
        assert_eq!((&headers["ce-id"], &headers["ce-type"]), (&"e-1".parse().unwrap(), &"shop.order".parse().unwrap()));
        assert_eq!(headers["idempotency-key"], "\"orders:2:7:_tzumHZUMhEAAAAAAAAAKg\"");
    }

    #[test]
    fn attributes_too_long_for_a_servers_patience_are_left_out() {
        let long = "x".repeat(ATTRIBUTE_MAX_BYTES + 1);
        let headers = headers_of(vec![Header::new("ce_subject", long.clone())], b"k");
        assert!(!headers.contains_key("ce-subject"));
        assert_eq!(headers["ce-partitionkey"], "k");
        assert_eq!(headers["ce-id"], "orders:2:7:_tzumHZUMhEAAAAAAAAAKg");
    }

    #[test]
    fn a_trace_goes_on_without_a_state_that_a_server_would_refuse() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let with_state = |state: String| {
            headers_of(vec![Header::new("traceparent", parent), Header::new("tracestate", state)], b"k")
        };
        assert_eq!(with_state("shop=1".into())["tracestate"], "shop=1");
        for state in [format!("shop={}", "x".repeat(600)), "shop=\u{e9}".into()] {
            let headers = with_state(state);
            assert_eq!((headers.get("tracestate"), &headers["traceparent"]), (None, &parent.parse().unwrap()));
        }
        let long = headers_of(vec![Header::new("traceparent", "-".repeat(1 << 20))], b"k");
        assert_eq!(long["traceparent"].len(), 55, "one that is none is replaced");
    }

    #[test]
    fn headers_that_http_cannot_carry_are_left_out() {
        let odd =
            vec![Header::new("ce_bad name", "x"), Header::new("traceparent", "a\nb"), Header::new("ce_x", "a\nb")];
        let headers = headers_of(odd, b"\xff");
        assert_eq!((headers["traceparent"].len(), headers.contains_key("ce-partitionkey")), (55, false));
        assert_eq!(headers["ce-x"], "a%0Ab");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(delay(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(delay("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(delay("Sunday, 06-Nov-94 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(delay("Sun Nov  6 08:49:37 1994"), Some(Duration::ZERO));
        assert!(delay("Fri, 31 Dec 9999 23:59:59 GMT").is_some_and(|delay| delay.as_secs() > 3600));
        assert_eq!(delay("99999999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        for nonsense in ["soon", "", "-1", "1.5"] {
            assert_eq!(delay(nonsense), None);
        }
    }
}
