//! A consumer that is not Lazaret's: its topics are made, and its group and dead letters are watched.

use kube::ResourceExt;
use kube::api::ListParams;
use rdkafka::message::{Header, OwnedHeaders};

use super::application::Application;
use crate::site::in_site;
use crate::support::cluster::kafka_from_here;
use crate::support::topics;

#[tokio::test(flavor = "multi_thread")]
async fn an_external_consumer_has_no_workers_and_its_lag_group_rebalances_and_dead_letters_are_told() {
    in_site("external", async |site| {
        let _operator = site.operator();
        let group = site.named("shop");
        let more = format!("processor: {{external: {{groupId: {group}}}}}\nconsumer: {{}}\nretry: {{}}");
        site.apply(&site.pipeline("orders", &more)).await;
        let message = site.reason("orders", "Ready").await;
        assert_eq!(message, format!("records are processed by the consumers of the group `{group}`"));
        assert_eq!(site.deployments.list(&ListParams::default()).await.unwrap().items.len(), 0);
        let kafka_topics = site.topics.list(&ListParams::default()).await.unwrap().items;
        let mut names: Vec<_> = kafka_topics.iter().map(ResourceExt::name_any).collect();
        names.sort();
        assert_eq!(names, [site.named("orders"), site.named("orders.dlt")]);

        // Each partition ends with what was given up, and with the marker of that, which nobody commits.
        let written = topics::write_in_transactions(&kafka_from_here(), &site.named("orders"), 8, 10);
        site.says("orders", "has a lag", |status| {
            (status.lag? >= written as i64 && status.retrying.is_none()).then_some(())
        })
        .await;

        let first = Application::start("shop-1", &group, &site.named("orders"));
        site.says("orders", "has no lag, and a member", |status| {
            let groups = status.groups.as_ref()?;
            let [member] = &groups.main.members[..] else { return None };
            let is_read = member.client == "shop-1" && member.partitions == "0-1" && groups.main.committed_lag > 0;
            (status.lag == Some(0) && is_read && groups.retry.is_none()).then_some(())
        })
        .await;

        let second = Application::start("shop-2", &group, &site.named("orders"));
        let joined = site
            .says("orders", "tells of who joined", |status| {
                let recent = &status.rebalances.as_ref()?.recent;
                recent.iter().find(|rebalance| rebalance.members == ["shop-2"]).cloned()
            })
            .await;
        assert_eq!((&*joined.reason, joined.members_after), ("MemberJoined", 2));
        drop((first, second));

        let producer = topics::producer(&kafka_from_here());
        for n in 0..3 {
            let headers = OwnedHeaders::new()
                .insert(Header { key: "kafka_dlt-exception-fqcn", value: Some("org.springframework.Wrapper") })
                .insert(Header { key: "kafka_dlt-exception-cause-fqcn", value: Some("shop.InvalidOrder") });
            let key = format!("order-{n}");
            topics::write(&producer, &site.named("orders.dlt"), Some(key.as_bytes()), Some(b"x"), Some(headers)).await;
        }
        let causes = site
            .says("orders", "counts three dead letters", |status| {
                status.dead_letters.as_ref().filter(|letters| letters.total == 3).map(|letters| letters.causes.clone())
            })
            .await;
        assert_eq!((&*causes[0].error_type, causes[0].count), ("shop.InvalidOrder", 3));
    })
    .await;
}
