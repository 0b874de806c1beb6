"""The runs that `benchmarks.guardrails` compares: the same manifest, unguarded and with `Stop`."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.learning import seeded
from rzero_core.run import Stage, Storage
from rzero_core.status import RunStatus
from rzero_core.store import ArtifactStore

MANIFESTS = {"good": Path("examples/tiny/run.yaml"), "bad": Path("examples/tiny/bad.yaml")}
"""By the model that they start from."""
STORAGE = "runs"
"""Relative, so that the artifacts of one folder may be copied to another."""


@dataclass(frozen=True)
class Pair:
    """The same run, unguarded and guarded."""

    model: str
    seed: int
    warn: RunStatus
    stop: RunStatus
    folder: Path
    """Holds warn/ and stop/."""

    @property
    def last(self) -> int:
        """The last Solver of the unguarded run."""
        return self.warn.iterations[-1].iteration

    @property
    def shipped(self) -> int:
        """Iteration of the checkpoint that the guarded run names."""
        assert self.stop.best_iteration is not None
        return self.stop.best_iteration


def declared(model: str, seed: int, iterations: int | None) -> Any:
    """The manifest of one pair, without what differs between the two."""
    run = seeded(yaml.safe_load(MANIFESTS[model].read_text()), seed, iterations)
    spec = run["spec"]
    run["metadata"]["name"] = f"{model}-s{seed}"
    spec["model"] = str(Path(spec["model"]).resolve())
    spec["storage"] = {"uri": STORAGE}
    spec["labelAccuracy"] = {"auditor": {"type": "Programmatic"}}
    for dataset in spec["evaluation"]["datasets"]:
        dataset["uri"] = str(Path(dataset["uri"]).resolve())
    return run


def finish(run: dict[str, Any], place: Path, on_violation: str) -> RunStatus:
    """Run the manifest to its end (at once if it is there) in `place`, and read its status."""
    place.mkdir(parents=True, exist_ok=True)
    run = json.loads(json.dumps(run))
    run["spec"]["labelAccuracy"]["onViolation"] = on_violation
    manifest = place / f"{run['metadata']['name']}.yaml"
    manifest.write_text(yaml.safe_dump(run))
    rzero = [sys.executable, "-m", "rzero_operator.cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {"check": True, "cwd": place, "env": environment}
    subprocess.run([*rzero, "run", "-q", manifest.name], stdout=sys.stderr, **options)
    told = subprocess.run(
        [*rzero, "status", "--json", manifest.name], stdout=subprocess.PIPE, **options
    )
    return RunStatus.model_validate_json(told.stdout)


def copy_artifacts(name: str, source: Path, target: Path) -> None:
    """What the stages of a run published; neither its status nor its attempts."""
    for place in (source / STORAGE).glob(f"{name}-*/i[0-9]*"):
        to = target / place.relative_to(source)
        if not to.exists():
            # Whole or not at all: a copy that was cut short must not pass for an artifact.
            unfinished = to.with_name(f".{to.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(place, unfinished)
            unfinished.rename(to)


def play(model: str, seed: int, iterations: int | None, folder: Path) -> Pair:
    """Both runs of one model and seed."""
    run = declared(model, seed, iterations)
    warn = finish(run, folder / "warn", "Warn")
    copy_artifacts(run["metadata"]["name"], folder / "warn", folder / "stop")
    stop = finish(run, folder / "stop", "Stop")
    return Pair(model, seed, warn, stop, folder)


def artifact(place: Path, status: RunStatus, iteration: int, stage: Stage, name: str) -> Path:
    """The local folder of the artifact of the last round of a stage."""
    entries = [
        entry
        for group in status.iterations
        for entry in group.stages
        if group.iteration == iteration and entry.stage is stage and name in entry.outputs
    ]
    if not entries:
        raise SystemExit(f"{place}: iteration {iteration} has no {name}: did {stage} fail?")
    store = ArtifactStore(Storage(uri=str(place / STORAGE)))
    return store.local(str(place / entries[-1].outputs[name]))
