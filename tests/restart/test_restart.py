"""Kills a real run of the tiny model again and again, and looks whether anything was lost.

Two runs of one manifest: one undisturbed, one whose runner and stages are killed at random moments.
Takes some minutes, as every start of the runner loads PyTorch anew.
"""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from rzero_core.run import Stage
from rzero_core.status import Phase, RunStatus, StageState, StageStatus
from rzero_core.store import ArtifactStore, Manifest
from rzero_core.task import run_prefix, shard_prefix, stage_prefix
from rzero_operator.folder import RunFolder
from rzero_operator.manifests import load

KILLS = 20
ITERATIONS = 3
STEPS_OF_PLAN = 5 * ITERATIONS
MODEL = Path(__file__).parents[2] / "examples" / "tiny" / "model"
COMMAND = (sys.executable, "-c", "from rzero_operator.cli import main; main()")
TRAINING = {"batchSize": 8, "learningRate": 1e-4, "microBatchSize": 32, "checkpointEvery": 1}
SPEC = {
    "model": str(MODEL),
    "iterations": ITERATIONS,
    "seed": 3,
    "storage": {"uri": "runs"},
    "prompts": {"challenger": {"user": "Write a sum."}, "solver": {"user": "{question}"}},
    "challenger": {**TRAINING, "steps": 5, "groupSize": 2, "sampling": {"maxTokens": 32}},
    "questions": {"count": 96, "shards": 2, "nearDuplicate": 1.0, "sampling": {"maxTokens": 32}},
    "labels": {
        "votes": 6,
        "minAgreement": 0.2,
        "maxAgreement": 0.9,
        "sampling": {"maxTokens": 96},
    },
    "solver": {**TRAINING, "steps": 5, "groupSize": 4, "sampling": {"maxTokens": 96}},
    # A stage that is killed while its runner lives has failed, as far as anybody can tell.
    "stages": {stage.value: {"maxRetries": KILLS} for stage in Stage},
}


