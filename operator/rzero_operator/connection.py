"""The API server as the user of a kubeconfig sees it: raw JSON in, errors of one line out.

What `kubectl rzero` asks goes through here, by its user's own rights.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from pydantic import ValidationError

from rzero_core.crd import PLURAL
from rzero_core.run import API_VERSION
from rzero_core.status import RunStatus
from rzero_core.wire import explain

Object = dict[str, Any]
CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
_MERGE = "application/merge-patch+json"


class ClusterError(Exception):
    """A sentence for the user: what the cluster did not do, and what to do about it."""

    def __init__(self, message: str, status: int = 0, name: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 without an answer."""
        self.name = name
        """Of the object that the answer is about; None where the whole path is unknown."""


@dataclass(frozen=True)
class Target:
    """Which cluster and namespace a command means, as kubectl's options of these names say."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None

    @property
    def file(self) -> str:
        """The kubeconfig, or several joined by colons."""
        return str(self.kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube/config")


class Connection:
    """A connection to one API server. Raises `ClusterError` for whatever does not work."""

    def __init__(self, target: Target) -> None:
        # Imported for those who ask a cluster; `--help` should not wait a third of a second.
        from kubernetes.client.configuration import Configuration
        from kubernetes.client.rest import RESTClientObject
        from kubernetes.config.config_exception import ConfigException
        from kubernetes.config.kube_config import load_kube_config

        self._configuration = Configuration()
        try:
            load_kube_config(target.file, target.context, self._configuration)
        except (ConfigException, OSError) as error:
            raise _no_cluster(target, error) from error
        self.namespace = target.namespace or _current_namespace(target)
        # The first refusal is the answer: the user waits.
        self._configuration.retries = False
        self._client = RESTClientObject(self._configuration)

    def run(self, name: str) -> Object:
        """A run of the namespace."""
        try:
            found: Object = self._json("GET", f"{self._runs(self.namespace)}/{quote(name)}")
        except ClusterError as error:
            raise self._about_run(error, name) from error
        return found

    def runs(self, *, everywhere: bool = False) -> list[Object]:
        """The runs of the namespace, or of all namespaces."""
        try:
            path = self._runs(None if everywhere else self.namespace)
            items: list[Object] = self._json("GET", path)["items"]
        except ClusterError as error:
            raise self._about_run(error, None) from error
        return items

    def change_run(self, name: str, change: Object) -> None:
        """Merge a change into a run."""
        path = f"{self._runs(self.namespace)}/{quote(name)}"
        try:
            self._json("PATCH", path, body=change, content_type=_MERGE)
        except ClusterError as error:
            raise self._about_run(error, name) from error

    def pods(self, selector: str) -> list[Object]:
        """The pods of the namespace that a label selector matches."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        items: list[Object] = self._json("GET", path, {"labelSelector": selector})["items"]
        return items

    def namespaces(self) -> list[str]:
        """Names of all namespaces."""
        items = self._json("GET", "/api/v1/namespaces")["items"]
        return [item["metadata"]["name"] for item in items]

    def log(self, pod: str, container: str, *, follow: bool) -> Iterator[str]:
        """The lines of a container's log, with `follow` until it ends."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        query = {"container": container} | ({"follow": "true"} if follow else {})
        answer = self._ask("GET", path, query, follow=follow)
        try:
            for line in answer:
                yield line.decode(errors="replace").rstrip("\r\n")
        except urllib3.exceptions.HTTPError as error:
            raise ClusterError(f"the log of {pod} broke off: {_one_line(error)}") from error

    def _runs(self, namespace: str | None) -> str:
        place = f"namespaces/{quote(namespace)}/" if namespace is not None else ""
        return f"/apis/{API_VERSION}/{place}{PLURAL}"

    def _about_run(self, error: ClusterError, name: str | None) -> ClusterError:
        if error.status != 404:
            return error
        if error.name is None:
            return ClusterError(
                f"{self._configuration.host} knows no CoEvolutionRun: install rzero there (its "
                "Helm chart brings the CRD), or choose another --context",
                404,
            )
        return ClusterError(
            f"no run {name} in namespace {self.namespace}; `kubectl rzero status -A` lists all",
            404,
            name,
        )

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Any:
        return json.loads(self._ask(method, path, query, body, content_type).data)

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        *,
        follow: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        from kubernetes.client.exceptions import ApiException

        headers = {"User-Agent": "kubectl-rzero", "Content-Type": content_type}
        token = self._configuration.get_api_key_with_prefix("BearerToken", "authorization")
        if token:
            headers["Authorization"] = token
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        timeout = (CONNECT_SECONDS, None if follow else READ_SECONDS)
        try:
            answer: urllib3.BaseHTTPResponse = self._client.request(
                method, url, headers, body, _request_timeout=timeout
            ).response
            if answer.status >= 300:
                raise self._refusal(answer.status, answer.data)
        except (urllib3.exceptions.HTTPError, ApiException) as error:
            raise ClusterError(
                f"no answer from {self._configuration.host}: {_one_line(error)}; is the cluster "
                "up, and is this the right --context?"
            ) from error
        return answer

    def _refusal(self, status: int, data: bytes) -> ClusterError:
        """The server's words; a proxy before it may answer anything."""
        try:
            said = json.loads(data)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            said = {"message": data[:200].decode(errors="replace")}
        name = (said.get("details") or {}).get("name")
        message = _one_line(said.get("message") or said.get("reason") or status)
        if status == 401:
            message = f"{self._configuration.host} does not know you: log in again, or choose "
            message += "another --context"
        elif status == 403:
            message += "; ask for the role `view` to look at runs, `edit` to change them"
        return ClusterError(message, status, name)


def status_of(run: Object) -> RunStatus:
    """The status of a run as the server gave it. Raises `ClusterError`."""
    try:
        return RunStatus.parse(run.get("status") or {})
    except ValidationError as error:
        raise skewed(run, error) from error


def skewed(run: Object, error: ValidationError) -> ClusterError:
    """What to say of a run that this version cannot read."""
    return ClusterError(
        f"run {run['metadata']['name']} is of another version of rzero than this command "
        f"({explain(error)[0]}); install the version of the cluster's operator"
    )


def context_names(target: Target) -> list[str]:
    """Names of the kubeconfig's contexts. Raises `ClusterError` without a kubeconfig."""
    return [item["name"] for item in _contexts(target)[0]]


def _current_namespace(target: Target) -> str:
    """What the kubeconfig says of the chosen context."""
    contexts, active = _contexts(target)
    chosen = next((item for item in contexts if item["name"] == target.context), active)
    return str(chosen["context"].get("namespace") or "default")


def _contexts(target: Target) -> tuple[list[Object], Object]:
    """All contexts, and the current one."""
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.kube_config import list_kube_config_contexts

    try:
        found: tuple[list[Object], Object] = list_kube_config_contexts(target.file)
    except (ConfigException, OSError) as error:
        raise _no_cluster(target, error) from error
    return found


def _no_cluster(target: Target, error: Exception) -> ClusterError:
    return ClusterError(
        f"no cluster: {_one_line(error)} (kubeconfig {target.file}); set KUBECONFIG, or "
        "--kubeconfig and --context"
    )


def _one_line(said: object) -> str:
    return " ".join(str(said).split())
