"""A run that never ran, published artifact by artifact: what `rzero report` is tested with."""

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from rzero_core.records import (
    LabeledQuestion,
    Question,
    ScoredQuestion,
    StepRow,
    VotedQuestion,
    write_jsonl,
)
from rzero_core.run import CoEvolutionRun, Stage
from rzero_core.status import (
    GuardrailStatus,
    IterationStatus,
    LabelAccuracyStatus,
    Phase,
    RunStatus,
    StageState,
    StageStatus,
)
from rzero_core.store import ArtifactStore, Manifest
from rzero_core.task import RunRef, shard_prefix, stage_prefix
from rzero_core.wire import Wire

UID = "0f9b6c1e-2f7f-4a6e-9c55-3b1f2d9a7e11"
POOL = 160
SHARDS = 2
VOTES = 10


class FakeRun:
    """Builds a run stage by stage; `write` leaves the files that the report reads."""

    def __init__(self, root: Path, iterations: int = 3, seed: int = 0) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.clock = datetime(2026, 3, 2, 9, 14, tzinfo=UTC)
        self.reference = RunRef(name="tiny", uid=UID)
        self.run = CoEvolutionRun.parse(manifest(root, iterations))
        self.store = ArtifactStore(self.run.spec.storage)
        self.stages: dict[int, list[StageStatus]] = {}
        self.phase = Phase.SUCCEEDED
        self.audits: dict[int, LabelAccuracyStatus] = {}
        """Of the iterations that an auditor looked at."""
        self.verdicts: dict[int, GuardrailStatus] = {}
        """Of the iterations that the guardrail judged."""

    def whole(self) -> "FakeRun":
        """All iterations of a run that learns, and whose labels get worse."""
        self.evaluate(0, 0.66)
        for iteration in range(1, self.run.spec.iterations + 1):
            self.train(iteration, Stage.TRAIN_CHALLENGER, 12, 0.31, 0.52)
            self.pool(iteration, right=0.97 - 0.09 * iteration)
            self.train(iteration, Stage.TRAIN_SOLVER, 20, 0.55, 0.71)
            self.evaluate(iteration, 0.66 + 0.04 * iteration)
        return self

    def train(self, iteration: int, stage: Stage, steps: int, first: float, last: float) -> None:
        """A training whose reward goes from `first` to `last`."""
        rows = []
        for step in range(1, steps + 1):
            reward = first + (last - first) * step / steps + self.random.gauss(0, 0.02)
            metrics = {"reward": reward, "uncertainty": reward + 0.01, "agreement": 1 - reward / 2}
            rows.append(StepRow(step=step, metrics=metrics))
        self.finish(iteration, stage, {"steps.jsonl": rows}, {}, seconds=70)

    def pool(self, iteration: int, right: float) -> None:
        """Questions, votes and curriculum; `right` is the share of right labels in the band."""
        malformed = self.random.randrange(5, 20)
        self.finish(iteration, Stage.GENERATE_QUESTIONS, None, {"malformed": malformed}, seconds=9)
        voted = [self.question(right) for _ in range(POOL)]
        half = POOL // SHARDS
        self.finish_shards(iteration, [voted[:half], voted[half:]])
        labels = self.run.spec.labels
        kept, counts = [], dict.fromkeys(("kept", "tooEasy", "tooHard", "ties"), 0)
        for question in voted:
            if question.label is None:
                counts["ties"] += 1
            elif question.agreement > labels.max_agreement:
                counts["tooEasy"] += 1
            elif question.agreement < labels.min_agreement:
                counts["tooHard"] += 1
            else:
                counts["kept"] += 1
                kept.append(question)
        curriculum = [
            LabeledQuestion(id=q.id, text=q.text, label=q.label or "", agreement=q.agreement)
            for q in kept
        ]
        files = {"curriculum.jsonl": curriculum}
        self.finish(iteration, Stage.BUILD_CURRICULUM, files, counts, seconds=3)

    def question(self, right: float) -> VotedQuestion:
        """A sum on which ten votes were cast."""
        a, b = self.random.randrange(10, 9999), self.random.randrange(10, 9999)
        truth = a + b
        majority = truth if self.random.random() < right else truth + self.random.choice([10, -1])
        votes = self.random.choice([1, 2, 3, 4, 5, 5, 6, 6, 7, 8, 9, 10, 10])
        misses = [truth + self.random.choice([100, 11, 1, -10]) for _ in range(VOTES - votes)]
        others: list[str | None] = [str(miss) for miss in misses]
        if votes == 2:
            others = [str(truth + 3 * i) for i in range(1, VOTES - votes + 1)]
        if votes == 5 and self.random.random() < 0.5:
            others = [str(truth + 100)] * 5
        answers = [*[str(majority)] * votes, *others]
        if votes < 9 and self.random.random() < 0.2:
            answers[-1] = None
        return voted(f"{a}+{b}", answers)

    def evaluate(self, iteration: int, share: float) -> None:
        """Held-out scores around `share`."""
        rows = []
        for _ in range(120):
            a, b = self.random.randrange(10, 9999), self.random.randrange(10, 9999)
            hits = [self.random.random() < share for _ in range(8)]
            rows.append(
                ScoredQuestion(
                    dataset="heldout",
                    question=f"{a}+{b}",
                    answer=str(a + b),
                    greedy=str(a + b),
                    greedy_right=self.random.random() < share + 0.15,
                    samples=[str(a + b) if hit else None for hit in hits],
                    right=hits,
                    majority_right=self.random.random() < share + 0.14,
                )
            )
        self.finish(iteration, Stage.EVALUATE, {"scores.jsonl": rows}, {}, seconds=14)

    def finish(
        self,
        iteration: int,
        stage: Stage,
        files: Mapping[str, Sequence[Wire]] | None,
        metrics: Mapping[str, float],
        seconds: float,
    ) -> None:
        """Publish the files of a stage and note it as done."""
        prefix = self.prefix(iteration, stage)
        if files is not None:
            self.publish(prefix, iteration, stage, None, files)
        self.note(iteration, stage, prefix, metrics, seconds)

    def finish_shards(self, iteration: int, shards: Sequence[Sequence[VotedQuestion]]) -> None:
        """Publish the votes of each shard and note the stage as done."""
        stage = Stage.LABEL_QUESTIONS
        prefix = self.prefix(iteration, stage)
        for number, rows in enumerate(shards):
            at = shard_prefix(prefix, number)
            self.publish(at, iteration, stage, number, {"votes.jsonl": rows})
        self.note(iteration, stage, prefix, {"shards": len(shards)}, 45)

    def publish(
        self,
        prefix: str,
        iteration: int,
        stage: Stage,
        shard: int | None,
        files: Mapping[str, Sequence[Wire]],
        step: int | None = None,
    ) -> None:
        """Publish files as an artifact."""
        folder = self.root / "scratch" / prefix.removeprefix(str(self.root)).strip("/")
        folder.mkdir(parents=True)
        for name, rows in files.items():
            write_jsonl(folder / name, rows)
        at = self.clock.isoformat()
        made = Manifest(
            run=self.reference,
            iteration=iteration,
            stage=stage,
            round=1,
            shard=shard,
            step=step,
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
        self.store.publish(folder, made, prefix)

    def note(
        self,
        iteration: int,
        stage: Stage,
        prefix: str,
        metrics: Mapping[str, float],
        seconds: float,
        state: StageState = StageState.DONE,
    ) -> None:
        """Put a stage into the status."""
        started = self.clock
        self.clock += timedelta(seconds=seconds * self.random.uniform(0.8, 1.2))
        done = state is StageState.DONE
        self.stages.setdefault(iteration, []).append(
            StageStatus(
                stage=stage,
                state=state,
                attempts=1,
                started_at=started.isoformat(),
                finished_at=self.clock.isoformat() if done else None,
                outputs={"checkpoint": prefix} if done else {},
                metrics={name: str(value) for name, value in metrics.items()},
            )
        )

    def prefix(self, iteration: int, stage: Stage) -> str:
        """Where a stage of this run writes."""
        return stage_prefix(self.run.spec.storage.uri, self.reference, iteration, stage)

    def status(self) -> RunStatus:
        """The status, all told."""
        return RunStatus(
            phase=self.phase,
            iteration=max(self.stages, default=0),
            iterations=list(self._iterations()),
        )

    def write(self) -> tuple[Path, Path]:
        """Files of the status and the manifest."""
        status, file = self.root / "status.json", self.root / "run.yaml"
        status.write_text(self.status().to_json(), "utf-8")
        file.write_text(yaml.safe_dump(self.run.to_dict()), "utf-8")
        return status, file

    def _iterations(self) -> Iterator[IterationStatus]:
        for number, stages in sorted(self.stages.items()):
            yield IterationStatus(
                iteration=number,
                stages=stages,
                label_accuracy=self.audits.get(number),
                guardrail=self.verdicts.get(number),
            )


def voted(text: str, answers: list[str | None]) -> VotedQuestion:
    """A question with votes, and the label that they make."""
    question = Question.of(text)
    counts = {a: answers.count(a) for a in answers if a is not None}
    most = max(counts.values(), default=0)
    winners = [answer for answer, count in counts.items() if count == most]
    return VotedQuestion(
        id=question.id,
        text=question.text,
        answers=answers,
        label=winners[0] if len(winners) == 1 else None,
        agreement=most / len(answers),
    )


def manifest(root: Path, iterations: int) -> dict[str, object]:
    """The manifest of the fake run."""
    return {
        "apiVersion": "rzero.dev/v1alpha1",
        "kind": "CoEvolutionRun",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": "examples/tiny/model",
            "iterations": iterations,
            "storage": {"uri": str(root / "runs")},
            "questions": {"count": POOL, "shards": SHARDS},
            "labels": {"votes": VOTES, "minAgreement": 0.3, "maxAgreement": 0.7},
            "evaluation": {"datasets": [{"name": "heldout", "uri": "heldout.jsonl"}]},
        },
    }
