"""Follows a training stage step by step: seeds each, writes it down, and has it kept in storage.

A step is a round of sampling and one optimizer update or more. Its randomness follows from its
number alone, so that a stage stopped after any step goes on to the very same weights.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, set_seed
from transformers import TrainerCallback

from rzero_core.records import StepRow, read_jsonl, write_jsonl
from rzero_core.run import Training
from rzero_core.store import InputRef, Manifest
from rzero_core.task import BadConfiguration, TrainChallengerTask, TrainSolverTask, derive_seed
from rzero_stages import progress
from rzero_stages.checkpoints import Publisher, StopRequest
from rzero_stages.published import versions

ROWS = "steps.jsonl"

TrainingTask = TrainChallengerTask | TrainSolverTask


@dataclass(frozen=True)
class Scores:
    """What a reward makes of this rank's N completions of one step."""

    rewards: Sequence[float]
    """(N,) in the order of the completions."""
    metrics: dict[str, float]
    """Figures of the step over all ranks, the same on each."""


class Reward(Protocol):
    """Scores completions; called once a step with all of this rank."""

    @property
    def counts(self) -> frozenset[str]:
        """Metrics that count: the stage reports their sums over all steps."""
        ...

    @property
    def trends(self) -> tuple[str, ...]:
        """Metrics of which the stage reports how they began and how they ended."""
        ...

    def __call__(self, step: int, texts: Sequence[str], rows: Sequence[int]) -> Scores:
        """`texts` (N,) complete the conversations with the numbers `rows` (N,); `step` is 1..n."""
        ...


@dataclass(frozen=True)
class Batch:
    """How the completions of one step are cut: steps into updates, updates into micro batches."""

    completions: int
    """Of all ranks, in one step."""
    updates: int
    """Optimizer updates of a step."""
    micro: int
    """Completions in one pass of one device: the largest divisor up to microBatchSize."""
    accumulation: int
    """Passes of each device for one update."""

    @classmethod
    def cut(cls, training: Training, ranks: int) -> "Batch":
        """Raises `BadConfiguration` when the ranks cannot share an update evenly."""
        prompts = training.update_batch_size or training.batch_size
        completions = prompts * training.group_size
        if completions % ranks:
            raise BadConfiguration(
                f"the {completions} completions of an update (updateBatchSize, else batchSize, "
                f"times groupSize) cannot be shared evenly by {ranks} processes; change either"
            )
        share = completions // ranks
        most = min(training.micro_batch_size, share)
        micro = max(size for size in range(1, most + 1) if share % size == 0)
        return cls(
            completions=training.batch_size * training.group_size,
            updates=training.batch_size // prompts,
            micro=micro,
            accumulation=share // micro,
        )


def gathered(items: Sequence[Any]) -> list[Any]:
    """The items of all ranks, in the order of the ranks."""
    everything: list[Any] = gather_object(list(items))
    return everything


def ranks() -> PartialState:
    """The processes that train together: those that `rzero_stages.ranks` or torchrun started."""
    return PartialState(cpu=not torch.cuda.is_available())


