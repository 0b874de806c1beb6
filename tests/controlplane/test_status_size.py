"""The longest run has a history that still fits one object of a real API server and its etcd."""

import pytest

from rzero_core.guardrail import Outcome
from rzero_core.run import Stage
from rzero_core.status import (
    LONGEST_CANARY,
    MOST_CANARIES,
    Condition,
    EarlierLabelAccuracy,
    GuardrailAction,
    GuardrailStatus,
    IterationStatus,
    LabelAccuracyStatus,
    Phase,
    RunStatus,
    StageState,
    StageStatus,
    UncorrectedLabelAccuracy,
)
from rzero_core.task import (
    LONGEST_SAMPLE,
    LONGEST_WHY,
    MOST_SAMPLES,
    LabelSample,
    RunRef,
    stage_prefix,
)
from rzero_operator.history import fitted
from rzero_operator.tasks import OUTPUT, POOL_STAGES
from tests.cluster.control_plane import ControlPlane
from tests.controlplane.operator_process import RUNS, create_run, install_crd, status_of

ITERATIONS = 100
ROOT = "s3://" + "r" * 200
SHARE = "0.123456789012"
METRICS = {
    Stage.TRAIN_CHALLENGER: 24,
    Stage.GENERATE_QUESTIONS: 12,
    Stage.LABEL_QUESTIONS: 16,
    Stage.BUILD_CURRICULUM: 50,
    Stage.TRAIN_SOLVER: 16,
    # As many as fit what Evaluate limits itself to, 2800 bytes.
    Stage.EVALUATE: 74,
}
"""How many numbers each stage reports: BuildCurriculum with an oracle and probes."""
MESSAGE = "m" * 500
TEXT = "t" * LONGEST_SAMPLE
SAMPLE = LabelSample(question=TEXT, label=TEXT, truth=TEXT, right=False)
TIME = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_history_of_the_longest_run_fits_the_status_of_one_object(
    control_plane: ControlPlane, namespace: str, rounds: int
) -> None:
    install_crd(control_plane)
    name = "r" * 40
    run = create_run(control_plane, namespace, name, iterations=ITERATIONS)
    status = fitted(longest(RunRef(name=name, uid=run["metadata"]["uid"]), rounds))

    path = f"{RUNS.format(namespace)}/{name}/status"
    control_plane.api().request("PUT", path, run | {"status": status.to_dict()})

    assert status_of(control_plane, namespace, name) == status


def longest(run: RunRef, rounds: int) -> RunStatus:
    """A run of the most iterations, each of which did all that can be told of one."""
    numbers = range(ITERATIONS + 1)
    return RunStatus(
        observed_generation=1,
        phase=Phase.FAILED,
        iteration=ITERATIONS,
        iterations=[iteration(run, number, rounds) for number in numbers],
        conditions=[
            Condition(
                type=name,
                status="False",
                reason="LabelAccuracyBelowFloor",
                message=MESSAGE,
                last_transition_time=TIME,
            )
            for name in ("Ready", "Reconciling", "Stalled", "Suspended", "Succeeded", "Failed")
        ],
    )


def iteration(run: RunRef, number: int, rounds: int) -> IterationStatus:
    share = {"estimate": SHARE, "lower": SHARE, "upper": SHARE, "sample_size": 100_000}
    said = UncorrectedLabelAccuracy(estimate=SHARE, lower=SHARE, upper=SHARE, skill=SHARE)
    return IterationStatus(
        iteration=number,
        stages=[
            stage(run, number, name, round)
            for name in Stage
            for round in range(1, rounds + 1 if name in POOL_STAGES else 2)
        ],
        label_accuracy=LabelAccuracyStatus(
            **share,
            abstained=100_000,
            why="w" * LONGEST_WHY,
            method="a" * 200,
            uncorrected=said,
            earlier=EarlierLabelAccuracy(**share, uncorrected=said),
            samples=[SAMPLE] * MOST_SAMPLES,
        ),
        guardrail=GuardrailStatus(
            outcome=Outcome.BELOW_FLOOR,
            message=MESSAGE,
            acts=True,
            action=GuardrailAction.RESUMED,
            canaries=["c" * LONGEST_CANARY] * MOST_CANARIES,
        ),
    )


def stage(run: RunRef, number: int, name: Stage, round: int) -> StageStatus:
    return StageStatus(
        stage=name,
        round=round,
        state=StageState.DONE,
        attempts=54,
        execution=run.uid,
        failures=3,
        preemptions=50,
        started_at=TIME,
        finished_at=TIME,
        outputs={OUTPUT[name]: stage_prefix(ROOT, run, number, name, round)},
        metrics=dict.fromkeys(metrics(name), SHARE),
        manifest_digest="d" * 64,
    )


def metrics(name: Stage) -> list[str]:
    """Names of what a stage reports: first those that are never cut, then some of ten letters."""
    never = {
        Stage.GENERATE_QUESTIONS: ["valid", "questions", "shards"],
        Stage.LABEL_QUESTIONS: ["questions", "abstained", "votes", "agreementSum", "shards"],
        Stage.BUILD_CURRICULUM: [
            *("questions", "duplicates", "nearDuplicates", "probeDuplicates", "kept"),
            *("agreementSum", "short"),
        ],
        Stage.EVALUATE: [f"heldout-{number}.mean" for number in range(5)],
    }
    first = ["bytes", *never.get(name, [])]
    return first + [f"metricName{i:02d}" for i in range(METRICS[name] - len(first))]
