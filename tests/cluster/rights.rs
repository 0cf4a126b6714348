//! An operator's account in a site: it may do what the chart lets it do, so each test that uses it proves the chart's rules.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::support::cluster::{apply, kubeconfig};
use crate::support::lazaret::bash;

const ACCOUNT: &str = "operator";

/// Makes the account and gives it the chart's rights, and returns a kubeconfig of it.
pub async fn operator_account(client: &Client, namespace: &str) -> String {
    apply(client, namespace, &format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {ACCOUNT}}}\n")).await;
    set_rights(client, namespace, None).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
    let token = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await.unwrap();
    let token = token.status.unwrap().token;
    write_kubeconfig(namespace, |config| {
        config["users"][0]["user"] = json!({"token": token});
        config["contexts"][0]["context"]["namespace"] = namespace.into();
    })
}

/// Writes a kubeconfig that differs from the box's own, and returns its path. `name` is unique.
pub fn write_kubeconfig(name: &str, change: impl FnOnce(&mut Value)) -> String {
    change_kubeconfig(kubeconfig(), name, change)
}

/// Writes a kubeconfig that differs from another one.
pub fn change_kubeconfig(from: &str, name: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(from).unwrap()).unwrap();
    change(&mut config);
    let path = format!("{}/{name}.kubeconfig", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// Gives it the chart's own rules, as it renders them for this one namespace; of a resource in `without` it may not write.
pub async fn set_rights(client: &Client, namespace: &str, without: Option<&str>) {
    let helm = bash(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/helm.sh"));
    let values = format!(
        "--set watchNamespaces={{{namespace}}} --set serviceAccount.create=false --set serviceAccount.name={ACCOUNT} --set \
         crds.install=false --set aggregateRoles.create=false --set fullnameOverride={namespace}"
    );
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/lazaret");
    let rendered = bash(&format!("{} template x {chart} -n {namespace} --kube-version 1.34.0 {values}", helm.trim()));
    for mut object in serde_saphyr::from_multiple::<Value>(&rendered).unwrap() {
        if !["Role", "RoleBinding"].contains(&object["kind"].as_str().unwrap_or_default()) {
            continue;
        }
        for rule in object.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
            let resources = rule["resources"].as_array().unwrap();
            if resources.iter().any(|name| name.as_str() == without) {
                rule["verbs"].as_array_mut().unwrap().retain(|verb| verb != "patch" && verb != "create");
            }
        }
        apply(client, namespace, &object.to_string()).await;
    }
}