class Course:
    """One run in a folder of its own, carried out by the real command."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.place = place
        self.manifest = place / "run.yaml"
        self.manifest.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "rzero.dev/v1alpha1",
                    "kind": "CoEvolutionRun",
                    "metadata": {"name": "restart"},
                    "spec": SPEC,
                }
            )
        )
        self.run = RunFolder(load(self.manifest)).run
        self.root = str(place / "runs")
        self.folder = Path(run_prefix(self.root, self.run))
        self.begun = time.time()
        self.store = ArtifactStore(load(self.manifest).spec.storage)

    def start(self) -> subprocess.Popen[bytes]:
        with (self.place / "runner.log").open("ab") as log:
            return subprocess.Popen(
                [*COMMAND, "run", "run.yaml"],
                cwd=self.place,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def status(self) -> RunStatus:
        path = self.folder / "status.json"
        return RunStatus.model_validate_json(path.read_text()) if path.exists() else RunStatus()

    def done(self) -> Iterator[tuple[int, StageStatus]]:
        for group in self.status().iterations:
            for entry in group.stages:
                if entry.state is StageState.DONE:
                    yield group.iteration, entry

    def manifest_of(self, iteration: int, stage: Stage) -> Manifest:
        manifest = self.store.manifest(stage_prefix(self.root, self.run, iteration, stage))
        assert manifest is not None
        return manifest

    def digest(self, iteration: int, stage: Stage, name: str) -> str:
        """sha256 of one file of an artifact."""
        files = {file.path: file.sha256 for file in self.manifest_of(iteration, stage).files}
        return files[name]

    def seconds_of_a_stage(self) -> float:
        """Mean wall-clock time of the stages so far, starts included."""
        until = (self.folder / "status.json").stat().st_mtime
        return (until - self.begun) / sum(1 for _ in self.done())


@pytest.mark.timeout(3600)
def test_a_run_killed_twenty_times_ends_as_if_nobody_had_touched_it(tmp_path: Path) -> None:
    calm, shaken = Course(tmp_path / "calm"), Course(tmp_path / "shaken")
    process = calm.start()
    try:
        # A stage takes as long as it takes here; the moments of the kills follow from that.
        _wait_until(lambda: sum(1 for _ in calm.done()) >= 2, limit=900)
        published = _shake(shaken, calm)
        assert process.wait(timeout=1800) == 0, (calm.place / "runner.log").read_text()
    finally:
        process.kill()
    assert shaken.status().phase is Phase.SUCCEEDED
    for iteration in range(1, ITERATIONS + 1):
        curriculum = (iteration, Stage.BUILD_CURRICULUM, "curriculum.jsonl")
        assert shaken.digest(*curriculum) == calm.digest(*curriculum)
    for stage in (Stage.TRAIN_CHALLENGER, Stage.TRAIN_SOLVER):
        checkpoint = (ITERATIONS, stage, "model.safetensors")
        assert shaken.digest(*checkpoint) == calm.digest(*checkpoint)
    _assert_nothing_ran_again(shaken, published)
    resumed = [
        path.name
        for path in sorted((shaken.folder / "logs").glob("*train*.log"))
        if re.search(r"going on after step [1-9]", path.read_text())
    ]
    print(f"\n{KILLS} kills; resumed from a step checkpoint: {', '.join(resumed)}")
    assert resumed


def _shake(course: Course, calm: Course) -> dict[tuple[int, Stage], tuple[int, bytes]]:
    """Carry out a run under kills, timed by how long the stages of the calm run take.

    Returns what each stage had published when it was first seen done, and after which attempt.
    """
    chance = random.Random(0)
    published: dict[tuple[int, Stage], tuple[int, bytes]] = {}
    for kill in range(KILLS):
        runner = course.start()
        # Near the end the kills must come before the run does.
        nearly = sum(1 for _ in course.done()) >= STEPS_OF_PLAN - 2
        life = chance.uniform(0, 0.5 if nearly else 1.7) * calm.seconds_of_a_stage()
        until = time.monotonic() + life
        at_a_checkpoint = kill % 4 == 3
        before = _step_checkpoints(course)
        while time.monotonic() < until or (at_a_checkpoint and not nearly):
            assert runner.poll() is None, (course.place / "runner.log").read_text()
            if at_a_checkpoint and _step_checkpoints(course) - before:
                break
            # The machine may have become faster since the calm run's stages were timed.
            if _is_at_its_last_steps(course):
                break
            time.sleep(0.02)
        _note(course, published)
        stages = psutil.Process(runner.pid).children()
        if kill % 5 == 4 and stages:
            # The stage alone: the runner sees it end, and tries again.
            chance.choice(stages).kill()
            time.sleep(0.2)
        runner.kill()
        runner.wait()
        _wait_for_the_end_of(stages)
        _note(course, published)
    last = course.start()
    while last.poll() is None:
        _note(course, published)
        time.sleep(0.2)
    assert last.returncode == 0, (course.place / "runner.log").read_text()
    _note(course, published)
    return published


def _note(course: Course, published: dict[tuple[int, Stage], tuple[int, bytes]]) -> None:
    for iteration, entry in course.done():
        if (iteration, entry.stage) not in published:
            published[iteration, entry.stage] = (
                entry.attempts,
                _manifests(course, iteration, entry),
            )


def _manifests(course: Course, iteration: int, entry: StageStatus) -> bytes:
    """The manifests of a stage, of all its shards, as they lie in storage."""
    prefix = stage_prefix(course.root, course.run, iteration, entry.stage)
    shards = int(entry.metrics.get("shards", 0))
    places = [shard_prefix(prefix, shard) for shard in range(shards)] or [prefix]
    return b"\n".join((Path(place) / "manifest.json").read_bytes() for place in places)


def _assert_nothing_ran_again(
    course: Course, published: dict[tuple[int, Stage], tuple[int, bytes]]
) -> None:
    assert len(published) == STEPS_OF_PLAN
    for iteration, entry in course.done():
        attempts, manifests = published[iteration, entry.stage]
        assert entry.attempts == attempts
        assert _manifests(course, iteration, entry) == manifests
        started = course.folder.glob(f"attempts/i{iteration:04d}-{entry.stage}-a*")
        assert max(int(path.name.rpartition("-a")[2]) for path in started) <= attempts


def _step_checkpoints(course: Course) -> set[Path]:
    return set(course.folder.glob("i*/train*/step-*/manifest.json"))


def _is_at_its_last_steps(course: Course) -> bool:
    last = Path(stage_prefix(course.root, course.run, ITERATIONS, Stage.TRAIN_SOLVER))
    return any(last.glob("step-*/manifest.json"))


def _wait_for_the_end_of(stages: list[psutil.Process]) -> None:
    _wait_until(lambda: not any(_is_alive(stage) for stage in stages), limit=120)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_until(true: Callable[[], bool], limit: float) -> None:
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)
