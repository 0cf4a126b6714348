//! The cluster that is asked: chosen as kubectl chooses it, and only ever read.

use clap::Args;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};

use super::error::PluginError;
use crate::api::v1alpha1::ErrorHandlingPipeline;
use crate::domain::record::provenance::Stage;
use crate::operator::dereference::Stored;
use crate::operator::error::{Error, with_causes};
use crate::operator::observe::{self, StageState};

/// Which cluster to ask; the same words as kubectl's.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// The context of the kubeconfig to use. Default: its current one.
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
    /// The kubeconfig to use. Default: what KUBECONFIG names, else ~/.kube/config, else the account of the pod.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
}

/// How many names are said of those that may have been meant.
const NAMES: usize = 5;

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    /// The API server.
    pub client: Client,
    /// The namespace of the context.
    pub namespace: String,
    /// Where the API server is.
    pub url: String,
}

impl Cluster {
    /// Chooses a cluster. Nothing is sent yet.
    pub async fn choose(args: ClusterArgs) -> Result<Self, PluginError> {
        let options = KubeConfigOptions { context: args.context, ..KubeConfigOptions::default() };
        let unusable = |error: &dyn std::error::Error| PluginError::Config(with_causes(error));
        let config = match (args.kubeconfig, &options.context) {
            (Some(file), _) => {
                let kubeconfig = Kubeconfig::read_from(file).map_err(|error| unusable(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| unusable(&error))?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?,
            // Of the two places where it looks, a person means the kubeconfig.
            (None, None) => {
                Config::infer().await.map_err(|error| unusable(std::error::Error::source(&error).unwrap_or(&error)))?
            }
        };
        let (namespace, url) = (config.default_namespace.clone(), config.cluster_url.to_string());
        let client = Client::try_from(config).map_err(|error| PluginError::Client(with_causes(&error)))?;
        Ok(Self { client, namespace, url: url.trim_end_matches('/').to_owned() })
    }

    /// Puts what the API server said into words.
    pub fn failed(&self) -> impl Fn(kube::Error) -> PluginError + '_ {
        |error| PluginError::of(&error, &self.url)
    }

    /// The pipelines of a namespace, or of all.
    pub async fn pipelines(&self, namespace: Option<&str>) -> Result<Vec<Stored>, PluginError> {
        let api: Api<Stored> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        match api.list(&ListParams::default()).await {
            Ok(list) => Ok(list.items),
            // Of a namespace that is not there the list is empty; so it is the resource that is not there.
            Err(kube::Error::Api(status)) if status.code == 404 => Err(PluginError::NotInstalled),
            Err(error) => Err(self.failed()(error)),
        }
    }

    /// What happened to a pipeline; `None` when that may not be looked at.
    pub async fn events(&self, object: &ErrorHandlingPipeline) -> Result<Option<Vec<Event>>, PluginError> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        // Events of an object of the same name that was there before are not its own.
        let about = format!("involvedObject.uid={}", object.uid().unwrap_or_default());
        unless_forbidden(api.list(&ListParams::default().fields(&about)).await.map(|list| list.items))
            .map_err(self.failed())
    }

    /// The workers of both stages; `None` when they may not be looked at.
    pub async fn stages(&self, object: &ErrorHandlingPipeline) -> Result<Option<[Option<StageState>; 2]>, PluginError> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let state = async |stage| match observe::stage(&self.client, &namespace, &name, stage).await {
            Err(Error::Api(kube::Error::Api(status))) if status.code == 403 => Ok(None),
            state => state.map(Some).map_err(|error| PluginError::of_operator(&error, &self.url)),
        };
        Ok(state(Stage::Main).await?.zip(state(Stage::Retry).await?).map(|(main, retry)| [main, retry]))
    }

    /// A pipeline, if it is there.
    pub async fn find(&self, namespace: &str, name: &str) -> Result<Option<ErrorHandlingPipeline>, PluginError> {
        let api: Api<Stored> = Api::namespaced(self.client.clone(), namespace);
        match api.get_opt(name).await.map_err(self.failed())? {
            Some(Stored { 0: Ok(object) }) => Ok(Some(object)),
            Some(Stored { 0: Err(invalid) }) => {
                Err(PluginError::Unreadable { name: name.to_owned(), why: invalid.error })
            }
            None => Ok(None),
        }
    }

    /// A pipeline that has to be there.
    pub async fn pipeline(&self, namespace: &str, name: &str) -> Result<ErrorHandlingPipeline, PluginError> {
        if let Some(found) = self.find(namespace, name).await? {
            return Ok(found);
        }
        // Where not all namespaces may be looked at, the one will do.
        let known = match self.pipelines(None).await {
            Err(PluginError::Forbidden(_)) => self.pipelines(Some(namespace)).await?,
            known => known?,
        };
        let known: Vec<_> =
            known.iter().map(|known| (known.namespace().unwrap_or_default(), known.name_any())).collect();
        let hint = meant(namespace, name, &known);
        Err(PluginError::NotFound { name: name.to_owned(), namespace: namespace.to_owned(), hint })
    }
}

fn unless_forbidden<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        result => result.map(Some),
    }
}

/// What may have been meant, of those that there are: the name in another namespace, one that is spelled like it, or any.
fn meant(namespace: &str, name: &str, known: &[(String, String)]) -> String {
    if let Some((elsewhere, _)) = known.iter().find(|(_, known)| known == name) {
        return format!(", but there is one in `{elsewhere}`: say -n {elsewhere}");
    }
    let here: Vec<_> = known.iter().filter(|(of, _)| of == namespace).map(|(_, name)| name.as_str()).collect();
    let distance = |known: &&str| strsim::osa_distance(name, known);
    let nearest = here.iter().copied().filter(|known| distance(known) <= 1 + known.len() / 4).min_by_key(distance);
    match (nearest, here.as_slice()) {
        (Some(nearest), _) => format!(": did you mean `{nearest}`?"),
        (None, []) if known.is_empty() => ", nor in any other that you may see".to_owned(),
        (None, []) => "; `status -A` lists those of all namespaces".to_owned(),
        (None, here) => {
            let names: Vec<_> = here.iter().take(NAMES).map(|name| format!("`{name}`")).collect();
            let more = if here.len() > NAMES { ", …" } else { "" };
            format!("; there is {}{more}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_what_is_not_there_hears_what_may_have_been_meant() {
        let known =
            [("kafka", "orders"), ("kafka", "bills"), ("shop", "carts")].map(|(n, name)| (n.into(), name.into()));
        assert_eq!(meant("default", "orders", &known), ", but there is one in `kafka`: say -n kafka");
        assert_eq!(meant("kafka", "order", &known), ": did you mean `orders`?");
        assert_eq!(meant("kafka", "payments", &known), "; there is `orders`, `bills`");
        assert_eq!(meant("default", "payments", &known), "; `status -A` lists those of all namespaces");
        assert_eq!(meant("default", "payments", &[]), ", nor in any other that you may see");
    }
}
