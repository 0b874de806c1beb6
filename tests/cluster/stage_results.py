"""What a fake stage pod does: how long it runs, how it ends, and the result that it leaves."""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rzero_core.task import (
    MAX_RESULT_BYTES,
    SHARD_VARIABLE,
    TASK_VARIABLE,
    BuildCurriculumTask,
    EvaluateTask,
    GenerateQuestionsTask,
    LabelAudit,
    LabelQuestionsTask,
    StageResult,
    StageTask,
    TrainChallengerTask,
    TrainSolverTask,
    parse_task,
    shard_prefix,
)
from rzero_operator.tasks import OUTPUT, shards_of

ANNOTATION = "rzero.dev/fake-"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
MAIN = "main"
"""The container that runs the stage."""
QUESTIONS_OF_A_SHARD = 100.0
"""What a shard of LabelQuestions says that it found: its task names files, not their rows."""


@dataclass(frozen=True)
class Outcome:
    """What becomes of one pod."""

    seconds: float = 0.0
    """Time that the stage takes."""
    exit_code: int = 0
    message: str | None = None
    """Termination message; None: the result of the stage, or a line that names the exit code."""
    reason: str = ""
    """Of the ended container (OOMKilled ...); empty: Completed or Error."""
    evicted: bool = False
    """Ended by the node with the condition DisruptionTarget."""
    hang: bool = False
    """Runs until it is deleted."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Change or add figures of the result."""
    label_audit: LabelAudit | None = None
    """Of BuildCurriculum, in place of one that pleases every guardrail."""


@dataclass(frozen=True)
class Start:
    """One pod of a stage that a fake node has begun to run."""

    pod: str
    namespace: str
    node: str
    task: StageTask
    shard: int | None
    """None where the stage has no shards."""
    number: int
    """Counts the starts of this shard of this stage in this run, from 1."""
    annotations: Mapping[str, str]

    @property
    def work(self) -> tuple[str, int, str, int, int | None]:
        """Run name, iteration, stage, round, shard: what must not be done twice."""
        task = self.task
        return task.run.name, task.iteration, str(task.stage), task.round, self.shard


def start_of(pod: Mapping[str, Any], number: int = 1) -> Start:
    """Read what a pod has to do. Raises ValueError when it could not run a stage."""
    metadata, spec = pod["metadata"], pod["spec"]
    main = next(container for container in spec["containers"] if container["name"] == MAIN)
    environment = {entry["name"]: entry.get("value") for entry in main.get("env", [])}
    text = environment.get(TASK_VARIABLE)
    if text is None:
        raise ValueError(f"container {MAIN} has no value of {TASK_VARIABLE} in its env")
    task = parse_task(text)
    annotations = metadata.get("annotations", {})
    shard = None
    if shards_of(task) is not None:
        if INDEX_ANNOTATION not in annotations:
            raise ValueError(f"{task.stage} has shards, but the pod has no {SHARD_VARIABLE}")
        shard = int(annotations[INDEX_ANNOTATION])
    return Start(
        pod=metadata["name"],
        namespace=metadata["namespace"],
        node=spec["nodeName"],
        task=task,
        shard=shard,
        number=number,
        annotations=annotations,
    )


def outcome_of(start: Start, seconds: float) -> Outcome:
    """What annotations of the pod say: rzero.dev/fake-seconds, -max-seconds, -exit-code, -message,
    -reason, -evicted, -hang; without them it succeeds after `seconds`.
    """
    said = {
        name.removeprefix(ANNOTATION): value
        for name, value in start.annotations.items()
        if name.startswith(ANNOTATION)
    }
    least = float(said.get("seconds", seconds))
    return Outcome(
        seconds=random.uniform(least, float(said.get("max-seconds", least))),
        exit_code=int(said.get("exit-code", "0")),
        message=said.get("message"),
        reason=said.get("reason", ""),
        evicted=said.get("evicted") == "true",
        hang=said.get("hang") == "true",
    )


def message_of(start: Start, outcome: Outcome) -> str:
    """The termination message of the main container."""
    if outcome.message is not None:
        return outcome.message
    if outcome.exit_code != 0 or outcome.evicted:
        return f"the fake stage ended with {outcome.exit_code}"
    text = result_of(start, outcome).to_json()
    assert len(text.encode()) <= MAX_RESULT_BYTES, f"the fake result is too long: {text}"
    return text


def result_of(start: Start, outcome: Outcome) -> StageResult:
    """The result that the stage would leave."""
    task = start.task
    prefix = task.prefix if start.shard is None else shard_prefix(task.prefix, start.shard)
    return StageResult(
        run_uid=task.run.uid,
        iteration=task.iteration,
        stage=task.stage,
        round=task.round,
        shard=start.shard,
        outputs={OUTPUT[task.stage]: prefix},
        metrics=_metrics(task) | dict(outcome.metrics),
        label_audit=outcome.label_audit or _label_audit(task, outcome),
        manifest_digest=hashlib.sha256(prefix.encode()).hexdigest(),
        seconds=1.5,
    )


def _label_audit(task: StageTask, outcome: Outcome) -> LabelAudit | None:
    # A curriculum that a top-up round will replace is not audited.
    if not isinstance(task, BuildCurriculumTask) or outcome.metrics.get("short"):
        return None
    return LabelAudit(
        estimate=0.9,
        lower=0.86,
        upper=0.93,
        sample_size=300,
        right=270,
        method="fake auditor",
    )


def _metrics(task: StageTask) -> dict[str, float]:
    """Figures of the names that the stage reports; kept and dropped add up to the input."""
    match task:
        case TrainChallengerTask() | TrainSolverTask():
            steps = float(task.training.steps)
            return {"steps": steps, "rewardFirst": 0.31, "rewardLast": 0.52, "samplingSeconds": 1.0}
        case GenerateQuestionsTask():
            count = float(task.questions.count // task.questions.shards)
            return {"questions": count, "valid": count - 1, "malformed": 1.0, "tokens": 90 * count}
        case LabelQuestionsTask():
            count = QUESTIONS_OF_A_SHARD
            return {
                "questions": count,
                "votes": count * task.labels.votes,
                "abstained": count,
                "unlabelled": 0.0,
                "ties": 0.0,
                "agreementSum": count / 2,
            }
        case BuildCurriculumTask():
            count = float(task.questions.count)
            drops = {"duplicates": 1.0, "unlabelled": 0.0, "ties": 1.0, "nearDuplicates": 1.0}
            rest = count - sum(drops.values())
            hard, easy = rest // 4, rest // 4
            return {
                "questions": count,
                "kept": rest - hard - easy,
                **drops,
                "tooHard": hard,
                "tooEasy": easy,
                "short": 0.0,
                "agreementSum": count / 2,
            }
        case EvaluateTask():
            score = min(0.4 + 0.1 * task.iteration, 0.9)
            return {
                f"{dataset.name}.{measure}{end}": score + offset
                for dataset in task.evaluation.datasets
                for measure in ("greedy", "mean", "majority")
                for end, offset in (("", 0.0), ("Lower", -0.05), ("Upper", 0.05))
            }
