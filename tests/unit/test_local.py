"""The runner on one machine, with a stage that obeys the process protocol in milliseconds."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rzero_core.disk import path_of
from rzero_core.run import CoEvolutionRun, Stage
from rzero_core.status import Phase, RunStatus, StageState
from rzero_core.task import BadConfiguration
from rzero_operator import attempts
from rzero_operator.decision import Event
from rzero_operator.folder import RunFolder
from rzero_operator.local import LocalRunner, check_inputs
from rzero_operator.process import Progress, visible_gpus
from rzero_operator.tasks import Step

FAKE = (sys.executable, str(Path(__file__).with_name("fake_stage.py")))
RUNNER = """
import sys
from pathlib import Path
from rich.console import Console
from rzero_operator.folder import RunFolder
from rzero_operator.local import LocalRunner
from rzero_operator.manifests import load
from rzero_operator.terminal import PlainDisplay
declared = load(Path("run.yaml"))
folder = RunFolder(declared).open()
display = PlainDisplay(Console(stderr=True), quiet=True)
print(LocalRunner(declared, folder, display, sys.argv[1:]).run().phase, flush=True)
"""


class Recorder:
    """A display that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.seen: list[tuple[Step, Progress]] = []
        self.lines: list[str] = []

    def update(self, status: RunStatus, events: Sequence[Event]) -> None:
        self.events += events

    def progress(self, step: Step, progress: Progress) -> None:
        self.seen.append((step, progress))

    def say(self, line: str) -> None:
        self.lines.append(line)


