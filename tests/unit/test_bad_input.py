"""What a user can do wrong at the command line: one line, the right exit code, and nothing lost."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import stage_makers
from typer.testing import CliRunner, Result

from rzero_core.run import Solver, Stage
from rzero_core.status import Phase
from rzero_core.store import ArtifactStore, Manifest
from rzero_core.task import BadConfiguration, BadTask, RunRef, TrainSolverTask
from rzero_operator.cli import app
from rzero_operator.folder import RunFolder
from rzero_operator.manifests import load
from rzero_stages.published import already, full_disk_named

MANIFEST = """\
apiVersion: rzero.dev/v1alpha1
kind: CoEvolutionRun
metadata: {name: fake}
spec:
  model: model
  iterations: 1
  storage: {uri: runs}
  questions: {shards: 2}
  evaluation: {datasets: [{name: heldout, uri: heldout.jsonl}]}
"""
QUESTION = '{"question": "1 + 1", "answer": "2"}\n'
CLI = [sys.executable, "-m", "rzero_operator.cli"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a manifest, its inputs, and stages that only pretend."""
    folder = tmp_path / "with a space"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RZERO_FAKE", str(folder))
    fake = [sys.executable, str(Path(__file__).with_name("fake_stage.py"))]
    monkeypatch.setattr("rzero_operator.local.STAGE_COMMAND", fake)
    monkeypatch.setattr("sys.platform", "without a nursery")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "heldout.jsonl").write_text(QUESTION)
    (folder / "run.yaml").write_text(MANIFEST)
    return folder


