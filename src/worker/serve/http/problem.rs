//! How the API says that something went wrong: problem details, as in [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457).
//!
//! The type is always `about:blank`: the status says what kind of problem it is, the detail what to do about it. A detail
//! may repeat what the client sent of its address, never of its body.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

/// Seconds after which it makes sense to ask again: clients find a broker that comes back within about one.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// Why a request was not answered as hoped.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// What kind of problem it is; `about:blank` means that the status says it.
    #[schema(example = "about:blank")]
    r#type: &'static str,
    /// The name of the status.
    #[schema(example = "Service Unavailable")]
    title: &'static str,
    /// The status of the answer.
    #[serde(serialize_with = "as_number")]
    #[schema(value_type = u16, example = 503)]
    status: StatusCode,
    /// What happened, and what helps.
    detail: String,
}

impl Problem {
    /// A problem of this kind; `detail` says what happened and what helps.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or_default();
        Self { r#type: "about:blank", title, status, detail: detail.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("text and a number are always JSON");
        let content_type = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(CONTENT_TYPE, content_type)], body).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}

/// Answers for a path that does not exist.
pub async fn unknown_path(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no `{}`; /openapi.json lists what there is", uri.path()))
}

/// Answers for a path that exists, but not for this method.
pub async fn unknown_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("`{}` cannot be asked with {method}; the Allow header says how it can", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

fn as_number<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