def make_manifest(**fields: Any) -> CoEvolutionRun:
    spec = {
        "model": "model",
        "iterations": 1,
        "storage": {"uri": "runs"},
        "questions": {"shards": 3},
        "stages": {"generateQuestions": {"parallelism": 3}},
        **fields,
    }
    return CoEvolutionRun.parse(
        {
            "apiVersion": "rzero.dev/v1alpha1",
            "kind": "CoEvolutionRun",
            "metadata": {"name": "fake"},
            "spec": spec,
        }
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model and the fake stage's script folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RZERO_FAKE", str(tmp_path))
    monkeypatch.setattr(attempts, "FIRST_BACK_OFF", 0.0)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path


def carry_out(manifest: CoEvolutionRun, resume: str = "") -> tuple[RunStatus, Recorder]:
    display = Recorder()
    folder = RunFolder(manifest).open()
    try:
        return LocalRunner(manifest, folder, display, FAKE, resume).run(), display
    finally:
        folder.close()


def script(place: Path, stage: str, *words: str) -> None:
    (place / f"{stage}.script").write_text("\n".join(words))


def starts(place: Path) -> list[tuple[str, int, str]]:
    """Stage, attempt and shard of every process that was started."""
    lines = [line.split() for line in (place / "starts").read_text().splitlines()]
    return [(stage, int(attempt), shard) for _, stage, _, attempt, shard, _ in lines]


def wait_until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit, "it does not happen"
        time.sleep(0.02)


def start_runner(place: Path, manifest: CoEvolutionRun) -> subprocess.Popen[str]:
    (place / "run.yaml").write_text(manifest.to_json())
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, *FAKE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pids(place: Path) -> list[int]:
    if not (place / "starts").exists():
        return []
    return [int(line.split()[-1]) for line in (place / "starts").read_text().splitlines()]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_it_hangs(place: Path, stage: str) -> int:
    """Until a start of the stage has read its script and the runner has seen it: its process."""
    wait_until(lambda: len(pids(place)) == 1)
    # Ended before it read the script, it would leave the word to the next start.
    wait_until(lambda: (place / f"{stage}.script").read_text() == "")
    # Ended before it was seen, the attempt would cost nothing.
    wait_until(lambda: "execution" in RunFolder(make_manifest()).status_path.read_text())
    (found,) = pids(place)
    return found


def test_a_run_goes_through_all_stages_and_all_shards(place: Path) -> None:
    status, display = carry_out(make_manifest())
    assert status.phase is Phase.SUCCEEDED
    assert sorted(starts(place)) == sorted(
        [
            ("trainChallenger", 1, "None"),
            *[("generateQuestions", 1, str(shard)) for shard in range(3)],
            *[("labelQuestions", 1, str(shard)) for shard in range(3)],
            ("buildCurriculum", 1, "None"),
            ("trainSolver", 1, "None"),
        ]
    )
    pool = status.find(1, Stage.GENERATE_QUESTIONS)
    assert pool is not None and pool.metrics["rows"] == "6"
    folder = RunFolder(make_manifest())
    assert folder.read_status() == status
    log = folder.path / "logs" / "i0001-labelQuestions-a1-s0002.log"
    assert log.read_text() == "a word on standard error\n"
    assert [event.reason for event in display.events].count("StageDone") == 5


def test_the_key_of_the_oracle_reaches_the_stage_alone_that_asks_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RZERO_ORACLE_API_KEY", "sk-secret-0123456789")
    assert carry_out(make_manifest())[0].phase is Phase.SUCCEEDED
    assert (place / "keyed").read_text() == "buildCurriculum\n"


def test_progress_is_shown_over_all_shards(place: Path) -> None:
    script(place, "generateQuestions", "slow", "slow", "slow")
    _, display = carry_out(make_manifest())
    step = Step(1, Stage.GENERATE_QUESTIONS)
    seen = [progress for at, progress in display.seen if at == step]
    assert seen[-1].total == 6
    assert seen[-1].metrics == {"reward": 0.5}


def test_shards_run_side_by_side_only_as_far_as_parallelism_allows(place: Path) -> None:
    script(place, "labelQuestions", "slow", "slow", "slow")
    began = time.monotonic()
    carry_out(make_manifest())
    assert time.monotonic() - began > 1.5


def test_a_failed_stage_is_tried_again(place: Path) -> None:
    script(place, "trainSolver", "1", "silent", "kill")
    status, display = carry_out(make_manifest())
    assert status.phase is Phase.SUCCEEDED
    entry = status.find(1, Stage.TRAIN_SOLVER)
    assert entry is not None
    assert (entry.attempts, entry.failures, entry.preemptions) == (4, 2, 1)
    told = [event.message for event in display.events if event.warning]
    assert "it went wrong with 1 (log: " in told[0]
    assert "without a result" in told[1]
    assert "SIGKILL" in told[2] and "memory" in told[2]


def test_bad_data_fails_the_run_with_the_line_of_the_stage(place: Path) -> None:
    script(place, "labelQuestions", "ok", "65", "ok")
    status, _ = carry_out(make_manifest())
    assert status.phase is Phase.FAILED
    assert [start for start in starts(place) if start[0] == "labelQuestions"][-1][1] == 1
    message = next(c.message for c in status.conditions if c.type == "Failed")
    assert "it went wrong with 65" in message
    assert "i0001-labelQuestions-a1-s0001.log" in message


def test_the_same_command_tries_a_failed_run_again(place: Path) -> None:
    script(place, "buildCurriculum", "78")
    carry_out(make_manifest())
    status, display = carry_out(make_manifest())
    assert status.phase is Phase.SUCCEEDED
    assert display.lines == ["the run had failed; its last stage is tried again"]
    assert [attempt for stage, attempt, _ in starts(place) if stage == "trainChallenger"] == [1]


def test_the_same_command_evaluates_again_what_was_not_evaluated(place: Path) -> None:
    (place / "h.jsonl").write_text("{}")
    manifest = make_manifest(evaluation={"datasets": [{"name": "h", "uri": "h.jsonl"}]})
    script(place, "evaluate", "65")
    carry_out(manifest)
    status, display = carry_out(manifest)
    assert (status.phase, len(starts(place))) == (Phase.SUCCEEDED, 12)
    assert display.lines == ["an evaluation had failed; it is tried again"]
    base = status.find(0, Stage.EVALUATE)
    assert base is not None and base.state is StageState.DONE
    carry_out(manifest)
    assert len(starts(place)) == 12


def test_a_stage_that_passes_its_deadline_is_stopped_and_counted(place: Path) -> None:
    script(place, "buildCurriculum", "hang")
    status, display = carry_out(
        make_manifest(stages={"buildCurriculum": {"activeDeadlineSeconds": 2}})
    )
    assert status.phase is Phase.SUCCEEDED
    assert [event.reason for event in display.events if event.warning] == ["DeadlineExceeded"]


def test_a_finished_run_starts_nothing(place: Path) -> None:
    carry_out(make_manifest())
    before = starts(place)
    status, _ = carry_out(make_manifest())
    assert status.phase is Phase.SUCCEEDED
    assert starts(place) == before


def test_a_run_goes_on_when_its_iterations_grow_and_refuses_to_shrink(place: Path) -> None:
    carry_out(make_manifest(iterations=1))
    status, _ = carry_out(make_manifest(iterations=2))
    assert status.phase is Phase.SUCCEEDED
    assert len(starts(place)) == 18
    with pytest.raises(BadConfiguration, match=r"spec\.iterations: .* write 2 or more"):
        carry_out(make_manifest(iterations=1))


def test_a_run_that_the_guardrail_paused_waits_until_a_user_says_resume(place: Path) -> None:
    shares = {"estimate": 0.4, "lower": 0.35, "upper": 0.45}
    audit = json.dumps({**shares, "sampleSize": 400, "right": 160, "method": "Programmatic"})
    (place / "audit.json").write_text(audit)
    manifest = make_manifest(labelAccuracy={"onViolation": "Pause"})
    for _ in range(2):
        status, _ = carry_out(manifest)
        assert status.phase is Phase.SUSPENDED
        assert "trainSolver" not in {stage for stage, _, _ in starts(place)}
    status, display = carry_out(manifest, resume="now")
    assert status.phase is Phase.SUCCEEDED
    assert next(event.reason for event in display.events) == "Resumed"
    assert status.best_iteration == 1


def test_an_interrupted_run_stops_after_a_checkpoint_and_goes_on(place: Path) -> None:
    script(place, "trainChallenger", "hang")
    runner = start_runner(place, make_manifest())
    wait_until_it_hangs(place, "trainChallenger")
    runner.send_signal(signal.SIGINT)
    assert runner.communicate(timeout=60)[0] == "Suspended\n"
    entry = RunFolder(make_manifest()).read_status().find(1, Stage.TRAIN_CHALLENGER)
    assert entry is not None and entry.state is StageState.WAITING
    status, _ = carry_out(make_manifest())
    assert status.phase is Phase.SUCCEEDED
    entry = status.find(1, Stage.TRAIN_CHALLENGER)
    assert entry is not None
    assert (entry.attempts, entry.failures, entry.preemptions) == (2, 0, 0)


def test_stages_die_with_a_killed_runner_and_the_next_one_goes_on(place: Path) -> None:
    script(place, "trainChallenger", "hang")
    runner = start_runner(place, make_manifest())
    stage = wait_until_it_hangs(place, "trainChallenger")
    runner.kill()
    runner.communicate()
    wait_until(lambda: not is_alive(stage))
    status, _ = carry_out(make_manifest())
    assert status.phase is Phase.SUCCEEDED
    entry = status.find(1, Stage.TRAIN_CHALLENGER)
    assert entry is not None
    assert (entry.attempts, entry.failures, entry.preemptions) == (2, 0, 1)


def test_a_process_that_outlived_its_runner_is_ended_first(place: Path) -> None:
    folder = RunFolder(make_manifest())
    environment = {**os.environ, "RZERO_RESULT_PATH": str(folder.path / "attempts/x/result.json")}
    left = subprocess.Popen(["sleep", "600"], env=environment)
    folder.open()
    folder.close()
    assert left.wait(timeout=60) == -signal.SIGKILL


@pytest.mark.parametrize("uri", ["file://{}/a%20b", "{}/a b", "~/a b"])
def test_the_state_of_a_run_lies_beside_its_artifacts(
    uri: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place))
    folder = RunFolder(make_manifest(storage={"uri": uri.format(place)}))
    assert folder.path.parent == path_of(uri.format(place)) == place / "a b"


