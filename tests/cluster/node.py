"""Runs a real node beside the control plane: containerd, kubelet, kube-proxy, DNS. Needs root.

    with node_cluster() as cluster:
        cluster.import_image(Path("image.tar"))
        cluster.kubectl("apply", "-f", "-", input=manifest)

One at a time on a machine, as its bridge has a fixed name and address.
"""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from tests.cluster import node_config
from tests.cluster.api import ApiError
from tests.cluster.build import NoGo, program
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node_cleanup import CGROUPS, clean_up, remember
from tests.cluster.node_config import ADDRESS, BRIDGE, CGROUP, DNS_ADDRESS, IMAGE, NODE
from tests.cluster.oci import write_image
from tests.cluster.processes import answers, free_ports

LOCK = Path("/run/rzero-node.lock")
SYSTEM_PROGRAMS = {"runc": "runc", "nft": "nftables", "ip": "iproute2"}
"""What the node needs of the machine, with Debian's package."""
CNI_PLUGINS = Path("/usr/lib/cni")
API_SERVICE = "10.96.0.1"


class NodeCluster(ControlPlane):
    """A control plane with one real node. `node_cluster()` makes one and ends it."""

    def __init__(self, folder: Path, *, audit: bool = False) -> None:
        user = f"system:node:{NODE}"
        users = {user: "system:nodes"}
        super().__init__(folder, fake_nodes=0, audit=audit, address=ADDRESS, users=users)
        self._kubelet_kubeconfig = self.kubeconfig_for(self.tokens[user], folder / "kubelet.conf")
        self._kubelet_port, self._proxy_port = free_ports(2)

    def start(self) -> None:
        """Start everything and wait until pods can run and reach Services and names."""
        remember(self.folder)
        self._make_network()
        super().start()
        self._start_containerd()
        self._start_services()
        self._start_kubelet()
        self.processes.wait_until("kubelet", self._node_is_ready)
        self.processes.wait_until("coredns", lambda: answers(ADDRESS, 53))
        self.processes.wait_until("kube-proxy", _services_are_routed)

    def stop(self) -> None:
        """End all processes and containers, and leave the machine as it was."""
        super().stop()
        clean_up(self.folder)

    def import_image(self, archive: Path) -> None:
        """Give the node an image from an OCI or Docker archive; use it with IfNotPresent."""
        # The layers are unpacked: their blobs would take the same space again.
        self.ctr("images", "import", "--local", "--discard-unpacked-layers", str(archive))

    def ctr(self, *words: str) -> str:
        """Run containerd's client. Raises RuntimeError with what it said."""
        address = node_config.socket(self.folder)
        command: list[str | Path] = [
            program("ctr"),
            "--address",
            address,
            "--namespace",
            "k8s.io",
            *words,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"ctr {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def _make_network(self) -> None:
        prefix = node_config.POD_ADDRESSES.partition("/")[2]
        for words in (
            ["link", "add", BRIDGE, "type", "bridge"],
            ["address", "add", f"{ADDRESS}/{prefix}", "dev", BRIDGE],
            ["link", "set", BRIDGE, "up"],
        ):
            subprocess.run(["ip", *words], check=True)

    def _start_containerd(self) -> None:
        config = self._write("containerd.toml", node_config.containerd(self.folder))
        (self.folder / "cni").mkdir()
        self._write("cni/10-rzero.conflist", node_config.cni(self.folder))
        shim = program("containerd-shim-runc-v2")
        path = f"{shim.parent}:{os.environ['PATH']}"
        command: list[str | Path] = [program("containerd"), f"--config={config}"]
        self.processes.start("containerd", command, {"PATH": path})
        socket = node_config.socket(self.folder)
        self.processes.wait_until("containerd", lambda: self._containerd_answers(socket))
        archive = self.folder / "probe.tar"
        write_image(archive, IMAGE, {"/probe": program("probe")}, ["/probe"])
        self.import_image(archive)

    def _containerd_answers(self, socket: Path) -> bool:
        if not socket.exists():
            return False
        try:
            self.ctr("version")
        except RuntimeError:
            return False
        return True

    def _start_services(self) -> None:
        proxy = self._write(
            "kube-proxy.yaml", node_config.kube_proxy(self.kubeconfig, self._proxy_port)
        )
        self._run("kube-proxy", [f"--config={proxy}"])
        names = self._write("Corefile", node_config.coredns(self.kubeconfig))
        self.processes.start("coredns", [program("coredns"), "-conf", names])
        self.apply(*node_config.dns_service())

    def _start_kubelet(self) -> None:
        for hierarchy in _hierarchies():
            (hierarchy / CGROUP).mkdir(exist_ok=True)
        settings = node_config.kubelet(self.folder, self.kubelet_client, self._kubelet_port)
        options = [
            f"--config={self._write('kubelet.yaml', settings)}",
            f"--kubeconfig={self._kubelet_kubeconfig}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'kubelet-pki'}",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
        ]
        self._run("kubelet", options)

    def _node_is_ready(self) -> bool:
        try:
            node = self.api().get(f"/api/v1/nodes/{NODE}")
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        conditions = {entry["type"]: entry["status"] for entry in node["status"]["conditions"]}
        return conditions.get("Ready") == "True"

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


@contextmanager
def node_cluster(*, audit: bool = False, wait_seconds: float = 0) -> Iterator[NodeCluster]:
    """A cluster with a real node in a temporary folder; the machine is as before afterwards.

    Raises NoGo that says what this machine lacks, or RuntimeError when another node is still up
    after `wait_seconds`.
    """
    need_node()
    with (
        TemporaryDirectory(prefix="rzero-node-") as folder,
        hold_node(Path(folder), wait_seconds),
    ):
        cluster = NodeCluster(Path(folder), audit=audit)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def need_node() -> None:
    """Build what a node needs. Raises NoGo that says what this machine lacks."""
    if os.geteuid() != 0:
        raise NoGo("a real node needs root: run as root, or use a cluster of your own")
    missing = [package for name, package in SYSTEM_PROGRAMS.items() if not shutil.which(name)]
    if not (CNI_PLUGINS / "bridge").exists():
        missing.append("containernetworking-plugins")
    if missing:
        raise NoGo(f"a real node needs Debian's {', '.join(missing)}: apt install them")
    for name in ("etcd", "kubernetes", "containerd", "containerd-shim-runc-v2", "ctr", "coredns"):
        program(name)


@contextmanager
def hold_node(folder: Path, seconds: float = 0) -> Iterator[None]:
    """Be the only node on this machine; what a killed one left is removed first.

    Raises RuntimeError when another one is still up after `seconds`.
    """
    with _locked(seconds) as lock:
        lock.seek(0)
        if before := lock.read().strip():
            clean_up(Path(before))
            shutil.rmtree(before, ignore_errors=True)
        lock.truncate(0)
        lock.write(str(folder))
        lock.flush()
        yield
        LOCK.unlink()


@contextmanager
def _locked(seconds: float) -> Iterator[TextIO]:
    deadline = time.monotonic() + seconds
    while True:
        with LOCK.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    words = "another test node is up on this machine: stop it first"
                    raise RuntimeError(words) from error
                time.sleep(0.2)
                continue
            # Its owner may have removed the file after it was opened here.
            if LOCK.exists() and LOCK.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                yield lock
                return


def _services_are_routed() -> bool:
    command = ["nft", "list", "table", "ip", "kube-proxy"]
    rules = subprocess.run(command, capture_output=True, text=True).stdout
    return DNS_ADDRESS in rules and API_SERVICE in rules


def _hierarchies() -> list[Path]:
    """Of version 2 there is one, of version 1 one for each controller."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists()]