def rzero(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def artifacts(place: Path) -> Path:
    return RunFolder(load(place / "run.yaml")).path


def started(place: Path) -> list[str]:
    return [line.split()[1] for line in (place / "starts").read_text().splitlines()]


def is_refused(result: Result, code: int, *words: str) -> None:
    """One line on standard error that has all the words, and the exit code."""
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("? [a, b]\n: 2\n", "line 1: a list or a map stands where the name of a field should"),
        ("a:\n\tb: 1\n", "line 2: found character '\\t'"),
        ("a: *nobody\n", "undefined alias 'nobody'"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: 2026-02-31\n", "a value cannot be read"),
        (f"a: {'9' * 5000}\n", "a value cannot be read"),
        ("[" * 3000, "nested too deeply"),
        (MANIFEST.replace("spec:", "spec: &s") + "  solver: *s\n", "Circular reference"),
        (MANIFEST.replace("uri: runs", "uri: !!binary /////w=="), "not plain text"),
        (MANIFEST.replace("uri: runs", "uri: ''"), "spec.storage.uri: "),
        (MANIFEST + "  seed: .nan\n", "spec.seed: "),
        (MANIFEST + "  solver: {learningRate: 1e999}\n", "spec.solver.learningRate: "),
        (MANIFEST + "  solver: {batch_size: 8}\n", "spec.solver.batch_size: unknown field"),
    ],
)
def test_strange_yaml_is_one_line(place: Path, text: str, words: str) -> None:
    (place / "run.yaml").write_text(text)
    is_refused(rzero("run", "run.yaml"), 64, "run.yaml: ", words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no questions"),
        ("\n\n", "has no questions"),
        (QUESTION + "\n{'question': 1}\n", "heldout.jsonl, line 3: "),
        (QUESTION + '{"question": "1 + 1"}\n', "heldout.jsonl, line 2: answer: required"),
        (QUESTION + '{"question": "1 + 1", "answer": 2}\n', "heldout.jsonl, line 2: answer: "),
        (QUESTION + '{"question": "\udcff"}\n', "heldout.jsonl, line 2: "),
    ],
)
def test_a_malformed_dataset_is_found_before_anything_starts(
    place: Path, text: str, words: str
) -> None:
    (place / "heldout.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    result = rzero("run", "run.yaml")
    is_refused(result, 65, "spec.evaluation.datasets.0.uri: ", words, "write one JSON object")
    assert not (place / "starts").exists()
    (place / "heldout.jsonl").write_text(QUESTION)
    assert rzero("run", "run.yaml").exit_code == 0


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_space(place: Path) -> None:
    def no_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    full = subprocess.run(
        [*CLI, "run", "run.yaml"], preexec_fn=no_space, capture_output=True, text=True
    )
    assert full.returncode == 78
    assert str(artifacts(place)) in full.stderr and "free some space" in full.stderr
    assert full.stderr.count("\n") == 1
    assert rzero("run", "run.yaml").exit_code == 0


@pytest.mark.parametrize("free", [True, False])
def test_what_fails_for_want_of_space_names_the_disk(free: bool, tmp_path: Path) -> None:
    # PyTorch says no more than this; nothing is ever free on /proc.
    reason = "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"
    folder, error, words = (
        (tmp_path, RuntimeError, "unexpected pos")
        if free
        else (Path("/proc/self"), BadConfiguration, "/proc: no space left on device; free some")
    )
    with pytest.raises(error, match=words), full_disk_named(folder):
        raise RuntimeError(reason)


def test_a_place_without_permission_is_one_line(place: Path) -> None:
    (place / "runs").mkdir(mode=0o555)
    for folder in [place, *place.parents]:
        if folder.stat().st_uid == os.geteuid() and folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o011)
    # The superuser may write anywhere.
    as_nobody = "import os, rzero_operator.cli as cli; os.geteuid() or os.seteuid(65534); "
    done = subprocess.run(
        [sys.executable, "-c", as_nobody + "cli.main()", "run", "run.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 78, done.stderr
    assert f"{place}/runs" in done.stderr and "permission denied" in done.stderr
    assert "let user" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["status.json", "run.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_file_of_the_run_is_named_with_the_remedy(
    place: Path, name: str, content: bytes
) -> None:
    rzero("run", "run.yaml")
    path = artifacts(place) / name
    path.write_bytes(content)
    is_refused(rzero("run", "run.yaml"), 78, str(path), "move it away")
    path.unlink()
    assert rzero("run", "run.yaml").exit_code == 0
    assert started(place).count("trainSolver") == 1


def test_a_task_cut_short_by_a_kill_does_not_stop_the_run(place: Path) -> None:
    (place / "trainSolver.script").write_text("65\n")
    assert rzero("run", "run.yaml").exit_code == 65
    for task in (artifacts(place) / "attempts").glob("*/task.json"):
        task.write_text(task.read_text()[:20])
    assert rzero("run", "run.yaml").exit_code == 0
    assert started(place).count("trainChallenger") == 1


@pytest.mark.parametrize("lost", ["buildCurriculum", "labelQuestions/shard-0001"])
def test_a_deleted_artifact_is_made_again_after_the_stage_that_missed_it(
    place: Path, lost: str
) -> None:
    (place / "trainSolver.script").write_text("65\n")
    assert rzero("run", "run.yaml").exit_code == 65
    before = started(place)
    shutil.rmtree(artifacts(place) / "i0001" / lost)
    assert rzero("run", "run.yaml").exit_code == 0
    again = set(started(place)[len(before) :])
    assert again == {lost.partition("/")[0], "trainSolver", "evaluate"}
    assert (artifacts(place) / "i0001" / lost / "manifest.json").exists()


def test_what_a_killed_stage_left_unfinished_is_cleared_away(place: Path) -> None:
    rzero("run", "run.yaml")
    unfinished = artifacts(place) / "cache" / "stage-abc"
    unfinished.mkdir(parents=True)
    (unfinished / "model.safetensors").write_text("half")
    (artifacts(place) / "cache" / "download").mkdir()
    rzero("run", "run.yaml")
    assert os.listdir(artifacts(place) / "cache") == ["download"]


def test_a_place_that_holds_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    store: ArtifactStore = stage_makers.store(tmp_path)
    base = stage_makers.base(tmp_path, Stage.TRAIN_SOLVER)
    other = Manifest(
        run=RunRef(name="other", uid="22222222-3333"),
        iteration=1,
        stage=Stage.TRAIN_SOLVER,
        seed=0,
        seconds=1.0,
        started_at="2026-01-01",
        finished_at="2026-01-01",
    )
    (tmp_path / "work").mkdir()
    store.publish(tmp_path / "work", other, base["prefix"])
    task = TrainSolverTask(
        **base, solver="model", base_model="model", curriculum="none", training=Solver()
    )
    with pytest.raises(BadTask, match=r"run other .*choose another storage\.uri"):
        already(task, store, task.prefix)


@pytest.mark.parametrize("arguments", [["status", "run.yaml", "--json"], ["status", "run.yaml"]])
def test_a_reader_that_goes_away_ends_the_command_without_a_word(
    place: Path, arguments: list[str]
) -> None:
    rzero("run", "run.yaml")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*CLI, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""


def test_a_finished_run_goes_on_when_its_iterations_grow_and_never_shrinks(place: Path) -> None:
    rzero("run", "run.yaml")
    longer = MANIFEST.replace("iterations: 1", "iterations: 2")
    (place / "run.yaml").write_text(longer)
    assert rzero("run", "run.yaml").exit_code == 0
    assert started(place).count("trainSolver") == 2
    (place / "run.yaml").write_text(MANIFEST)
    is_refused(rzero("run", "run.yaml"), 78, "spec.iterations: ", "write 2 or more")
    status = RunFolder(load(place / "run.yaml")).read_status()
    assert status.phase is Phase.SUCCEEDED and status.iteration == 2