def test_work_that_ended_while_no_runner_looked_is_not_repeated(place: Path) -> None:
    carry_out(make_manifest())
    folder = RunFolder(make_manifest())
    folder.write_status(RunStatus())
    before = starts(place)
    status, _ = carry_out(make_manifest())
    assert status.phase is Phase.SUCCEEDED
    assert starts(place) == before


def test_a_second_runner_is_turned_away(place: Path) -> None:
    first = RunFolder(make_manifest()).open()
    with pytest.raises(BadConfiguration, match="already running"):
        RunFolder(make_manifest()).open()
    first.close()
    RunFolder(make_manifest()).open().close()


@pytest.mark.parametrize(("field", "value"), [("model", "other"), ("seed", 7)])
def test_a_manifest_that_contradicts_its_run_is_refused(
    place: Path, field: str, value: object
) -> None:
    carry_out(make_manifest())
    status = RunFolder(make_manifest()).status_path.read_bytes()
    with pytest.raises(BadConfiguration, match=rf"spec\.{field}: .*metadata\.name"):
        RunFolder(make_manifest(**{field: value})).open()
    assert RunFolder(make_manifest()).status_path.read_bytes() == status


def test_state_lies_beside_the_artifacts_or_in_the_working_directory(place: Path) -> None:
    beside = RunFolder(make_manifest(storage={"uri": f"file://{place}/store"}))
    assert beside.path.parent == place / "store"
    away = RunFolder(make_manifest(storage={"uri": "s3://bucket/base"}))
    assert away.path.parent == place / ".rzero"


def test_runs_in_one_bucket_with_other_models_do_not_meet(place: Path) -> None:
    bucket = {"uri": "s3://bucket/base"}
    first = RunFolder(make_manifest(storage=bucket))
    second = RunFolder(make_manifest(storage=bucket, model="other"))
    assert first.run.uid != second.run.uid
    assert first.path == second.path


def test_a_missing_model_or_dataset_is_found_before_anything_starts(place: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"spec\.model: .*nowhere does not exist; name"):
        check_inputs(make_manifest(model="nowhere").spec)
    data = {"datasets": [{"name": "heldout", "uri": "nowhere.jsonl"}]}
    with pytest.raises(BadConfiguration, match=r"spec\.evaluation\.datasets\.0\.uri"):
        check_inputs(make_manifest(evaluation=data).spec)


def test_ranks_of_one_training_share_a_rendezvous_and_the_first_one_counts(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert visible_gpus() == ("4", "5")
    status, _ = carry_out(make_manifest(stages={"trainChallenger": {"gpus": 2}}))
    assert status.phase is Phase.SUCCEEDED
    assert [stage for stage, _, _ in starts(place)].count("trainChallenger") == 2
    logs = RunFolder(make_manifest()).path / "logs"
    assert (logs / "i0001-trainChallenger-a1-r1.log").exists()
