#!/usr/bin/env bash
# components.sh start|stop|check NAME…: start, kill or look for components inside of the box. What runs already is left
# alone by start; what had died is noted in the file `died` of the box's state before it is started again.
# up.sh says where the programs are and how many brokers there are.
# shellcheck disable=SC2054,SC2154
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
etc=$state/etc pki=$state/pki
export PATH=${kube_bin:-}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

command_of() {
  case $1 in
    containerd) command=(containerd --config "$etc/containerd.toml") ;;
    etcd)
      command=(etcd --data-dir "$state/etcd" --unsafe-no-fsync
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
        --listen-peer-urls http://127.0.0.1:2380)
      ;;
    kube-apiserver)
      command=(kube-apiserver --etcd-servers http://127.0.0.1:2379 --advertise-address "$node_ip" --secure-port 6443
        --service-cluster-ip-range 10.96.0.0/16 --allow-privileged --authorization-mode Node,RBAC
        --enable-admission-plugins NodeRestriction --client-ca-file "$pki/ca.crt"
        --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key"
        --kubelet-client-certificate "$pki/admin.crt" --kubelet-client-key "$pki/admin.key"
        --kubelet-certificate-authority "$pki/ca.crt" --kubelet-preferred-address-types InternalIP
        --service-account-issuer https://kubernetes.default.svc.cluster.local
        --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key"
        --requestheader-client-ca-file "$pki/front-ca.crt" --requestheader-allowed-names front-proxy
        --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group
        --requestheader-extra-headers-prefix X-Remote-Extra-
        --proxy-client-cert-file "$pki/front-proxy.crt" --proxy-client-key-file "$pki/front-proxy.key")
      ;;
    kube-controller-manager)
      # Its default of 20 requests a second would make the namespaces of finished tests pile up.
      command=(kube-controller-manager --kubeconfig "$pki/controllers.conf" --leader-elect=false
        --bind-address 127.0.0.1 --kube-api-qps 500 --kube-api-burst 1000
        --use-service-account-credentials --service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt"
        --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key")
      ;;
    kube-scheduler)
      command=(kube-scheduler --kubeconfig "$pki/scheduler.conf" --leader-elect=false --bind-address 127.0.0.1
        --kube-api-qps 500 --kube-api-burst 1000)
      ;;
    kubelet)
      command=(kubelet --config "$etc/kubelet.yaml" --kubeconfig "$pki/kubelet.conf"
        --hostname-override "$node" --node-ip "$node_ip")
      ;;
    kube-proxy) command=(kube-proxy --config "$etc/proxy.yaml") ;;
    kafka-[123])
      # The box lives for minutes: the second compiler would cost more at the start than it saves later.
      command=("$kafka_java" "-Xmx$([[ $brokers == 1 ]] && echo 512m || echo 384m)" -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
        "-Dlog4j2.configurationFile=$bed/kafka/log4j2.properties" -cp "$kafka_lib/*"
        kafka.Kafka "$state/$1/server.properties")
      ;;
    topic-operator)
      command=(env "KUBECONFIG=$pki/admin.conf" "$topic_operator" --namespace kafka --cluster bhf-kafka
        --bootstrap-servers "$node_ip:9092" --resync "$resync")
      ;;
    *) die "there is no component $1" ;;
  esac
}

# The number of a process that ended may belong to another one: its command line must have the component's name.
runs() { [[ -s $state/run/$1 ]] && tr '\0' '\n' <"/proc/$(<"$state/run/$1")/cmdline" | grep -qF -- "$1"; } 2>/dev/null

# A process that is killed loses its command line first, and its ports and locks with its last thread.
ends() { [[ -s $state/run/$1 && -d /proc/$(<"$state/run/$1") ]] && [[ -z $(tr -d '\0' <"/proc/$(<"$state/run/$1")/cmdline") ]]; } 2>/dev/null

start() {
  local deadline=$((SECONDS + 30))
  while ends "$1" && ((SECONDS < deadline)); do sleep 0.02; done
  command_of "$1"
  # setsid: a signal of the caller's terminal does not reach it. In its own directory: a crash leaves its report there.
  mkdir -p "$state/cwd/$1"
  (
    cd "$state/cwd/$1"
    echo "$BASHPID" >"$state/run/$1"
    exec setsid "${command[@]}" >>"$state/log/$1.log" 2>&1 </dev/null
  ) &
  until runs "$1" || ! kill -0 $! 2>/dev/null; do sleep 0.01; done
}

stop() {
  local pid deadline=$((SECONDS + 30))
  pid=$(<"$state/run/$1")
  kill -KILL "$pid"
  while [[ -d /proc/$pid ]]; do
    ((SECONDS < deadline)) || die "$1 does not end"
    sleep 0.02
  done
}

action=$1
shift
mkdir -p "$state/run"
for name in "$@"; do
  case $action in
    start)
      runs "$name" || {
        if [[ -e $state/run/$name ]]; then echo "$name" >>"$state/died"; fi
        start "$name"
      }
      ;;
    stop)
      if runs "$name"; then stop "$name"; fi
      rm -f "$state/run/$name"
      ;;
    check) runs "$name" || die "$name does not run: $(tail -n 3 "$state/log/$name.log")" ;;
  esac
done
