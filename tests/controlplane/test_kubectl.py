"""`kubectl rzero` as its users call it: kubectl finds it on the PATH, the API server answers."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
import yaml

from rzero_core.task import LabelAudit
from tests.cluster.control_plane import ControlPlane
from tests.cluster.control_plane import control_plane as start_control_plane
from tests.cluster.fake_stages import FakeStages, fake_stages
from tests.cluster.stage_results import Outcome, Start
from tests.controlplane.kubelet import logs_served
from tests.controlplane.operator_process import (
    create_run,
    get_run,
    install_crd,
    operator,
    status_of,
    wait_for_phase,
    wait_until,
)

SCRIPTS = Path(sys.executable).parent
"""Where `kubectl-rzero` and `kubectl_complete-rzero` are installed."""


class User:
    """Somebody at a shell, in one namespace."""

    def __init__(self, cluster: ControlPlane, namespace: str) -> None:
        self.namespace = namespace
        self.environment = {
            **os.environ,
            **cluster.environment,
            "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        }

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`kubectl rzero WORDS -n NAMESPACE`."""
        return self.kubectl("rzero", *words, "-n", self.namespace)

    def kubectl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["kubectl", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    @contextmanager
    def following(self, run: str) -> Iterator[IO[str]]:
        """Lines of `kubectl rzero logs --follow` as they come."""
        words = ["kubectl", "rzero", "logs", run, "--follow", "-n", self.namespace]
        with subprocess.Popen(
            words, env=self.environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                process.kill()

    def output(self, *words: str) -> str:
        """What a command that works prints."""
        done = self(*words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def error(self, *words: str) -> str:
        """The only line of a command that does not work."""
        done = self(*words)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ")
        return done.stderr.removeprefix("error: ").rstrip()


class Fates:
    """What becomes of stages, by the name of their run; they succeed unless told."""

    def __init__(self) -> None:
        self.of: dict[str, Outcome] = {}

    def __call__(self, start: Start) -> Outcome | None:
        return self.of.get(f"{start.namespace}/{start.task.run.name}/{start.task.stage}")


@pytest.fixture(scope="module")
def fates() -> Fates:
    return Fates()


@pytest.fixture(scope="module")
def stages(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory, fates: Fates
) -> Iterator[FakeStages]:
    """An operator and nodes that carry out runs."""
    install_crd(control_plane)
    with (
        operator(control_plane, tmp_path_factory.mktemp("operator")),
        fake_stages(control_plane, fates) as stages,
    ):
        yield stages


@pytest.fixture
def user(control_plane: ControlPlane, namespace: str, stages: FakeStages) -> User:
    return User(control_plane, namespace)


def test_status_shows_runs_as_a_table_and_one_run_as_a_tree(
    control_plane: ControlPlane, user: User
) -> None:
    assert user("status").stderr == f"no runs in namespace {user.namespace}\n"
    evaluation = {"datasets": [{"name": "heldout", "uri": "s3://rzero-test/heldout.jsonl"}]}
    create_run(control_plane, user.namespace, "first", iterations=2, evaluation=evaluation)
    wait_for_phase(control_plane, user.namespace, "first", "Succeeded")

    heading, row = user.output("status").splitlines()
    assert heading.split("  ")[0] == "NAME"
    assert row.split()[:3] == ["first", "Succeeded", "2/2"]
    assert "0.900 [0.860, 0.930]" in row
    assert row.rstrip().endswith("s")

    tree = user.output("status", "first")
    assert tree.startswith("first Succeeded · iteration 2/2\n├── base model\n")
    assert "├── iteration 1 · label accuracy 0.900 [0.860, 0.930]\n" in tree
    assert "trainSolver done" in tree
    assert "reward 0.310 → 0.520" in tree
    assert "heldout.mean 0.600" in tree
    (checkpoint,) = [line for line in tree.splitlines() if line.startswith("best Solver: ")]
    assert checkpoint.startswith("best Solver: iteration 2, s3://rzero-test/runs/first-")

    said = json.loads(user.output("status", "first", "--json"))
    assert said == get_run(control_plane, user.namespace, "first")["status"]
    (listed,) = json.loads(user.output("status", "--json"))
    assert listed == {"namespace": user.namespace, "name": "first", "status": said}


def test_suspend_stops_a_run_and_resume_continues_it(
    control_plane: ControlPlane, user: User, stages: FakeStages, fates: Fates
) -> None:
    fates.of[f"{user.namespace}/paused/trainChallenger"] = Outcome(hang=True)
    create_run(control_plane, user.namespace, "paused")
    wait_until(
        lambda: any(start.namespace == user.namespace for start in stages.starts), what="a start"
    )

    assert "stops after a checkpoint" in user.output("suspend", "paused")
    wait_for_phase(control_plane, user.namespace, "paused", "Suspended")
    fates.of.clear()

    assert user.output("resume", "paused") == "run paused continues\n"
    wait_for_phase(control_plane, user.namespace, "paused", "Succeeded")
    assert user.output("resume", "paused") == "run paused was not suspended\n"
    assert "has succeeded; nothing is left to suspend" in user.output("suspend", "paused")


@pytest.mark.parametrize(("on_violation", "held"), [("Pause", "Suspended"), ("Stop", "Succeeded")])
def test_resume_lets_a_run_go_on_that_the_guardrail_held_up(
    control_plane: ControlPlane, user: User, fates: Fates, on_violation: str, held: str
) -> None:
    wrong = LabelAudit(
        estimate=0.3, lower=0.25, upper=0.35, sample_size=300, right=90, method="fake auditor"
    )
    fates.of[f"{user.namespace}/doubted/buildCurriculum"] = Outcome(label_audit=wrong)
    limits = {"auditor": {"type": "Programmatic"}, "onViolation": on_violation}
    create_run(control_plane, user.namespace, "doubted", labelAccuracy=limits)
    wait_for_phase(control_plane, user.namespace, "doubted", held)
    told = user.output("status", "doubted")
    assert "label accuracy 0.300 [0.250, 0.350]" in told
    assert ("\nSuspended True " in told) is (on_violation == "Pause")
    assert "\nLabelAccuracyHealthy False " in told
    assert "trainSolver" not in told.replace("before trainSolver", "")

    assert user.output("resume", "doubted") == "run doubted continues\n"
    wait_until(
        lambda: "trainSolver done" in user.output("status", "doubted"), what="a trained Solver"
    )
    wait_for_phase(control_plane, user.namespace, "doubted", "Succeeded")


def test_retry_gives_a_failed_run_fresh_budgets(
    control_plane: ControlPlane, user: User, fates: Fates
) -> None:
    key = f"{user.namespace}/broken/buildCurriculum"
    fates.of[key] = Outcome(exit_code=65, message="curriculum.jsonl: no question is left")
    create_run(control_plane, user.namespace, "broken")
    wait_for_phase(control_plane, user.namespace, "broken", "Failed")
    assert "no question is left" in user.output("status", "broken")
    fates.of.clear()

    assert user.output("retry", "broken").startswith("run broken is tried again")
    status = wait_for_phase(control_plane, user.namespace, "broken", "Succeeded")
    assert [entry.attempts for entry in status.iterations[0].stages] == [1, 1, 1, 2, 1]
    assert user.error("retry", "broken") == (
        "run broken is Succeeded: nothing failed, so nothing to retry"
    )


def test_retry_evaluates_again_what_was_not_evaluated(
    control_plane: ControlPlane, user: User, fates: Fates
) -> None:
    key = f"{user.namespace}/unscored/evaluate"
    fates.of[key] = Outcome(exit_code=65, message="heldout.jsonl: no such object")
    evaluation = {"datasets": [{"name": "heldout", "uri": "s3://rzero-test/heldout.jsonl"}]}
    create_run(control_plane, user.namespace, "unscored", evaluation=evaluation)
    wait_for_phase(control_plane, user.namespace, "unscored", "Succeeded")
    fates.of.clear()

    assert user.output("retry", "unscored").startswith("run unscored is tried again")
    wait_until(
        lambda: user.output("status", "unscored").count("evaluate done") == 2,
        what="both evaluations",
    )
    wait_for_phase(control_plane, user.namespace, "unscored", "Succeeded")
    assert "nothing failed" in user.error("retry", "unscored")


def test_report_is_made_from_the_status_and_says_what_is_left_out(
    control_plane: ControlPlane, user: User, tmp_path: Path
) -> None:
    create_run(control_plane, user.namespace, "told")
    wait_for_phase(control_plane, user.namespace, "told", "Succeeded")

    page = tmp_path / "pages" / "told.html"
    assert user.output("report", "told", "-o", str(page)) == f"wrote {page}\n"

    text = page.read_text()
    assert "Written from the run's status alone." in text
    assert "90.0\u00a0%" in text
    assert "Left out: votes lie in storage, not in the status." in text


def test_logs_are_those_of_all_shards_of_the_current_stage(
    control_plane: ControlPlane, user: User, fates: Fates, stages: FakeStages, tmp_path: Path
) -> None:
    fates.of[f"{user.namespace}/talking/labelQuestions"] = Outcome(hang=True)
    side_by_side = {"labelQuestions": {"parallelism": 2}}
    create_run(control_plane, user.namespace, "talking", stages=side_by_side)
    wait_until(
        lambda: status_of(control_plane, user.namespace, "talking").stage == "labelQuestions"
    )
    wait_until(lambda: len(started(stages, user, "labelQuestions")) == 2)

    def lines(pod: str, container: str) -> list[str] | None:
        return [f"{container} begins", "4 of 5"] if "-label-" in pod or "-solv-" in pod else None

    with logs_served(control_plane, tmp_path, lines):
        assert user.output("logs", "talking").splitlines() == [
            "[i1 labelQuestions 0] main begins",
            "[i1 labelQuestions 0] 4 of 5",
            "[i1 labelQuestions 1] main begins",
            "[i1 labelQuestions 1] 4 of 5",
        ]
        (waiting,) = user.output("logs", "talking", "--stage", "trainChallenger").splitlines()
        assert waiting.startswith("[i1 trainChallenger] ")
        assert "is waiting to start" in waiting

        with user.following("talking") as lines_come:
            assert "[i1 labelQuestions 0] 4 of 5\n" in itertools.islice(lines_come, 4)
            stages.release()
            assert "[i1 trainSolver] 4 of 5\n" in lines_come
            assert list(lines_come) == []


def test_a_terminal_does_not_obey_what_a_stage_logs(
    control_plane: ControlPlane, user: User, fates: Fates, stages: FakeStages, tmp_path: Path
) -> None:
    fates.of[f"{user.namespace}/hostile/trainChallenger"] = Outcome(hang=True)
    create_run(control_plane, user.namespace, "hostile")
    wait_until(lambda: len(started(stages, user, "trainChallenger")) == 1)
    said = "a\tb \x1b]0;title\x07\x1b[2J\x9b5m\u202e end"

    with logs_served(control_plane, tmp_path, lambda _pod, _container: [said]):
        # A program that reads it gets what the stage wrote, save for colors.
        assert "a\tb \x1b]0;title\x07" in user.output("logs", "hostile")
        ours, theirs = os.openpty()
        words = ["kubectl", "rzero", "logs", "hostile", "-n", user.namespace]
        subprocess.run(words, env=user.environment, stdout=theirs, timeout=90, check=True)
        shown = os.read(ours, 4096).decode()
        os.close(theirs)
        os.close(ours)
    stages.release()
    assert "\x1b" not in shown and "\x9b" not in shown and "\u202e" not in shown
    # What passes a terminal may show a tab as spaces.
    assert shown.startswith("[i1 trainChallenger] a")
    assert shown.rstrip().endswith("\ufffd end")


def test_logs_of_pods_that_are_gone_say_what_is_still_known(
    control_plane: ControlPlane, user: User, fates: Fates
) -> None:
    fates.of[f"{user.namespace}/over/trainSolver"] = Outcome(
        exit_code=78, message="no GPU is there"
    )
    create_run(control_plane, user.namespace, "over")
    wait_for_phase(control_plane, user.namespace, "over", "Failed")
    # In the foreground: by default the pods go some time after their Job.
    control_plane.kubectl("delete", "jobs", "--all", "--cascade=foreground", "-n", user.namespace)

    said = user.error("logs", "over")
    assert said.startswith("no pod of trainSolver of run over is there")
    assert said.endswith("it said: no GPU is there")


def test_what_the_cluster_refuses_is_one_line(
    control_plane: ControlPlane, user: User, tmp_path: Path
) -> None:
    assert user.error("status", "absent") == (
        f"no run absent in namespace {user.namespace}; `kubectl rzero status -A` lists all"
    )
    control_plane.kubectl("create", "serviceaccount", "guest", "-n", user.namespace)
    token = control_plane.kubectl("create", "token", "guest", "-n", user.namespace).strip()
    guest = tmp_path / "guest"
    known = yaml.safe_load(control_plane.kubeconfig.read_text())
    for entry in known["users"]:
        entry["user"] = {"token": token}
    guest.write_text(yaml.safe_dump(known))
    refused = user.error("status", "--kubeconfig", str(guest))
    assert 'cannot list resource "coevolutionruns"' in refused
    assert refused.endswith("ask for the role `view` to look at runs, `edit` to change them")

    for entry in known["users"]:
        entry["user"] = {"token": "wrong"}
    guest.write_text(yaml.safe_dump(known))
    assert "does not know you" in user.error("status", "--kubeconfig", str(guest))

    for entry in known["clusters"]:
        entry["cluster"]["server"] = "https://127.0.0.1:1"
    guest.write_text(yaml.safe_dump(known))
    assert "no answer from https://127.0.0.1:1" in user.error("status", "--kubeconfig", str(guest))
    assert "absent" in user.error("status", "--context", "absent")
    assert "no cluster" in user.error("status", "--kubeconfig", str(tmp_path / "none"))


def test_a_cluster_without_the_crd_is_told_apart_from_one_without_the_run() -> None:
    with start_control_plane(fake_nodes=0) as bare:
        user = User(bare, "default")
        for words in (("status",), ("status", "first"), ("suspend", "first")):
            assert "knows no CoEvolutionRun: install rzero there" in user.error(*words)


def test_kubectl_completes_commands_runs_and_options(
    control_plane: ControlPlane, user: User
) -> None:
    def completed(*words: str) -> list[str]:
        said = user.kubectl("__complete", "rzero", *words).stdout.splitlines()
        assert said[-1].startswith(":")
        return [line.partition("\t")[0] for line in said[:-1]]

    create_run(control_plane, user.namespace, "complete-me", suspend=True)
    wait_for_phase(control_plane, user.namespace, "complete-me", "Suspended")

    assert completed("") == ["status", "logs", "suspend", "resume", "retry", "report"]
    assert completed("re") == ["resume", "retry", "report"]
    assert completed("resume", "-n", user.namespace, "c") == ["complete-me"]
    assert completed("logs", "-n", user.namespace[:6]).count(user.namespace) == 1
    assert "trainSolver" in completed("logs", "--stage", "")
    assert completed("logs", "--context", "")
    page = user.kubectl("__complete", "rzero", "report", "complete-me", "-o", "").stdout
    assert page.splitlines()[-1] == ":0"


def started(stages: FakeStages, user: User, stage: str) -> list[Start]:
    return [
        start
        for start in stages.starts
        if start.namespace == user.namespace and start.task.stage == stage
    ]
