//! Reads what a plan is made of, with the operator's own rooms. Nothing is written.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject};
use kube::{Client, ResourceExt};

use super::{Plan, Planned};
use crate::api::file;
use crate::api::v1alpha1::ErrorHandlingPipeline;
use crate::domain::pipeline::workers_name;
use crate::domain::record::provenance::Stage;
use crate::kafka::connection::Connection;
use crate::kafka::topics::{TopicError, Topics};
use crate::operator::apply::{api_of, is_owned, unwanted};
use crate::operator::build::{build_kafka_topics, build_workers};
use crate::operator::dereference::Stored;
use crate::operator::dereference::{Found, Sight, TopicFound, dereference};
use crate::operator::release::{labelled_topics, releases};
use crate::operator::strimzi::{self, Strimzi};
use crate::operator::validate::{ValidatedPipeline, validate};
use crate::plugin::cluster::Cluster;
use crate::plugin::error::PluginError;

/// A pipeline to explain.
pub enum Asked {
    /// One of the cluster, as it is or as a file would change it.
    There(ErrorHandlingPipeline),
    /// One that only a file has.
    New(ErrorHandlingPipeline),
}

/// Reads pipelines from a file, or from standard input for `-`.
pub fn file(path: &Path) -> Result<Vec<ErrorHandlingPipeline>, PluginError> {
    let name = path.display().to_string();
    let mut text = String::new();
    let read = match name.as_str() {
        "-" => std::io::stdin().read_to_string(&mut text).map(drop),
        _ => std::fs::read_to_string(path).map(|read| text = read),
    };
    read.map_err(|error| PluginError::File(format!("{name}: {error}")))?;
    file::parse(&name, &text).map_err(|error| PluginError::File(error.to_string()))
}

/// Gives pipelines of a file the namespace that they would be applied in, and what the cluster knows of them.
pub async fn in_namespace(
    cluster: &Cluster,
    written: Vec<ErrorHandlingPipeline>,
    namespace: Option<&str>,
) -> Result<Vec<Asked>, PluginError> {
    let mut asked = vec![];
    for mut object in written {
        let name = object.name_any();
        let place = match (object.namespace(), namespace) {
            (Some(in_file), Some(asked)) if in_file != asked => {
                return Err(PluginError::OtherNamespace { name, in_file, asked: asked.to_owned() });
            }
            (Some(in_file), _) => in_file,
            (None, Some(asked)) => asked.to_owned(),
            (None, None) => cluster.namespace.clone(),
        };
        asked.push(match cluster.find(&place, &name).await? {
            Some(known) => {
                allowed(&object, &known)?;
                object.metadata = known.metadata;
                object.status = known.status;
                Asked::There(object)
            }
            None => {
                object.metadata.namespace = Some(place);
                // Of two pipelines that get in each other's way the older one goes on: that is not the new one.
                object.metadata.creation_timestamp = Some(Time(Timestamp::now()));
                Asked::New(object)
            }
        });
    }
    Ok(asked)
}

/// Whether the API server would take the change: partitions, for one, cannot become fewer.
fn allowed(object: &ErrorHandlingPipeline, known: &ErrorHandlingPipeline) -> Result<(), PluginError> {
    let Err(broken) = object.validate_cel_update(known) else { return Ok(()) };
    let said: Vec<_> = broken.iter().map(|rule| format!("{}: {}", rule.field_path, rule.message)).collect();
    Err(PluginError::File(format!("{}: {}", object.name_any(), said.join("; "))))
}

/// What the operator would see, as far as it can be seen from here.
struct View<'a> {
    cluster: &'a Cluster,
    strimzi: Option<Strimzi>,
    pipelines: Vec<Arc<Stored>>,
}

impl Sight for View<'_> {
    fn client(&self) -> &Client {
        &self.cluster.client
    }

    fn strimzi(&self) -> Option<&Strimzi> {
        self.strimzi.as_ref()
    }

    fn pipelines(&self) -> Vec<Arc<Stored>> {
        self.pipelines.clone()
    }

    fn topics(&self, bootstrap_servers: &str) -> Result<Topics, TopicError> {
        Topics::new(&Connection::new(bootstrap_servers))
    }
}

/// What was seen of a pipeline and of all that it refers to.
pub struct Seen {
    /// The pipeline.
    pub object: Arc<ErrorHandlingPipeline>,
    /// Whether it is in the cluster; else only in a file.
    pub is_there: bool,
    /// Whether all pipelines were seen that may stand in its way; not all may be looked at.
    pub all_seen: bool,
    /// Strimzi's resources, where the cluster has them.
    pub strimzi: Option<Strimzi>,
    /// What it refers to.
    pub found: Found,
}

