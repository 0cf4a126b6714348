//! Where spans are sent: to the collector that the pipeline names, or else the environment.
//!
//! The environment's variables are those of [OpenTelemetry's specification](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/),
//! so that what injects them into pods (the OpenTelemetry operator's `inject-sdk`) turns this on, too. Telemetry never keeps
//! a stage from its work: what is wrong with it is logged.

use std::time::Duration;

use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Config, Sampler, SdkTracerProvider, ShouldSample};
use tracing::{info, warn};

use super::sampler::FollowsFirstAttempt;
use crate::domain::pipeline::TracingPlan;

/// How long a collector may take to answer, OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    /// The environment wants another protocol.
    #[error("`{name}` is `{value}`: spans are sent as `http/protobuf` alone, for which a collector has port 4318")]
    Protocol { name: &'static str, value: String },
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

/// What sends the spans of a service's instance; `None` where nobody wants them, or where they cannot be sent.
pub fn provider(plan: Option<&TracingPlan>, service: &str, instance: &str) -> Option<SdkTracerProvider> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = endpoint(plan, variable)?;
    let made = check_protocol(plan, variable).and_then(|()| build(&endpoint, plan, service, instance));
    match made {
        Ok(provider) => {
            info!(endpoint, service, "attempts are traced");
            Some(provider)
        }
        Err(error) => {
            warn!(endpoint, service, error = &error as &dyn std::error::Error, "attempts are not traced");
            None
        }
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

fn build(
    endpoint: &str,
    plan: Option<&TracingPlan>,
    service: &str,
    instance: &str,
) -> Result<SdkTracerProvider, ExportError> {
    let is_plain = endpoint.starts_with("http:");
    // The exporter has a thread of its own, which its client blocks; a runtime allows no such client to be made in it.
    let made = std::thread::Builder::new().spawn(move || client(is_plain))?.join();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(made.expect("a builder does not panic")?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .build()?;
    let sampler: Box<dyn ShouldSample> = match plan {
        Some(plan) => Box::new(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(plan.sampling_ratio)))),
        None => Config::default().sampler,
    };
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Box::new(FollowsFirstAttempt(sampler)) as Box<dyn ShouldSample>)
        .with_resource(resource(service, instance))
        .build())
}

fn client(is_plain: bool) -> reqwest::Result<reqwest::blocking::Client> {
    let mut client = reqwest::blocking::Client::builder().timeout(TIMEOUT).no_proxy();
    if is_plain {
        // An image need not have certificates to call without them.
        client = client.tls_certs_only([]);
    }
    client.build()
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
