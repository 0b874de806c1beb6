"""The configuration files of the test cluster's node, and the names that it uses on the machine."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

BRIDGE = "rzero0"
ADDRESS = "10.244.0.1"
"""The node's, on the bridge: where pods reach the API server and all else on the machine."""
POD_ADDRESSES = "10.244.0.0/24"
DNS_ADDRESS = "10.96.0.10"
CLUSTER_DOMAIN = "cluster.local"
CGROUP = "rzero-node"
NETWORK = "rzero"
NODE = "rzero-node"
IMAGE = "rzero.test/probe:1"
"""The node's own image: pause container of all pods, and a probe for tests."""


def containerd(folder: Path) -> str:
    """containerd's config: all state under `folder`."""
    runc = shutil.which("runc")
    assert runc is not None, "runc is not on the PATH"
    return f"""
version = 3
root = "{folder}/containerd"
state = "{folder}/run"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
address = "{socket(folder)}"
[debug]
level = "warn"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.metadata.v1.bolt"]
no_sync = true
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{folder}/cni"
use_internal_loopback = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
Root = "{folder}/runc"
SystemdCgroup = false
"""


def socket(folder: Path) -> Path:
    """containerd's socket."""
    return folder / "containerd.sock"


def cni(folder: Path) -> str:
    """One bridge for all pods, with addresses of its network."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(folder / "addresses"),
            "ranges": [[{"subnet": POD_ADDRESSES, "gateway": ADDRESS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "1.0.0", "name": NETWORK, "plugins": [bridge]})


def kubelet(folder: Path, clients: Path, port: int) -> str:
    """`clients`: certificate that the kubelet trusts; `port`: where the API server finds it."""
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "port": port,
        "healthzPort": 0,
        "authentication": {"x509": {"clientCAFile": str(clients)}},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{socket(folder)}",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "podLogsDir": str(folder / "pod-logs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "serializeImagePulls": False,
        # Its hints to other programs would stay in the machine's firewall.
        "makeIPTablesUtilChains": False,
        # A disk that is fuller than a server's may be is no reason to evict a test's pods.
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "registryPullQPS": 0,
    }
    return yaml.safe_dump(config)


def kube_proxy(kubeconfig: Path, metrics_port: int) -> str:
    """Services by nftables, without changes to the machine's conntrack limits."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        # Answers between two pods of one bridge would else bypass what translated the address.
        "nftables": {"masqueradeAll": True},
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "clusterCIDR": POD_ADDRESSES,
        "hostnameOverride": NODE,
        "nodePortAddresses": [f"{ADDRESS}/32"],
        "healthzBindAddress": "",
        "metricsBindAddress": f"{ADDRESS}:{metrics_port}",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
    }
    return yaml.safe_dump(config)


def coredns(kubeconfig: Path, resolver: Path = Path("/etc/resolv.conf")) -> str:
    """DNS of the cluster; other names go to the machine's servers, where it has any."""
    has_servers = resolver.exists() and "nameserver" in resolver.read_text()
    return f"""
.:53 {{
    bind {ADDRESS}
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 1
        fallthrough in-addr.arpa
    }}
    {f"forward . {resolver}" if has_servers else ""}
}}
"""


def dns_service() -> list[dict[str, Any]]:
    """The Service of the DNS server, which runs beside the pods and not in one."""
    namespace, name = "kube-system", "kube-dns"
    labels = {"kubernetes.io/service-name": name}
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": DNS_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
        },
    ]