/// Looks at a pipeline as the operator does.
pub async fn look(cluster: &Cluster, asked: Asked) -> Result<Seen, PluginError> {
    let (object, is_there) = match asked {
        Asked::There(object) => (Arc::new(object), true),
        Asked::New(object) => (Arc::new(object), false),
    };
    let (pipelines, all_seen) = rivals(cluster, &object).await?;
    let pipelines = pipelines.into_iter().map(Arc::new).collect();
    let strimzi = strimzi::discover(&cluster.client).await.map_err(cluster.failed())?;
    let view = View { cluster, strimzi, pipelines };
    let found = dereference(&view, &object).await.map_err(|error| PluginError::of_operator(&error, &cluster.url))?;
    Ok(Seen { object, is_there, all_seen, strimzi: view.strimzi, found })
}

/// Judges and builds as the operator does, and reads what there is of what it would apply.
pub async fn plan(cluster: &Cluster, seen: Seen, image: Option<&str>) -> Result<Plan, PluginError> {
    let Seen { object, is_there, all_seen, strimzi, found } = seen;
    let validated = validate(&object, &found).map_err(|invalid| PluginError::Invalid {
        name: object.name_any(),
        reason: invalid.reason(),
        message: invalid.to_string(),
    })?;
    let image = match image {
        _ if object.is_external() => None,
        Some(image) => Some(image.to_owned()),
        None => Some(image_of(cluster, &object).await?.ok_or_else(|| PluginError::NoImage(object.name_any()))?),
    };
    let mut objects = topics(&validated, &found, strimzi.as_ref());
    objects.extend(workers(cluster, &validated, image.as_deref().unwrap_or_default()).await?);
    let wanted: Vec<_> = objects.iter().map(|planned| planned.wanted.clone()).collect();
    let unwanted = unwanted(&cluster.client, &validated, &wanted).await;
    let unwanted = unwanted.map_err(|error| PluginError::of_operator(&error, &cluster.url))?;
    let released = match strimzi.as_ref().filter(|_| is_there) {
        Some(strimzi) => {
            let labelled = labelled_topics(&cluster.client, &strimzi.kafka_topic, &object).await;
            releases(&object, &found.others, &labelled.map_err(cluster.failed())?)
        }
        None => vec![],
    };
    Ok(Plan { validated, found, is_there, all_seen, image, objects, unwanted, released })
}

/// The pipelines that may stand in the way of one, and whether these are all: those on the same Kafka.
pub async fn rivals(cluster: &Cluster, object: &ErrorHandlingPipeline) -> Result<(Vec<Stored>, bool), PluginError> {
    let namespace = object.namespace().unwrap_or_default();
    if object.spec.kafka.cluster.is_some() {
        return Ok((cluster.pipelines(Some(&namespace)).await?, true));
    }
    match cluster.pipelines(None).await {
        Err(PluginError::Forbidden(_)) => Ok((cluster.pipelines(Some(&namespace)).await?, false)),
        all => Ok((all?, true)),
    }
}

/// The image that the workers of the main stage have.
async fn image_of(cluster: &Cluster, object: &ErrorHandlingPipeline) -> Result<Option<String>, PluginError> {
    let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), &object.namespace().unwrap_or_default());
    let name = workers_name(&object.name_any(), Stage::Main);
    let deployment = api.get_opt(&name).await.map_err(cluster.failed())?;
    let pod = deployment.and_then(|deployment| deployment.spec.template.spec);
    let worker = pod.and_then(|pod| pod.containers.into_iter().find(|container| container.name == "worker"));
    Ok(worker.and_then(|worker| worker.image))
}

fn topics(validated: &ValidatedPipeline, found: &Found, strimzi: Option<&Strimzi>) -> Vec<Planned> {
    let Some(strimzi) = strimzi.filter(|_| validated.object.spec.kafka.cluster.is_some()) else { return vec![] };
    let known = |name: &str| {
        found.topics.values().find_map(|topic| match topic {
            TopicFound::Object(topic) if topic.name_any() == name => Some(DynamicObject::clone(topic)),
            _ => None,
        })
    };
    let planned = build_kafka_topics(validated, &strimzi.kafka_topic).into_iter().map(|wanted| Planned {
        live: known(&wanted.object.name_any()),
        carried_over: wanted.carried_over.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        wanted: wanted.object,
        is_taken: false,
    });
    planned.collect()
}

async fn workers(cluster: &Cluster, validated: &ValidatedPipeline, image: &str) -> Result<Vec<Planned>, PluginError> {
    let mut planned = vec![];
    for wanted in build_workers(validated, image) {
        let live = api_of(&cluster.client, &wanted).get_opt(&wanted.name_any()).await.map_err(cluster.failed())?;
        let is_taken = live.as_ref().is_some_and(|live| !is_owned(live, validated));
        planned.push(Planned { wanted, live, is_taken, carried_over: vec![] });
    }
    Ok(planned)
}
