//! Where spans are sent: to the collector that the pipeline names, or else the environment.
//!
//! The environment's variables are those of [OpenTelemetry's specification](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/),
//! so that what injects them into pods (the OpenTelemetry operator's `inject-sdk`) turns this on, too. Telemetry never keeps
//! a stage from its work: what is wrong with it is logged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Config, Sampler, SdkTracer, SdkTracerProvider, ShouldSample, SpanData};
use reqwest::Url;
use reqwest::redirect::Policy;
use tracing::{debug, info, warn};

use super::sampler::FollowsFirstAttempt;
use crate::domain::pipeline::TracingPlan;

/// How long a collector may take to answer, OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long the last spans may take to be sent when a stage stops.
const GRACE: Duration = Duration::from_secs(2);

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    /// The environment wants another protocol.
    #[error("`{name}` is `{value}`: spans are sent as `http/protobuf` alone, for which a collector has port 4318")]
    Protocol { name: &'static str, value: String },
    /// The address is none.
    #[error("the collector's address is none: {0}")]
    Address(String),
    /// The address has what an address of a collector cannot have.
    #[error(
        "the collector's address must have neither a user, a query nor a fragment: a token goes in OTEL_EXPORTER_OTLP_HEADERS"
    )]
    Ornate,
    /// The exporter refuses its settings.
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
    /// The client could not be made.
    #[error("the HTTP client could not be made")]
    Client(#[from] reqwest::Error),
    /// The system has no thread left.
    #[error("a thread could not be started")]
    Thread(#[from] std::io::Error),
}

/// What sends the spans of a stage. It ends when it is dropped, and nobody waits for that.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// What sends the spans of a service's instance; `None` where nobody wants them, or where they cannot be sent.
    pub fn start(plan: Option<&TracingPlan>, service: &str, instance: &str) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = endpoint(plan, variable)?;
        let made = check_protocol(plan, variable)
            .and_then(|()| check_address(&endpoint))
            .and_then(|endpoint| Ok((build(&endpoint, plan, service, instance)?, endpoint)));
        match made {
            Ok((provider, endpoint)) => {
                info!(endpoint = %endpoint, service, "attempts are traced");
                Some(Self(provider))
            }
            Err(error) => {
                warn!(service, error = &error as &dyn std::error::Error, "attempts are not traced");
                None
            }
        }
    }

    /// What makes the spans.
    pub fn tracer(&self) -> SdkTracer {
        self.0.tracer("lazaret")
    }

    /// Sends what is left. What a collector does not take in time is lost.
    pub async fn stop(self) {
        let provider = self.0.clone();
        let sent = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(GRACE)).await;
        debug!(?sent, "the last spans are sent");
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // It blocks, and so would dropping the last of its tracers before it.
        let provider = self.0.clone();
        let ended = std::thread::Builder::new().spawn(move || provider.shutdown_with_timeout(GRACE));
        debug!(is_ending = ended.is_ok(), "spans are no longer sent");
    }
}

/// Where spans are to be sent, `None` for nowhere.
fn endpoint(plan: Option<&TracingPlan>, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let is = |name, value: &str| variable(name).is_some_and(|given| given.eq_ignore_ascii_case(value));
    let of_traces = |base: &str| format!("{}/v1/traces", base.trim_end_matches('/'));
    if is("OTEL_SDK_DISABLED", "true") {
        return None;
    }
    match plan {
        Some(plan) => Some(of_traces(&plan.endpoint)),
        None if is("OTEL_TRACES_EXPORTER", "none") => None,
        None => variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
            .or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| of_traces(&base))),
    }
}

/// Refuses a protocol that is not spoken here; what the pipeline names speaks the one that is.
fn check_protocol(plan: Option<&TracingPlan>, variable: impl Fn(&str) -> Option<String>) -> Result<(), ExportError> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    let given = names.into_iter().find_map(|name| Some((name, variable(name)?)));
    match given {
        Some((name, value)) if plan.is_none() && value != "http/protobuf" => Err(ExportError::Protocol { name, value }),
        _ => Ok(()),
    }
}

/// An address is logged, and so must not hold a secret.
fn check_address(endpoint: &str) -> Result<Url, ExportError> {
    let url = Url::parse(endpoint).map_err(|error| ExportError::Address(error.to_string()))?;
    let is_plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if is_plain { Ok(url) } else { Err(ExportError::Ornate) }
}

