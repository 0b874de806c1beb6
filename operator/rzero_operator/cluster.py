"""All that the operator asks of the Kubernetes API server, as plain JSON.

It reads from the server and not from a cache, so a decision never rests on what was true once.
"""

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import load_incluster_config
from kubernetes.aio.config.kube_config import load_kube_config
from pydantic_core import from_json

from rzero_operator.metrics import Metrics
from rzero_operator.queue import RunKey

Object = dict[str, Any]
GROUP, VERSION, PLURAL = "rzero.dev", "v1alpha1", "coevolutionruns"
PAGE = 10
"""Objects of one answer. A run may hold 1 MB, several times that while it is read: 100 of them at
once would fill the operator's memory."""
TIMEOUT = 30.0
"""Seconds for one request."""
_PLACES = {
    ("batch/v1", "Job"): "/apis/batch/v1/namespaces/{}/jobs",
    ("v1", "Service"): "/api/v1/namespaces/{}/services",
    ("v1", "Event"): "/api/v1/namespaces/{}/events",
}


class ApiError(Exception):
    """The API server refused a request, or could not be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds that a server with too much to do asks for."""


class Cluster:
    """A connection to an API server; an async context manager."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._configuration = client.Configuration()

    async def __aenter__(self) -> Self:
        try:
            load_incluster_config(client_configuration=self._configuration)
        except ConfigException:
            await load_kube_config(client_configuration=self._configuration)
        self._configuration.connection_pool_maxsize = 64
        self.client = client.ApiClient(self._configuration)
        self.client.user_agent = "rzero-operator"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.client.close()

    async def run(self, key: RunKey) -> Object | None:
        """A run, None when there is none of that name."""
        try:
            found: Object = await self._ask("GET", _run_path(key))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def serves_runs(self) -> bool:
        """Whether the server has the kind of runs, by what the watches, too, ask for it.

        They never look again for a kind that was not there when they began.
        """
        groups = (await self._ask("GET", "/apis"))["groups"]
        if not any(group["name"] == GROUP for group in groups):
            return False
        try:
            found = await self._ask("GET", f"/apis/{GROUP}/{VERSION}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(resource["name"] == PLURAL for resource in found["resources"])

    async def runs(self, namespace: str | None) -> AsyncIterator[Object]:
        """All runs of a namespace, or (None) of the cluster."""
        place = f"namespaces/{namespace}/" if namespace is not None else ""
        path = f"/apis/{GROUP}/{VERSION}/{place}{PLURAL}"
        query = {"limit": str(PAGE)}
        while True:
            page = await self._ask("GET", path, query)
            for item in page["items"]:
                yield item
            if not (more := page["metadata"].get("continue")):
                return
            query["continue"] = more

    async def jobs(self, namespace: str, selector: str) -> list[Object]:
        """The Jobs that a label selector matches."""
        return await self._list(f"/apis/batch/v1/namespaces/{namespace}/jobs", selector)

    async def pods(self, namespace: str, selector: str) -> list[Object]:
        """The pods that a label selector matches."""
        return await self._list(f"/api/v1/namespaces/{namespace}/pods", selector)

    async def warnings(self, namespace: str, uid: str) -> list[Object]:
        """Events of type Warning about one object."""
        query = {"fieldSelector": f"involvedObject.uid={uid},type=Warning"}
        answer = await self._ask("GET", _PLACES["v1", "Event"].format(namespace), query)
        items: list[Object] = answer["items"]
        return items

    async def create(self, item: Object, *, dry_run: bool = False) -> Object:
        """Create an object. Raises `ApiError`; 409 when there is one of that name.

        `dry_run`: only ask whether the server would take it.

        A field that the server does not know is refused: by default it would drop it, and with it
        what the author of a pod template wanted.
        """
        namespace = item["metadata"]["namespace"]
        path = _PLACES[item["apiVersion"], item["kind"]].format(namespace)
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        created: Object = await self._ask("POST", path, query, item)
        return created

    async def job(self, namespace: str, name: str) -> Object | None:
        """One Job, None when there is none of that name."""
        try:
            path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
            found: Object = await self._ask("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Stop a Job: it stays until its pods have ended in their grace period."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        try:
            path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
            await self._ask("DELETE", path, body=body)
        except ApiError as error:
            if error.status not in (404, 409):  # Gone, or another one of that name.
                raise

    async def write_status(self, run: Object, status: Object) -> str:
        """Replace the status of a run as it was read; 409 when it has changed since.

        Returns the new resource version.
        """
        metadata = run["metadata"]
        path = _run_path(RunKey(metadata["namespace"], metadata["name"])) + "/status"
        written = await self._ask("PUT", path, body={**run, "status": status})
        version: str = written["metadata"]["resourceVersion"]
        return version

    async def _list(self, path: str, selector: str) -> list[Object]:
        items: list[Object] = (await self._ask("GET", path, {"labelSelector": selector}))["items"]
        return items

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
    ) -> Any:
        headers = {"Accept": "application/json", "User-Agent": self.client.user_agent}
        token = await self._configuration.get_api_key_with_prefix("authorization", "BearerToken")
        if token:
            headers["Authorization"] = token
        url = f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            answer = await self.client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=TIMEOUT
            )
            data = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._metrics.api_request(method, 0)
            raise ApiError(0, type(error).__name__, str(error)) from error
        self._metrics.api_request(method, answer.status)
        if 200 <= answer.status < 300:
            return from_json(data)
        raise _refusal(answer.status, data, answer.headers.get("Retry-After", ""))


def _refusal(status: int, data: bytes, retry_after: str) -> ApiError:
    """The server's words; a proxy before it may answer anything."""
    try:
        said = from_json(data)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return ApiError(status, "Unreadable", data[:200].decode(errors="replace"))
    pause = float(retry_after) if retry_after.isdecimal() else 0.0
    return ApiError(status, str(said.get("reason", "")), str(said.get("message", "")), pause)


def _run_path(key: RunKey) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{key.namespace}/{PLURAL}/{key.name}"
