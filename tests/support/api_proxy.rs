//! A way to the real API server that a test can disturb: it answers some requests itself, or says when they were made.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use kube::Client;
use serde_json::{Value, json};

use super::cluster::client_of;

/// What becomes of a request: `None` lets it through.
type Fault = Box<dyn FnMut(&Method, &str) -> Option<StatusCode> + Send>;

/// A proxy on this machine.
pub struct ApiProxy {
    /// A kubeconfig whose server it is.
    pub kubeconfig: String,
    fault: Arc<Mutex<Fault>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct Way {
    client: Client,
    fault: Arc<Mutex<Fault>>,
}

impl ApiProxy {
    /// Starts one that lets everything through, as the user of a kubeconfig. `name` is unique.
    pub async fn start(kubeconfig: &str, name: &str) -> Self {
        let client = client_of(kubeconfig).await;
        let fault: Arc<Mutex<Fault>> = Arc::new(Mutex::new(Box::new(|_, _| None)));
        let way = Way { client, fault: fault.clone() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
        config["clusters"][0]["cluster"]["server"] = server.into();
        config["users"][0]["user"] = json!({});
        let kubeconfig = format!("{}/{name}-proxy.kubeconfig", env!("CARGO_TARGET_TMPDIR"));
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let router = Router::new().fallback(pass).with_state(way);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { kubeconfig, fault, task }
    }

    /// Disturbs requests from now on. The fault is given the method and the path.
    pub fn disturb(&self, fault: impl FnMut(&Method, &str) -> Option<StatusCode> + Send + 'static) {
        *self.fault.lock().unwrap() = Box::new(fault);
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

async fn pass(State(way): State<Way>, request: Request) -> Response {
    let fault = (way.fault.lock().unwrap())(request.method(), request.uri().path());
    if let Some(code) = fault {
        return refusal(code);
    }
    let (mut parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let kept = |headers: &HeaderMap| {
        let kept = ["accept", "content-type"].map(|name| (name, headers.get(name).cloned()));
        kept.into_iter().filter_map(|(name, value)| Some((name.parse().unwrap(), value?))).collect::<HeaderMap>()
    };
    parts.headers = kept(&parts.headers);
    let request = axum::http::Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
    match way.client.send(request).await {
        Ok(answer) => {
            let (mut parts, body) = answer.into_parts();
            parts.headers = kept(&parts.headers);
            Response::from_parts(parts, Body::new(body))
        }
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// A refusal in the API server's own form.
fn refusal(code: StatusCode) -> Response {
    let reason = match code {
        StatusCode::CONFLICT => "Conflict",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        _ => "InternalError",
    };
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason,
        "message": format!("a test answers with {}", code.as_u16()),
    });
    (code, axum::Json(status)).into_response()
}