class Diary:
    """What is known of the steps so far, and what the manifests say of them."""

    def __init__(self, task: TrainingTask, batch: Batch, reward: Reward) -> None:
        self.task = task
        self.batch = batch
        self.inputs: list[InputRef] = []
        self.rows: list[StepRow] = []
        self.noted: dict[str, float] = {}
        """Figures of the step under way."""
        self._reward = reward
        self._began = datetime.now(UTC)
        self._seconds_before = 0.0

    @property
    def step(self) -> int:
        """The step under way, 1..n."""
        return len(self.rows) + 1

    def go_on_from(self, folder: Path) -> None:
        """Take over the steps that a step checkpoint holds."""
        self.rows = list(read_jsonl(folder / ROWS, StepRow))
        self._seconds_before = sum(row.metrics["seconds"] for row in self.rows)

    def close_step(self, metrics: dict[str, float]) -> None:
        """The step under way is done, with these figures beside the noted ones."""
        metrics = self.noted | metrics
        metrics["learningSeconds"] = (
            metrics["seconds"] - metrics["samplingSeconds"] - metrics["rewardSeconds"]
        )
        tokens = metrics["completionLength"] * self.batch.completions
        metrics["tokensPerSecond"] = tokens / max(metrics["samplingSeconds"], 1e-9)
        self.noted = {}
        self.rows.append(StepRow(step=self.step, metrics=metrics))

    def manifest(self, step: int | None = None) -> Manifest:
        """Of a step checkpoint, or (None) of the stage."""
        task, now = self.task, datetime.now(UTC)
        return Manifest(
            run=task.run,
            iteration=task.iteration,
            stage=task.stage,
            round=task.round,
            step=step,
            attempt=task.attempt,
            seed=task.seed,
            inputs=self.inputs,
            versions=versions(),
            outputs={"checkpoint": task.prefix} if step is None else {},
            metrics=self._summary(),
            seconds=self._seconds_before + (now - self._began).total_seconds(),
            started_at=self._began.isoformat(),
            finished_at=now.isoformat(),
        )

    def _summary(self) -> dict[str, float]:
        """Sums over all steps, and means over the first and the last quarter of them."""
        summary = {"steps": float(len(self.rows))}
        quarter = math.ceil(len(self.rows) / 4)
        for name in ("reward", *self._reward.trends):
            series = [row.metrics[name] for row in self.rows]
            summary[f"{name}First"] = float(np.mean(series[:quarter]))
            summary[f"{name}Last"] = float(np.mean(series[-quarter:]))
        times = {"samplingSeconds", "rewardSeconds", "gradingSeconds", "learningSeconds"}
        for name in sorted(times | self._reward.counts):
            summary[name] = float(sum(row.metrics[name] for row in self.rows))
        return summary


class Steps(TrainerCallback):
    """Seeds each step, writes it down, and has it published; a step is one update or more."""

    def __init__(
        self,
        diary: Diary,
        publisher: Publisher,
        stop: StopRequest,
    ) -> None:
        self._diary = diary
        self._publisher = publisher
        self._stop = stop
        self._logs: list[dict[str, Any]] = []
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seed: a step's draws follow from its number, so that a resumed stage draws the same."""
        if state.global_step % self._diary.batch.updates:
            return
        task = self._diary.task
        rank = ranks().process_index
        parts = (task.seed, task.iteration, task.stage, "step", self._diary.step, rank)
        set_seed(derive_seed(*parts))
        self._logs = []
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save where it is due or asked for; the last step goes into the final checkpoint."""
        if state.global_step % self._diary.batch.updates:
            return
        training, step = self._diary.task.training, self._diary.step
        # All ranks have to stop at the same step, whichever was told.
        stop = any(gathered([self._stop.made]))
        if step < training.steps:
            control.should_save = stop or step % training.checkpoint_every == 0
            control.should_training_stop = stop

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """TRL logs after each update; with the last one the step is done."""
        logs: dict[str, Any] = given["logs"]
        if "loss" not in logs:
            return
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["grad_norm"])):
            # The same draws would lead there again, so this must not be retried.
            raise BadConfiguration(
                f"step {self._diary.step}: the loss is {logs['loss']}, its gradient "
                f"{logs['grad_norm']}; lower {role(self._diary.task)}.learningRate"
            )
        self._logs.append(logs)
        if state.global_step % self._diary.batch.updates == 0:
            seconds = time.perf_counter() - self._started
            self._diary.close_step(_means_of_logs(self._logs) | {"seconds": seconds})
            if state.is_world_process_zero:
                row = self._diary.rows[-1]
                progress.report(row.step, self._diary.task.training.steps, "steps", **row.metrics)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """TRL has written a checkpoint: publish it while training goes on."""
        ranks().wait_for_everyone()
        if state.is_world_process_zero:
            step = len(self._diary.rows)
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_jsonl(folder / ROWS, self._diary.rows)
            self._publisher.publish(folder, self._diary.manifest(step), step)


_LOGGED = {
    "reward": "reward",
    "reward_std": "rewardDeviation",
    "loss": "loss",
    "grad_norm": "gradientNorm",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clippedShare",
    "completions/mean_length": "completionLength",
    "completions/clipped_ratio": "truncatedShare",
}
"""TRL's names of what a step row keeps, and ours."""


def _means_of_logs(logs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What TRL measured in the updates of a step; some of it in the first one only."""
    series = {
        ours: [log[theirs] for log in logs if log.get(theirs) is not None]
        for theirs, ours in _LOGGED.items()
    }
    return {name: float(np.mean(values)) for name, values in series.items() if values}


def role(task: TrainingTask) -> str:
    """The part of the spec that the training comes from."""
    return "challenger" if isinstance(task, TrainChallengerTask) else "solver"
