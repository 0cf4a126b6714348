# Kafka inside of the box: one broker or three, each a controller too. Sourced by up.sh.
# shellcheck shell=bash disable=SC2154

# Broker 1 listens on 9092 (plain) and 9093 (TLS with SCRAM-SHA-512), broker 2 on 9192 and 9193, broker 3 on 9292 and 9293.
kafka_port() { echo $((9092 + 100 * ($1 - 1) + $2)); }
kafka_brokers() { local id; for ((id = 1; id <= brokers; id++)); do echo "kafka-$id"; done; }
kafka_user=lazaret
kafka_cluster_id=lazaretTestBoxKafkaAAA

make_kafka_certificates() (
  mkdir -p "$state/pki"
  cd "$state/pki"
  authority cluster-ca
  local service=DNS:bhf-kafka-kafka-bootstrap
  certificate cluster-ca broker /CN=bhf-kafka "IP:$node_ip,$service,$service.kafka,$service.kafka.svc,$service.kafka.svc.cluster.local"
  cat broker.key broker.crt >broker.pem
  openssl rand -hex 16 >kafka-password
)

configure_broker() { # ID
  local directory=$state/kafka-$1 id voters="" replicas=$brokers in_sync=$((brokers == 1 ? 1 : 2))
  for ((id = 1; id <= brokers; id++)); do voters+=${voters:+,}$id@127.0.0.1:$((9091 + 100 * (id - 1))); done
  mkdir -p "$directory"
  {
    cat "$bed/kafka/common.properties"
    cat <<P
node.id=$1
controller.quorum.voters=$voters
listeners=PLAIN://$node_ip:$(kafka_port "$1" 0),TLS://$node_ip:$(kafka_port "$1" 1),CONTROLLER://127.0.0.1:$((9091 + 100 * ($1 - 1)))
advertised.listeners=PLAIN://$node_ip:$(kafka_port "$1" 0),TLS://$node_ip:$(kafka_port "$1" 1)
listener.security.protocol.map=PLAIN:PLAINTEXT,TLS:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
log.dirs=$directory/data
default.replication.factor=$replicas
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replicas
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$in_sync
listener.name.tls.ssl.keystore.type=PEM
listener.name.tls.ssl.keystore.location=$state/pki/broker.pem
listener.name.tls.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.tls.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
P
  } >"$directory/server.properties"
}

format_broker() { # ID
  local directory=$state/kafka-$1
  in_box "$kafka_java" -Xmx128m -XX:TieredStopAtLevel=1 "-Dlog4j2.configurationFile=$bed/kafka/log4j2.properties" -cp "$kafka_lib/*" \
    kafka.tools.StorageTool format -t "$kafka_cluster_id" -c "$directory/server.properties" \
    --add-scram "SCRAM-SHA-512=[name=$kafka_user,password=$(<"$state/pki/kafka-password")]" \
    >"$state/log/kafka-$1.format.log" 2>&1 ||
    die "broker $1 could not be formatted: $(tail -n 3 "$state/log/kafka-$1.format.log")"
}

# Data and settings of every broker, once in the life of a box.
make_kafka() {
  local id formats=()
  make_kafka_certificates
  for ((id = 1; id <= brokers; id++)); do
    configure_broker "$id"
    format_broker "$id" &
    formats+=($!)
  done
  for id in "${formats[@]}"; do wait "$id"; done
}