fn build(
    endpoint: &Url,
    plan: Option<&TracingPlan>,
    service: &str,
    instance: &str,
) -> Result<SdkTracerProvider, ExportError> {
    let is_plain = endpoint.scheme() == "http";
    // The exporter has a thread of its own, which its client blocks; a runtime allows no such client to be made in it.
    let made = std::thread::Builder::new().spawn(move || client(is_plain))?.join();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(made.expect("a builder does not panic")?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint.as_str())
        .build()?;
    let sampler: Box<dyn ShouldSample> = match plan {
        Some(plan) => Box::new(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(plan.sampling_ratio)))),
        None => Config::default().sampler,
    };
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(Watched { exporter, endpoint: endpoint.to_string(), is_away: AtomicBool::new(false) })
        .with_sampler(Box::new(FollowsFirstAttempt(sampler)) as Box<dyn ShouldSample>)
        .with_resource(resource(service, instance))
        .build())
}

fn client(is_plain: bool) -> reqwest::Result<reqwest::blocking::Client> {
    // As with records: a redirect would send spans somewhere that the user did not name.
    let mut client = reqwest::blocking::Client::builder().timeout(TIMEOUT).no_proxy().redirect(Policy::none());
    if is_plain {
        // An image need not have certificates to call without them.
        client = client.tls_certs_only([]);
    }
    client.build()
}

/// Says once that a collector does not take spans, and once that it does again.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    endpoint: String,
    is_away: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        let was_away = self.is_away.swap(result.is_err(), Ordering::Relaxed);
        let endpoint = &self.endpoint;
        match result {
            Ok(()) if was_away => info!(endpoint, "the collector takes spans again"),
            Ok(()) => {}
            Err(error) if was_away => debug!(endpoint, spans, %error, "spans are lost"),
            Err(error) => {
                warn!(endpoint, spans, %error, "the collector does not take spans: they are lost until it does")
            }
        }
        // What is lost was said.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Who sends them. What the environment says of it goes before.
fn resource(service: &str, instance: &str) -> Resource {
    let given = Resource::builder().build();
    let has = |name: &'static str| {
        given.get(&Key::from_static_str(name)).is_some_and(|value| !value.as_str().starts_with("unknown_service"))
    };
    let ours = [
        ("service.name", service.to_owned()),
        ("service.instance.id", instance.to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let missing = ours.into_iter().filter(|(name, _)| !has(name)).map(|(name, value)| KeyValue::new(name, value));
    Resource::builder().with_attributes(missing).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where spans go with these variables, with a pipeline that names a collector and with one that does not.
    fn goes(variables: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let variable = |name: &str| Some(variables.iter().find(|(given, _)| *given == name)?.1.to_owned());
        let plan = TracingPlan { endpoint: "http://named:4318/".into(), sampling_ratio: 1.0 };
        (endpoint(Some(&plan), variable), endpoint(None, variable))
    }

    #[test]
    fn the_pipeline_says_where_spans_go_or_else_the_environment_unless_it_forbids_them() {
        let to = |url: &str| Some(url.to_owned());
        let named = to("http://named:4318/v1/traces");
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4318");
        let of_traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://env:4318/own");
        assert_eq!(goes(&[]), (named.clone(), None));
        assert_eq!(goes(&[base]), (named.clone(), to("http://env:4318/v1/traces")));
        assert_eq!(goes(&[base, of_traces]), (named.clone(), to("http://env:4318/own")));
        assert_eq!(goes(&[base, ("OTEL_TRACES_EXPORTER", "none")]), (named, None));
        assert_eq!(goes(&[base, ("OTEL_SDK_DISABLED", "True")]), (None, None));
    }

    #[test]
    fn an_address_with_a_secret_is_refused_without_telling_it() {
        assert_eq!(check_address("http://c:4318/v1/traces").unwrap().as_str(), "http://c:4318/v1/traces");
        for address in ["http://u:secret@c:4318/", "http://secret@c/", "http://c/?token=secret", "http://c/#secret"] {
            let error = check_address(address).unwrap_err().to_string();
            assert!(error.contains("OTEL_EXPORTER_OTLP_HEADERS") && !error.contains("secret"), "{error}");
        }
        assert!(check_address("http://a b/").unwrap_err().to_string().contains("address is none"));
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_refused_with_its_variable() {
        let given =
            |value: &'static str| move |name: &str| (name == "OTEL_EXPORTER_OTLP_PROTOCOL").then(|| value.to_owned());
        assert!(check_protocol(None, given("http/protobuf")).is_ok());
        let error = check_protocol(None, given("grpc")).unwrap_err().to_string();
        assert!(error.contains("`OTEL_EXPORTER_OTLP_PROTOCOL` is `grpc`"), "{error}");
        let plan = TracingPlan { endpoint: "http://named:4318".into(), sampling_ratio: 1.0 };
        assert!(check_protocol(Some(&plan), given("grpc")).is_ok());
    }
}
