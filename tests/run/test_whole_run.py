"""A small run of the tiny model through every stage, on a folder and on a real S3 server."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from s3_server import S3Server

from rzero_core.records import LabeledQuestion, read_jsonl
from rzero_core.run import CoEvolutionRun, Stage, Storage
from rzero_core.status import Phase, RunStatus, StageState
from rzero_core.store import ArtifactStore


def small(storage: dict[str, Any], folder: Path) -> Path:
    """The quickstart's manifest, with everything smaller, in a file."""
    manifest = yaml.safe_load(Path("examples/tiny/run.yaml").read_text())
    held_out = folder / "heldout.jsonl"
    lines = Path("examples/tiny/heldout.jsonl").read_text().splitlines(keepends=True)
    held_out.write_text("".join(lines[:40]))
    spec = manifest["spec"]
    model = str(Path("examples/tiny/model").absolute())
    spec |= {"model": model, "iterations": 1, "storage": storage}
    spec["challenger"] |= {"steps": 2, "batchSize": 16, "microBatchSize": 16}
    spec["questions"] |= {"count": 80, "shards": 2}
    spec["stages"] = {"generateQuestions": {"parallelism": 2}}
    spec["solver"] |= {"steps": 2, "batchSize": 8, "groupSize": 4}
    spec["evaluation"] |= {"samples": 2, "datasets": [{"name": "heldout", "uri": str(held_out)}]}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path


def rzero(command: str, manifest: Path, *options: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "rzero_operator.cli", command, str(manifest), *options],
        capture_output=True,
        text=True,
        # The state of a run on S3 lies in the working directory.
        cwd=manifest.parent,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def finish(manifest: Path) -> RunStatus:
    rzero("run", manifest)
    status = RunStatus.model_validate_json(rzero("status", manifest, "--json"))
    assert status.phase is Phase.SUCCEEDED
    return status


def curriculum(manifest: Path, status: RunStatus) -> list[LabeledQuestion]:
    spec = CoEvolutionRun.parse(yaml.safe_load(manifest.read_text())).spec
    entry = status.find(1, Stage.BUILD_CURRICULUM)
    assert entry is not None
    folder = ArtifactStore(spec.storage).local(entry.outputs["curriculum"])
    return list(read_jsonl(folder / "curriculum.jsonl", LabeledQuestion))


@pytest.fixture
def on_a_folder(tmp_path: Path) -> Path:
    (tmp_path / "file").mkdir()
    return small({"uri": str(tmp_path / "runs")}, tmp_path / "file")


def test_a_run_goes_through_every_stage_and_gives_the_same_on_s3(
    on_a_folder: Path, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = finish(on_a_folder)
    done = [(item.stage, item.state) for item in status.iterations[-1].stages]
    assert done == [(stage, StageState.DONE) for stage in Stage]
    kept = curriculum(on_a_folder, status)
    assert len(kept) >= 8

    (tmp_path / "s3").mkdir()
    storage = {"uri": f"s3://{s3.bucket}/whole", "endpoint": s3.endpoint}
    on_s3 = small(storage, tmp_path / "s3")
    again = finish(on_s3)
    assert curriculum(on_s3, again) == kept
    solver = again.find(1, Stage.TRAIN_SOLVER)
    assert solver is not None
    checkpoint = solver.outputs["checkpoint"]
    assert checkpoint.startswith(storage["uri"])
    folder = ArtifactStore(Storage.parse(storage)).model(checkpoint)
    assert (folder / "model.safetensors").stat().st_size > 2_000_000
    rzero("report", on_s3, "--output", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_finished_run_is_not_run_again(on_a_folder: Path) -> None:
    finish(on_a_folder)
    assert "had already succeeded" in rzero("run", on_a_folder)
