"""Runs a real Kubernetes control plane for tests: etcd, API server, controllers, scheduler, kwok.

    with control_plane() as cluster:
        cluster.kubectl("apply", "-f", "-", input=manifest)

Needs no root and no network. Everything lies in one temporary folder and ends with this process.
"""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tests.cluster.api import Api, ApiError
from tests.cluster.build import NoGo, program
from tests.cluster.fake_nodes import add_nodes, kwok_command
from tests.cluster.pki import write_client_certificate, write_private_key
from tests.cluster.processes import Processes, answers, free_ports

SERVICE_ADDRESSES = "10.96.0.0/16"
ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


class ControlPlane:
    """A running control plane. `control_plane()` makes one and ends it."""

    def __init__(
        self,
        folder: Path,
        *,
        fake_nodes: int = 2,
        audit: bool = False,
        address: str = "127.0.0.1",
        users: Mapping[str, str] | None = None,
    ) -> None:
        """`address`: where clients reach the API server; other than 127.0.0.1 it listens on all.

        `users`: groups of further users with a token each, by user name.
        """
        self.folder = folder
        self.processes = Processes(folder / "logs")
        self.logs = self.processes.logs
        self.address = address
        self.audit_log = folder / "logs" / "audit.jsonl" if audit else None
        self._etcd_port, self._peer_port, self.port = free_ports(3)
        self.server = f"https://{address}:{self.port}"
        self.ca = folder / "certs" / "apiserver.crt"
        self.tokens = {name: secrets.token_hex(16) for name in ("admin", *(users or {}))}
        self.token = self.tokens["admin"]
        self.kubeconfig = folder / "kubeconfig"
        self.kubelet_client = folder / "kubelet-client.crt"
        self._write_credentials({"admin": "system:masters", **(users or {})})
        self._fake_nodes = fake_nodes

    @property
    def environment(self) -> dict[str, str]:
        """What kubectl and helm need to talk to this cluster and to leave nothing behind."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "kubectl-cache"),
        }

    def start(self) -> None:
        """Start everything and wait until a pod could be created."""
        self._start_etcd()
        self.start_api_server()
        options = [
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=2000",
            "--kube-api-burst=4000",
        ]
        self._run("kube-controller-manager", [*options, *self._controller_options()])
        self._run("kube-scheduler", options)
        if self._fake_nodes:
            add_nodes(self.api(), self._fake_nodes)
            self.processes.start("kwok", kwok_command(self.kubeconfig))
        self.processes.wait_until("kube-controller-manager", self._has_service_account)

    def stop(self) -> None:
        """End all processes at once: nothing of them is kept."""
        self.processes.stop_all()

    def api(self, token: str | None = None, agent: str = "rzero-tests") -> Api:
        """A client with the admin's token, or with another one."""
        return Api(self.server, self.ca, token or self.token, agent)

    def kubectl(self, *words: str, input: str | None = None) -> str:
        """Run kubectl as the admin. Raises RuntimeError with what it said."""
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={self.kubeconfig}", *words],
            input=input,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """`kubectl apply` of objects."""
        documents = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", input=json.dumps(documents))

    def wait_for_crd(self, name: str, seconds: float = 30) -> None:
        """Wait until the server serves a new kind; `kubectl wait` fails without conditions.

        For a moment the server answers 404, then 429, though the CRD is Established.
        """
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        spec = self.api().get(path)["spec"]
        version = next(item["name"] for item in spec["versions"] if item["served"])
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self.api().get(f"/apis/{spec['group']}/{version}/{spec['names']['plural']}?limit=1")
            except ApiError:
                time.sleep(0.1)
            else:
                return
        raise TimeoutError(f"the API server did not serve {name} within {seconds} s")

    def service_account_token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """A token of a service account, as a pod would have it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        spec = {"expirationSeconds": seconds}
        answer = self.api().request("POST", path, {**body, "spec": spec})
        return str(answer["status"]["token"])

    def kubeconfig_for(self, token: str, path: Path, namespace: str = "default") -> Path:
        """Write a kubeconfig that uses `token`."""
        words = {"cluster": "rzero", "user": "rzero"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "rzero",
                    "cluster": {"server": self.server, "certificate-authority": str(self.ca)},
                }
            ],
            "users": [{"name": "rzero", "user": {"token": token}}],
            "contexts": [{"name": "rzero", "context": {**words, "namespace": namespace}}],
            "current-context": "rzero",
        }
        path.touch(0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def start_api_server(self) -> None:
        """Start the API server and wait until it is ready."""
        self._run("kube-apiserver", self._api_server_options())
        self.processes.wait_until("kube-apiserver", self._is_ready)

    def stop_api_server(self) -> None:
        """Kill the API server: clients see a refused connection."""
        self.processes.stop("kube-apiserver")

    def restart_api_server(self) -> None:
        """Kill the API server and start it again."""
        self.stop_api_server()
        self.start_api_server()

    def restart_etcd(self) -> None:
        """Kill etcd and start it again with its data; the API server is ready after it."""
        self.processes.stop("etcd")
        self._start_etcd()
        self.processes.wait_until("kube-apiserver", self._is_ready)

    def audit_events(self) -> Iterator[dict[str, Any]]:
        """What clients asked of the API server, oldest first; needs `audit=True`."""
        assert self.audit_log is not None, "start the control plane with audit=True"
        with self.audit_log.open() as lines:
            for line in lines:
                # The last line may be half written.
                if line.endswith("\n"):
                    yield json.loads(line)

    def memory(self) -> dict[str, int]:
        """Resident bytes of each process."""
        return {
            name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
            for name, pid in self.processes.pids().items()
        }

    def _write_credentials(self, groups: Mapping[str, str]) -> None:
        rows = [f'{token},{name},{name},"{groups[name]}"\n' for name, token in self.tokens.items()]
        tokens = self.folder / "tokens.csv"
        tokens.touch(0o600)
        tokens.write_text("".join(rows))
        write_private_key(self.folder / "service-accounts.key")
        write_client_certificate(self.kubelet_client, self.kubelet_client.with_suffix(".key"))
        (self.folder / "audit-policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
        self.kubeconfig_for(self.token, self.kubeconfig)

    def _start_etcd(self) -> None:
        client = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        command: list[str | Path] = [
            program("etcd"),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # A test cluster need not survive a power cut.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]
        self.processes.start("etcd", command)
        self.processes.wait_until("etcd", lambda: answers("127.0.0.1", self._etcd_port))

    def _api_server_options(self) -> list[str]:
        local = self.address == "127.0.0.1"
        key = self.folder / "service-accounts.key"
        options = [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--secure-port={self.port}",
            f"--bind-address={'127.0.0.1' if local else '0.0.0.0'}",
            f"--advertise-address={self.address}",
            f"--cert-dir={self.folder / 'certs'}",
            f"--service-cluster-ip-range={SERVICE_ADDRESSES}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--profiling=false",
        ]
        if local:
            # An endpoint of the Service `kubernetes` must not be a loopback address.
            options.append("--endpoint-reconciler-type=none")
        else:
            options += [
                f"--kubelet-client-certificate={self.kubelet_client}",
                f"--kubelet-client-key={self.kubelet_client.with_suffix('.key')}",
                "--kubelet-preferred-address-types=InternalIP",
            ]
        if self.audit_log is not None:
            options += [
                f"--audit-policy-file={self.folder / 'audit-policy.yaml'}",
                f"--audit-log-path={self.audit_log}",
            ]
        return options

    def _controller_options(self) -> list[str]:
        return [
            f"--service-account-private-key-file={self.folder / 'service-accounts.key'}",
            f"--root-ca-file={self.ca}",
            "--concurrent-job-syncs=20",
        ]

    def _run(self, component: str, options: list[str]) -> None:
        self.processes.start(component, [program("kubernetes"), component, *options])

    def _is_ready(self) -> bool:
        try:
            return self.ca.exists() and self.api().get("/readyz") == "ok"
        except (ApiError, OSError):
            return False

    def _has_service_account(self) -> bool:
        try:
            self.api().get("/api/v1/namespaces/default/serviceaccounts/default")
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True


@contextmanager
def control_plane(*, fake_nodes: int = 2, audit: bool = False) -> Iterator[ControlPlane]:
    """A control plane in a temporary folder; it and all of it are gone afterwards.

    Raises NoGo where its programs can be neither found nor built.
    """
    need_control_plane()
    with TemporaryDirectory(prefix="rzero-cluster-", ignore_cleanup_errors=True) as folder:
        cluster = ControlPlane(Path(folder), fake_nodes=fake_nodes, audit=audit)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def need_control_plane() -> None:
    """Build what a control plane needs. Raises NoGo that says what this machine lacks."""
    for name in ("etcd", "kubernetes", "kwok"):
        program(name)
    if shutil.which("kubectl") is None:
        raise NoGo("there is no kubectl on the PATH: install one")
