"""A real Prometheus beside a real operator's metrics: the dashboard shows them, the alerts fire."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from metric_makers import fed_metrics, full_spec, full_status, known
from prometheus_client import start_http_server
from prometheus_server import Prometheus, prometheus, wait_for
from stage_makers import base

from rzero_core import s3_client
from rzero_core.run import Questions, Stage, Storage
from rzero_core.task import GenerateQuestionsTask
from rzero_operator.metrics import Metrics
from rzero_stages import live_metrics, progress
from tests.cluster.processes import free_ports

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "charts/rzero/files/dashboards/rzero.json").read_text())

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What only a GPU, or an alert that fires, or two scrapes of a change, brings forth.
MAY_BE_EMPTY = {"GPU memory", "Alerts", "Time of a reconcile", "Gap between stages"}


@contextmanager
def scraped(metrics: Metrics) -> Iterator[int]:
    """The port on which an operator's metrics are served."""
    (port,) = free_ports(1)
    server, thread = start_http_server(port, addr="127.0.0.1", registry=metrics.registry)
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus on an operator and a training stage that have told all that they can."""
    folder, (stage_port,) = tmp_path_factory.mktemp("prometheus"), free_ports(1)
    fields = base(folder, Stage.GENERATE_QUESTIONS) | {"storage": Storage(uri="s3://bucket/runs")}
    questions = Questions(count=4, shards=4)
    task = GenerateQuestionsTask(**fields, challenger="", questions=questions)
    variables = {"RZERO_METRICS_PORT": str(stage_port), "RZERO_METRICS_LINGER_SECONDS": "0"}
    metrics = fed_metrics()
    with (
        scraped(metrics) as port,
        live_metrics.served(task, 0, variables),
        prometheus(folder, port, stage_port) as server,
    ):
        figures = {figure: 0.5 for series in live_metrics.SERIES for figure in series.figures}
        progress.report(1, 4, "steps", **figures)
        wait_for("stage", lambda: bool(server.query("rzero_stage_progress_ratio")))
        for _ in range(4):
            metrics.reconciled("ok", 0.02)
            metrics.gap(1.0)
            for observer in s3_client.observers:
                observer("GetObject", "200", 0.1)
            time.sleep(1)
        wait_for("records", lambda: bool(server.query("run:rzero_questions_kept:ratio")))
        yield server


def concrete(expression: str) -> str:
    """The expression as Grafana sends it with All chosen."""
    for variable, value in (("$__rate_interval", "4s"), ("$namespace", ".*"), ("$run", ".*")):
        expression = expression.replace(variable, value)
    return expression


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_query_of_the_dashboard_finds_series(
    watched: Prometheus, panel: dict[str, Any]
) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        expression = concrete(target["expr"])
        assert "$" not in expression
        may_be_empty = panel["title"] in MAY_BE_EMPTY
        found = watched.query(expression) if may_be_empty else watched.found(expression)
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            named = [sample for sample in found if label in sample["metric"] or label == "shard"]
            assert named or not found, f"no series of {expression} has the label {label}"


def test_the_selectors_offer_the_namespaces_and_their_runs(watched: Prometheus) -> None:
    variables = {item["name"]: item for item in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for name, expected in (("namespace", {"ml"}), ("run", {"demo", "unaudited"})):
        query = concrete(variables[name]["query"]["query"])
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert asked is not None, query
        assert {sample["metric"][asked[2]] for sample in watched.found(asked[1])} == expected


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(0 <= x < 24 for x, _ in cells)


def test_every_panel_says_what_it_shows_and_follows_the_data_source_variable() -> None:
    assert DASHBOARD["schemaVersion"] >= 42 and DASHBOARD["uid"] and DASHBOARD["title"]
    for panel in PANELS:
        assert panel["title"] and panel["description"], panel["id"]
        places = [panel, *panel["targets"]]
        assert {place["datasource"]["uid"] for place in places} == {"${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_runs_are_chosen_in_every_query_about_runs() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            if re.search(r"rzero_(run|iteration)_", target["expr"]):
                assert 'namespace=~"$namespace",run=~"$run"' in target["expr"], panel["title"]


def test_a_run_whose_labels_rot_fires_with_its_name_until_it_is_deleted(tmp_path: Path) -> None:
    metrics = Metrics()
    status = full_status(3)
    accuracies = [None, known("0.79", "0.728", "0.841"), known("0.69", "0.623", "0.75")]
    accuracies.append(known("0.5", "0.431", "0.569"))

    def see(iterations: int) -> None:
        groups = [
            group.model_copy(update={"label_accuracy": accuracy})
            for group, accuracy in zip(status.iterations, accuracies, strict=True)
        ]
        seen = status.model_copy(update={"iterations": groups[: iterations + 1]})
        metrics.seen("ml", "rotting", full_spec(), seen)

    drop = {"RZeroPseudoLabelAccuracyDropped", "RZeroPseudoLabelAccuracyBelowFloor"}
    see(2)
    with scraped(metrics) as port, prometheus(tmp_path, port) as server:
        wait_for("drop", lambda: bool(server.query("run:rzero_pseudo_label_accuracy_drop:ratio")))
        time.sleep(2)
        assert not drop & set(server.alerts())
        see(3)
        labels = {"namespace": "ml", "run": "rotting"}
        wait_for("alerts", lambda: drop <= set(server.alerts(**labels)))
        metrics.gone("ml", "rotting")
        wait_for("end of the alerts", lambda: not drop & set(server.alerts()))
