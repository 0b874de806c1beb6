"""The pages of the documentation: what they point to exists, and what they show works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from rzero_core.manifest import Manifest
from rzero_core.run import Stage
from rzero_core.spec.storage import Storage
from rzero_core.store import ArtifactStore
from rzero_core.task import RunRef
from rzero_operator import cli, kubectl
from rzero_operator.metrics import Metrics
from rzero_stages import live_metrics

PAGES = [
    Path("README.md"),
    Path("CONTRIBUTING.md"),
    Path("charts/rzero/README.md"),
    Path("examples/tiny/README.md"),
    *sorted(Path("docs").rglob("*.md")),
]
TARGETS = set(re.findall(r"^([a-z0-9-]+):", Path("Makefile").read_text("utf-8"), re.MULTILINE))
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=str)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def code_in(page: Path) -> str:
    """All that stands between backquotes, one piece a line."""
    return "\n".join(piece.strip("`") for piece in CODE.findall(page.read_text("utf-8")))


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {word.replace(" ", "-") for word in words}


@EVERY_PAGE
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{page}: {link}"


@EVERY_PAGE
def test_helm_finds_the_release_where_the_readme_installed_it(page: Path) -> None:
    commands = re.findall(r"helm (?!template)\w[^`]*?--namespace (\S+?)[`\s]", code_in(page))
    assert set(commands) <= {"rzero-system"}


@EVERY_PAGE
def test_every_make_target_and_module_that_is_named_exists(page: Path) -> None:
    code = code_in(page)
    for name in re.findall(r"\bmake ([a-z0-9][a-z0-9-]*)", code):
        assert name in TARGETS, f"{page}: make {name}"
    for name in re.findall(r"python -m (benchmarks\.\w+)", code):
        assert Path(name.replace(".", "/") + ".py").exists(), f"{page}: {name}"
    for name in re.findall(r"\b(?:tests|docs|examples|crds)/[\w./-]*\w", code):
        assert Path(name).exists(), f"{page}: {name}"


@EVERY_PAGE
def test_every_command_of_ours_that_is_named_exists(page: Path) -> None:
    code = code_in(page)
    for name, app in (("kubectl rzero", kubectl.app), ("rzero", cli.app)):
        known = set(get_command(app).commands)  # type: ignore[attr-defined]
        before = "" if name.startswith("kubectl") else r"(?<!kubectl )"
        said = set(re.findall(rf"(?:^|[ /]){before}\b{name} ([a-z]+)\b(?!/)", code, re.MULTILINE))
        words = {"install", "charts", "upgrade", "uninstall", "test"}  # Helm's release is `rzero`.
        assert said - words <= known, f"{page}: {name} {said - words - known}"


def test_the_index_in_the_readme_has_every_page() -> None:
    text = Path("README.md").read_text("utf-8")
    for page in Path("docs").glob("*.md"):
        assert f"]({page})" in text


def test_monitoring_names_every_metric_and_every_alert_and_no_other() -> None:
    text = Path("docs/monitoring.md").read_text("utf-8")
    suffixes = {"counter": "_total", "info": "_info"}
    families = [f.name + suffixes.get(f.type, "") for f in Metrics().registry.collect()]
    ours = {name for name in families if name.startswith("rzero_")}
    ours |= {series.name for series in live_metrics.SERIES}
    ours |= {live_metrics.PROGRESS, live_metrics.GPU_MEMORY, live_metrics.STORAGE_DURATION}
    ours |= {f"{live_metrics.STORAGE_REQUESTS}_total"}
    assert set(re.findall(r"`(rzero_\w+)`", text)) == ours
    groups = yaml.safe_load(Path("charts/rzero/files/rules.yaml").read_text("utf-8"))["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert set(re.findall(r"\[(RZero\w+)\]", text)) == alerts


def test_the_tiny_run_of_a_cluster_is_the_one_of_a_laptop_with_other_storage() -> None:
    local, cluster = (
        yaml.safe_load(Path(f"examples/tiny/{name}.yaml").read_text("utf-8"))
        for name in ("run", "cluster")
    )
    assert cluster["spec"].pop("storage")["uri"].startswith("s3://")
    assert local["spec"].pop("storage") == {"uri": "runs"}
    assert cluster == local


def test_the_tutorials_python_fetches_a_checkpoint(tmp_path: Path) -> None:
    root = f"file://{tmp_path}/runs"
    checkpoint = f"{root}/tiny-0f9b6c1e/i0003/trainSolver"
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    at = "2026-03-02T09:14:00Z"
    made = Manifest(
        run=RunRef(name="tiny", uid="0f9b6c1e-2f7f-4a6e-9c55-3b1f2d9a7e11"),
        iteration=3,
        stage=Stage.TRAIN_SOLVER,
        round=1,
        attempt=1,
        seed=0,
        inputs=[],
        versions={},
        files=[],
        outputs={},
        metrics={},
        seconds=1.0,
        started_at=at,
        finished_at=at,
    )
    ArtifactStore(Storage(uri=root)).publish(folder, made, checkpoint)
    text = Path("docs/tutorial.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"BUCKET": root, "CHECKPOINT": checkpoint},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert (Path(done.stdout.strip()) / "config.json").read_text() == "{}"
