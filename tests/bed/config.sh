# Certificates, kubeconfigs and settings of the node's components. Sourced by up.sh.
# shellcheck shell=bash disable=SC2154

request=(openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30)

authority() { # NAME
  "${request[@]}" -keyout "$1.key" -out "$1.crt" -subj "/O=lazaret/CN=$1" \
    -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature 2>/dev/null
}

certificate() { # AUTHORITY NAME SUBJECT [ALTERNATIVE-NAMES]
  "${request[@]}" -CA "$1.crt" -CAkey "$1.key" -keyout "$2.key" -out "$2.crt" -subj "$3" \
    -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature \
    -addext extendedKeyUsage=clientAuth,serverAuth ${4:+-addext "subjectAltName=$4"} 2>/dev/null
}

kubeconfig() { # NAME SERVER
  cat >"$1.conf" <<Y
apiVersion: v1
kind: Config
current-context: $node
contexts: [{name: $node, context: {cluster: $node, user: $1}}]
clusters: [{name: $node, cluster: {server: "https://$2:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
Y
}

make_certificates() (
  mkdir -p "$state/pki"
  cd "$state/pki"
  authority ca
  authority front-ca # aggregated APIs want one of their own
  openssl ecparam -name prime256v1 -genkey -noout -out sa.key
  openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
  local service=DNS:kubernetes names=IP:127.0.0.1,IP:10.96.0.1,IP:$node_ip
  certificate ca apiserver /CN=kube-apiserver "$names,$service,$service.default,$service.default.svc,$service.default.svc.cluster.local"
  certificate ca admin /O=system:masters/CN=admin
  certificate ca controllers /CN=system:kube-controller-manager
  certificate ca scheduler /CN=system:kube-scheduler
  certificate ca proxy /CN=system:kube-proxy
  certificate ca kubelet "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$node_ip"
  certificate front-ca front-proxy /CN=front-proxy
  kubeconfig admin "$node_ip"
  for name in controllers scheduler proxy kubelet; do kubeconfig "$name" 127.0.0.1; done
)

make_settings() (
  mkdir -p "$state/etc/cni"
  cd "$state/etc"
  local plugins=/usr/lib/cni
  [[ -d $plugins ]] || plugins=/opt/cni/bin
  cat >containerd.toml <<T
version = 2
root = "$state/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "lazaret.dev/bed/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$plugins"
    conf_dir = "$state/etc/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "$(command -v runc)"
T
  cat >cni/10-bridge.conflist <<J
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "$pod_network"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
  cat >kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $state/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $state/pki/kubelet.crt
tlsPrivateKeyFile: $state/pki/kubelet.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
resolvConf: ""
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
Y
  # Zeros: the settings that they stand for are the whole machine's.
  cat >proxy.yaml <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
hostnameOverride: $node
clusterCIDR: $pod_network
clientConnection: {kubeconfig: $state/pki/proxy.conf}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
oomScoreAdj: 0
Y
)
