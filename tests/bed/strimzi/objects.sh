# Kafka as a user of Strimzi finds it in a cluster, without the operator that would make these objects. Sourced by up.sh.
# Names and contents are those of https://strimzi.io/docs/operators/latest/configuring.html.
# shellcheck shell=bash disable=SC2154

bootstrap=bhf-kafka-kafka-bootstrap.kafka.svc

kafka_objects() { # FLAVOUR
  local password id
  password=$(<"$state/pki/kafka-password")
  cat <<Y
apiVersion: v1
kind: Namespace
metadata: {name: kafka}
---
apiVersion: kafka.strimzi.io/$1
kind: Kafka
metadata:
  name: bhf-kafka
  namespace: kafka
  annotations: {strimzi.io/kraft: enabled, strimzi.io/node-pools: enabled}
spec:
  kafka:
    version: $kafka_version
    listeners:
    - {name: plain, port: 9092, type: internal, tls: false}
    - {name: tls, port: 9093, type: internal, tls: true, authentication: {type: scram-sha-512}}
    config: {default.replication.factor: $brokers, min.insync.replicas: $((brokers == 1 ? 1 : 2))}
  entityOperator: {topicOperator: {}, userOperator: {}}
---
apiVersion: v1
kind: Secret
metadata:
  name: bhf-kafka-cluster-ca-cert
  namespace: kafka
  labels: {strimzi.io/cluster: bhf-kafka, strimzi.io/kind: Kafka}
data: {ca.crt: $(base64 -w0 "$state/pki/cluster-ca.crt")}
---
apiVersion: kafka.strimzi.io/$1
kind: KafkaUser
metadata: {name: $kafka_user, namespace: kafka, labels: {strimzi.io/cluster: bhf-kafka}}
spec: {authentication: {type: scram-sha-512}}
---
apiVersion: v1
kind: Secret
metadata:
  name: $kafka_user
  namespace: kafka
  labels: {strimzi.io/cluster: bhf-kafka, strimzi.io/kind: KafkaUser}
stringData:
  password: $password
  sasl.jaas.config: org.apache.kafka.common.security.scram.ScramLoginModule required username="$kafka_user" password="$password";
---
apiVersion: v1
kind: Service
metadata: {name: bhf-kafka-kafka-bootstrap, namespace: kafka, labels: {strimzi.io/cluster: bhf-kafka}}
spec: {ports: [{name: tcp-clients, port: 9092}, {name: tcp-clientstls, port: 9093}]}
Y
  for ((id = 1; id <= brokers; id++)); do
    cat <<Y
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: bhf-kafka-$id
  namespace: kafka
  labels: {kubernetes.io/service-name: bhf-kafka-kafka-bootstrap}
addressType: IPv4
endpoints: [{addresses: [$node_ip]}]
ports: [{name: tcp-clients, port: $(kafka_port "$id" 0)}, {name: tcp-clientstls, port: $(kafka_port "$id" 1)}]
Y
  done
}

# What Strimzi writes once all brokers run.
kafka_status() { # GENERATION
  local now ready metadata
  now=$(date -u +%FT%TZ)
  metadata=$(sed -n 's/.*metadata.version \([^ .]*\.[^ .]*\)\.\?$/\1/p' "$state/log/kafka-1.format.log" | head -n1)
  ready=$(jq -nc --arg now "$now" '{type: "Ready", status: "True", lastTransitionTime: $now}')
  jq -nc --argjson generation "$1" --argjson ready "$ready" --arg host "$bootstrap" --rawfile ca "$state/pki/cluster-ca.crt" \
    --arg cluster "$kafka_cluster_id" --arg version "$kafka_version" --arg metadata "$metadata" '
    def listener($name; $port): {$name, addresses: [{$host, $port}], bootstrapServers: "\($host):\($port)"};
    {status: {conditions: [$ready], observedGeneration: $generation, clusterId: $cluster, kafkaVersion: $version,
      kafkaMetadataVersion: $metadata,
      listeners: [listener("plain"; 9092), listener("tls"; 9093) + {certificates: [$ca]}]}}'
}

user_status() { # GENERATION
  jq -nc --argjson generation "$1" --arg now "$(date -u +%FT%TZ)" --arg user "$kafka_user" '
    {status: {conditions: [{type: "Ready", status: "True", lastTransitionTime: $now}], observedGeneration: $generation,
      username: $user, secret: $user}}'
}
