#!/usr/bin/env bash
# up.sh: have a single Kafka node (KRaft, broker and controller in one process) run on loopback; print its address.
# It may be called at any time, also by several processes at once. The node outlives the caller; down.sh stops it.
#   LAZARET_KAFKA_PORT (19092)   the port of a node that is started; its controller takes the next one
#   LAZARET_KAFKA_HEAP (512m)    the JVM's heap
#   LAZARET_CACHE (~/.cache/lazaret)   jars in kafka/<hash of pom.xml>/lib; data, pid and broker.log in kafka/node
set -euo pipefail
# shellcheck source=node.sh
source "$(dirname "${BASH_SOURCE[0]}")/node.sh"

port=${LAZARET_KAFKA_PORT:-19092}
heap=${LAZARET_KAFKA_HEAP:-512m}
lib=$("$bed/jars.sh")
# The node lives for minutes: the second compiler would cost more processor time at the start than it saves later.
jvm=(java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC "-Dlog4j2.configurationFile=$bed/log4j2.properties" -cp "$lib/*")

configure() {
  mkdir -p "$node"
  {
    cat "$bed/common.properties"
    cat <<P
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
log.dirs=$node/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
P
  } >"$node/server.properties"
}

# The mark is set last, so that a format that was interrupted is done again. The cluster's id may be any, but must stay.
format() {
  rm -rf "$node/data"
  "${jvm[@]}" -Xmx128m kafka.tools.StorageTool format -t lazaretTestBrokerNodeA -c "$node/server.properties" \
    >"$log" 2>&1 || give_up "the data directory could not be formatted"
  touch "$node/formatted"
}

# setsid: no signal from the caller's terminal reaches the node. In its own directory: a JVM that crashes leaves its
# report there. The log is emptied first, or wait_until_ready might read the ready line of an earlier start.
start() {
  : >"$log"
  (
    cd "$node"
    echo "$BASHPID" >pid
    exec setsid "${jvm[@]}" "-Xmx$heap" kafka.Kafka "$node/server.properties" >>"$log" 2>&1 </dev/null 9>&-
  ) &
  until [[ -s $node/pid ]]; do sleep 0.01; done
}

# The broker writes this line when it is registered with its controller and takes requests. An open port would say less:
# it may be another process's.
wait_until_ready() {
  local pid deadline=$((SECONDS + 90))
  pid=$(<"$node/pid")
  until grep -q -m1 'Kafka Server started' "$log"; do
    kill -0 "$pid" 2>/dev/null || give_up "the broker ended"
    if ((SECONDS >= deadline)); then
      kill -9 "$pid"
      give_up "the broker was not ready after 90 seconds"
    fi
    sleep 0.05
  done
}

give_up() {
  # A broker that fails writes many more lines while it shuts down: its errors first, so that they are seen.
  { grep -E -A1 ' (ERROR|FATAL) ' "$log" | head -n 10; tail -n 20 "$log"; echo "kafka: $1"; } >&2 || true
  exit 1
}

lock_node
if ! node_runs; then
  rm -f "$node/pid"
  configure
  [[ -e $node/formatted ]] || format
  start
fi
wait_until_ready
# A node that ran already may have been started with another port.
sed -n 's|^advertised.listeners=PLAINTEXT://||p' "$node/server.properties"
