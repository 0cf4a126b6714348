//! Both stages of a pipeline, run within the test.

use std::sync::Arc;

use lazaret::domain::pipeline::{Delivery, Pipeline};
use lazaret::domain::record::provenance::Stage;
use lazaret::kafka::connection::Connection;
use lazaret::worker::metrics::StageMetrics;
use lazaret::worker::process::{Process, ProcessSettings, Summary};
use serde_json::Value;

use super::{eventually, kafka};

/// A running pipeline.
pub struct Engine {
    process: Process,
}

impl Engine {
    /// Starts both stages and waits until each has its partitions.
    pub async fn start(address: &str, pipeline: &Pipeline) -> Self {
        Self::start_stages(address, pipeline, &[Stage::Main, Stage::Retry]).await
    }

    pub async fn start_stages(address: &str, pipeline: &Pipeline, stages: &[Stage]) -> Self {
        let engine = Self::begin(address, pipeline, stages).await;
        for stage in stages {
            let assigned = async || (!engine.metrics(*stage).assignment().is_empty()).then_some(());
            eventually("the stage gets its partitions", assigned).await;
        }
        engine
    }

    /// Starts stages, and does not wait for anything.
    pub async fn begin(address: &str, pipeline: &Pipeline, stages: &[Stage]) -> Self {
        let mut pipeline = pipeline.clone();
        if address != kafka() {
            // As `lazaret dev` does: the embedded broker knows no transactions.
            pipeline.delivery = Delivery::AtLeastOnce;
        }
        let pipeline = Arc::new(pipeline);
        let mut process = Process::open(ProcessSettings {
            stages: stages.iter().map(|stage| (pipeline.clone(), *stage)).collect(),
            connection: Connection::new(address),
            listen: "127.0.0.1:0".parse().unwrap(),
            peers: vec![],
            name: "engine-test".into(),
        })
        .await
        .unwrap();
        process.start().unwrap();
        Self { process }
    }

    pub fn metrics(&self, stage: Stage) -> &StageMetrics {
        let view = self.process.stages().iter().find(|view| view.stage == stage);
        &view.expect("the stage runs").metrics
    }

    /// The name of a stage's transactions.
    pub fn transactional_id(&self, stage: Stage) -> String {
        let view = self.process.stages().iter().find(|view| view.stage == stage).expect("the stage runs");
        let group = &view.pipeline.source(stage).group_id;
        format!("{group}-engine-test-{}", self.process.address().port())
    }

    /// What the HTTP API answers: the status and the body, text as a JSON string.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.get(format!("http://{}{path}", self.process.address())).send().await.unwrap();
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Records processed by both stages.
    pub fn processed(&self) -> u64 {
        self.process.stages().iter().map(|view| view.metrics.processed.get()).sum()
    }

    /// Records sent to a dead letter topic by both stages.
    pub fn dead_lettered(&self) -> u64 {
        let by_type = |metrics: &StageMetrics| metrics.dead_lettered_by_error_type().values().sum::<u64>();
        self.process.stages().iter().map(|view| by_type(&view.metrics)).sum()
    }

    /// Waits until so many records are processed or dead-lettered.
    pub async fn settled(&self, records: u64) {
        eventually(&format!("{records} records are settled"), async || {
            (self.processed() + self.dead_lettered() >= records).then_some(())
        })
        .await;
    }

    pub async fn stop(self) -> Summary {
        self.process.stop().await
    }
}
