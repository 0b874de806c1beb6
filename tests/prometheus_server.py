"""A real Prometheus on what a test exports, with the chart's alert rules.

with prometheus(tmp_path, port) as server:
    wait_for("alerts", lambda: "RZeroRunFailed" in server.alerts())
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from tests.cluster.processes import Processes, free_ports

RULES = Path(__file__).parents[1] / "charts/rzero/files/rules.yaml"


@dataclass
class Prometheus:
    """A server that scrapes and evaluates every second."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self.url}/{path}?{urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant vector. An expression that does not parse is an HTTP error."""
        result: list[dict[str, Any]] = self.get("api/v1/query", query=expression)["result"]
        return result

    def found(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant vector that is not empty.

        A scrape that comes late on a busy machine ends all series until the next one.
        """
        samples: list[dict[str, Any]] = []

        def ask() -> bool:
            samples[:] = self.query(expression)
            return bool(samples)

        wait_for(expression, ask)
        return samples

    def alerts(self, **labels: str) -> dict[str, dict[str, str]]:
        """The labels of each alert that fires and has `labels`, by its name."""
        found = self.get("api/v1/alerts")["alerts"]
        return {
            alert["labels"]["alertname"]: alert["labels"]
            for alert in found
            if alert["state"] == "firing" and labels.items() <= alert["labels"].items()
        }


class Pager:
    """What stands in Alertmanager's place: it keeps the last that Prometheus told of each alert."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._ends: dict[tuple[tuple[str, str], ...], datetime] = {}

    def take(self, told: list[dict[str, Any]]) -> None:
        """Alerts in the form of Alertmanager's API, version 2."""
        for alert in told:
            self._ends[tuple(alert["labels"].items())] = datetime.fromisoformat(alert["endsAt"])

    def pages(self, **labels: str) -> dict[str, str]:
        """`firing` or `resolved` for each alert that has `labels`, by its name."""
        now = datetime.now(UTC)
        found = {alert: end > now for alert, end in self._ends.copy().items()}
        return {
            dict(alert)["alertname"]: "firing" if fires else "resolved"
            for alert, fires in found.items()
            if labels.items() <= dict(alert).items()
        }


@contextmanager
def pager() -> Iterator[Pager]:
    """A pager that listens on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Not a word on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        taken = Pager(server.server_port)
        Thread(target=server.serve_forever, daemon=True).start()
        yield taken
        server.shutdown()


@contextmanager
def prometheus(
    folder: Path,
    *scrapes: int | Mapping[str, Any],
    hold: str = "0s",
    pager: Pager | None = None,
) -> Iterator[Prometheus]:
    """Start a server with its files in `folder`, wait until it is ready, and end it.

    Each of `scrapes` is a port of this machine, whose series keep their own labels, or an entry of
    scrape_configs. `hold`: what stands in place of every `for` of the rules. `pager`: who is told
    of alerts.
    """
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    rules = re.sub(r"^( +for:).*$", rf"\1 {hold}", RULES.read_text(), flags=re.MULTILINE)
    (folder / "rules.yaml").write_text(rules)
    ports = [entry for entry in scrapes if isinstance(entry, int)]
    others = [dict(entry) for entry in scrapes if not isinstance(entry, int)]
    config: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [static_scrape("rzero", *ports), *others],
    }
    if pager is not None:
        targets = [{"targets": [f"127.0.0.1:{pager.port}"]}]
        config["alerting"] = {"alertmanagers": [{"static_configs": targets}]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [program, f"--config.file={folder}/prometheus.yaml"]
    command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
    server = Prometheus(f"http://127.0.0.1:{port}")
    processes = Processes(folder / "logs")
    try:
        processes.start("prometheus", command)
        processes.wait_until("prometheus", lambda: _is_ready(server))
        yield server
    finally:
        processes.stop_all()


def static_scrape(job: str, *ports: int, **labels: str) -> dict[str, Any]:
    """A scrape of ports of this machine; `labels` are those that discovery gives to a target."""
    targets = {"targets": [f"127.0.0.1:{port}" for port in ports], "labels": labels}
    return {"job_name": job, "honor_labels": True, "static_configs": [targets]}


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {seconds} s"
        time.sleep(0.2)


def _is_ready(server: Prometheus) -> bool:
    try:
        return urlopen(f"{server.url}/-/ready", timeout=5).status == 200
    except OSError:
        return False
