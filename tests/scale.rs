//! Many pipelines at once, and what they cost: `make scale-test` makes 200 of them and prints what it saw.

mod support;

#[path = "support/site.rs"]
mod site;
#[path = "bed/topic_operator/mod.rs"]
mod topic_operator;

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use site::{Site, in_site, metric};
use support::lazaret::Lazaret;
use support::{comes_to_rest, eventually_within, stays};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What an operator has done so far: reconciles, and requests by method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Done {
    reconciles: u64,
    reads: u64,
    patches: u64,
    lease: u64,
}

fn done(operator: &mut Lazaret) -> Done {
    let mut requests = |method| metric(operator, &format!("lazaret_operator_api_requests_total{{method=\"{method}\""));
    let (reads, patches, lease) = (requests("GET"), requests("PATCH"), requests("PUT"));
    Done { reconciles: metric(operator, "lazaret_operator_reconciles_total"), reads, patches, lease }
}

/// The most memory that a process has had, in MiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

async fn ready(site: &Site) -> usize {
    let pipelines = site.pipelines.list(&Default::default()).await.unwrap().items;
    let is_ready = |conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    pipelines.iter().filter(|p| p.status.as_ref().is_some_and(|status| is_ready(&status.conditions))).count()
}

/// Without workers: a node runs about a hundred pods, and what an operator costs does not depend on how many there are.
#[tokio::test(flavor = "multi_thread")]
async fn many_pipelines_get_ready_and_then_cost_nothing() {
    let count = number("LAZARET_PIPELINES", 20);
    let idle = Duration::from_secs(number("LAZARET_IDLE_SECONDS", 10));
    in_site("many", async |site| {
        let mut operator = site.operator();
        operator.wait_for("this replica acts now");
        let began = Instant::now();
        let yaml = |n| site.pipeline(&format!("p{n}"), "consumer: {replicas: 0}\nretry: {replicas: 0}");
        stream::iter(0..count).for_each_concurrent(8, |n| async move { site.apply(&yaml(n)).await }).await;
        let applied = began.elapsed();
        let all = async || (ready(site).await == count as usize).then_some(());
        eventually_within(Duration::from_secs(600), "all are Ready", all).await;
        let took = began.elapsed();
        // What follows the last change takes a moment to come to rest.
        let work = async |operator: &mut Lazaret| {
            let Done { reconciles, patches, .. } = done(operator);
            (reconciles, patches)
        };
        let rest = Duration::from_secs(3);
        comes_to_rest(rest, "nothing is reconciled any more", async || work(&mut operator).await).await;
        let busy = done(&mut operator);
        stays(idle, "nothing is reconciled or written", async || work(&mut operator).await).await;
        let rested = done(&mut operator);
        println!(
            "{count} pipelines: applied in {:.1} s, all Ready after {:.1} s; {} reconciles, {} reads, {} patches; peak memory \
             {} MiB",
            applied.as_secs_f64(),
            took.as_secs_f64(),
            busy.reconciles,
            busy.reads,
            busy.patches,
            peak_memory(operator.pid()),
        );
        println!(
            "idle for {} s: {} reconciles, {} reads, {} patches, {} renewals of the lease",
            idle.as_secs(),
            rested.reconciles - busy.reconciles,
            rested.reads - busy.reads,
            rested.patches - busy.patches,
            rested.lease - busy.lease,
        );
    })
    .await;
}
