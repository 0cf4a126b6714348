//! A Prometheus, and the adapter that serves its numbers to the cluster's autoscalers, as processes beside the cluster.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Client;
use kube::api::Api;
use tokio::net::TcpStream;

use crate::support::cluster::{apply, here, kubeconfig, wait_until_gone};
use crate::support::eventually;
use crate::support::ports::free_port;

const API: &str = "v1beta1.external.metrics.k8s.io";

/// A process that ends with this.
struct Process(Child);

impl Process {
    fn start(program: &str, args: &[String], log: &str) -> Self {
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/prometheus/build.sh");
        let built = Command::new(build).arg(program).output().expect("tests/prometheus/build.sh can be run");
        assert!(built.status.success(), "no {program}: {}", String::from_utf8_lossy(&built.stderr));
        let path = String::from_utf8(built.stdout).unwrap();
        let log = std::fs::File::create(directory().join(log)).unwrap();
        let child = Command::new(path.trim()).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Self(child.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// External metrics of the cluster, from a Prometheus that scrapes one operator.
pub struct ExternalMetrics {
    _prometheus: Process,
    _adapter: Process,
}

impl ExternalMetrics {
    /// Scrapes `operator`, as the operator of the namespace `lazaret`, and serves what the adapter makes of that by `rules`.
    /// The Service that leads to it is in `namespace`. [`end`](Self::end) it, or no other namespace can go.
    pub async fn start(client: &Client, namespace: &str, operator: &str, rules: &str) -> Self {
        let scrape = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: lazaret\n  static_configs:\n  \
             - {{targets: ['{operator}'], labels: {{namespace: lazaret}}}}\n"
        );
        let [config, rules_file] =
            [("prometheus.yaml", scrape.as_str()), ("adapter.yaml", rules)].map(|(name, text)| {
                let path = directory().join(name);
                std::fs::write(&path, text).unwrap();
                path.display().to_string()
            });
        let (data, certificates) = (directory().join("data"), directory().join("certificates"));
        let here = here();
        let (web, api) = (free_port([127, 0, 0, 1].into()), free_port(here.parse().unwrap()));
        let prometheus = [
            format!("--config.file={config}"),
            format!("--storage.tsdb.path={}", data.display()),
            format!("--web.listen-address=127.0.0.1:{web}"),
        ];
        let prometheus = Process::start("prometheus", &prometheus, "prometheus.log");
        let kubeconfig = kubeconfig();
        let adapter = [
            format!("--prometheus-url=http://127.0.0.1:{web}"),
            format!("--config={rules_file}"),
            "--metrics-relist-interval=2s".to_owned(),
            format!("--bind-address={here}"),
            format!("--secure-port={api}"),
            format!("--cert-dir={}", certificates.display()),
            format!("--lister-kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
        ];
        let adapter = Process::start("adapter", &adapter, "adapter.log");
        let answers = async || TcpStream::connect((here.as_str(), api)).await.ok().map(drop);
        eventually("the adapter answers", answers).await;
        let objects = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: adapter}}\nspec: {{ports: [{{port: 443, targetPort: {api}}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: adapter, labels: {{kubernetes.io/service-name: adapter}}}}\n\
             addressType: IPv4\nports: [{{port: {api}}}]\nendpoints: [{{addresses: ['{here}']}}]\n\
             ---\napiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {{name: {API}}}\n\
             spec: {{group: external.metrics.k8s.io, version: v1beta1, insecureSkipTLSVerify: true, groupPriorityMinimum: 100, \
             versionPriority: 100, service: {{name: adapter, namespace: {namespace}}}}}\n"
        );
        apply(client, namespace, &objects).await;
        Self { _prometheus: prometheus, _adapter: adapter }
    }

    /// Stops to serve.
    pub async fn end(client: &Client) {
        let services: Api<APIService> = Api::all(client.clone());
        let _ = services.delete(API, &Default::default()).await;
        wait_until_gone(&services, API).await;
    }
}

/// Where all that is written.
fn directory() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("prometheus-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}
