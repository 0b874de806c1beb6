"""The Solver learns from labels, stops at any step and goes on to the same weights."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rzero_core.records import LabeledQuestion, Question, StepRow, read_jsonl, write_jsonl
from rzero_core.run import (
    KlReference,
    Lora,
    Prompt,
    Prompts,
    SamplerBackend,
    Sampling,
    Solver,
    Stage,
    Storage,
)
from rzero_core.store import ArtifactStore, Manifest
from rzero_core.task import (
    BadConfiguration,
    BadData,
    RunRef,
    StageResult,
    TrainSolverTask,
    TryAgain,
)
from rzero_stages import grpo, steps, train_solver

MODEL = str(Path(__file__).parents[2] / "examples" / "tiny" / "model")
RUN = RunRef(name="test", uid="0123456789")
TRAINING = Solver(
    steps=6,
    batch_size=4,
    group_size=4,
    update_batch_size=2,
    micro_batch_size=8,
    learning_rate=1e-4,
    checkpoint_every=2,
    sampling=Sampling(max_tokens=32),
)


def prepare(root: Path, training: Solver = TRAINING, questions: int = 10) -> TrainSolverTask:
    """A task whose curriculum is published."""
    rows = []
    for number in range(questions):
        question = Question.of(f"{number + 87}+{13 * number + 5}")
        label = str(14 * number + 92)
        rows.append(LabeledQuestion(id=question.id, text=question.text, label=label, agreement=0.5))
    folder = root / "rows"
    folder.mkdir(parents=True)
    write_jsonl(folder / "curriculum.jsonl", rows)
    manifest = Manifest(
        run=RUN,
        iteration=1,
        stage=Stage.BUILD_CURRICULUM,
        seed=0,
        seconds=0.0,
        started_at="2025-01-01T00:00:00Z",
        finished_at="2025-01-01T00:00:00Z",
    )
    storage = Storage(uri=str(root / "store"))
    ArtifactStore(storage).publish(folder, manifest, f"{storage.uri}/curriculum")
    return TrainSolverTask(
        run=RUN,
        iteration=1,
        seed=0,
        storage=storage,
        prefix=f"{storage.uri}/trainSolver",
        prompts=Prompts(solver=Prompt(user="{question}")),
        sampler=SamplerBackend.TRANSFORMERS,
        solver=MODEL,
        base_model=MODEL,
        curriculum=f"{storage.uri}/curriculum",
        training=training,
    )


def run(task: TrainSolverTask) -> StageResult:
    return train_solver.run(task, ArtifactStore(task.storage))


def steps_of(task: TrainSolverTask) -> list[StepRow]:
    return list(read_jsonl(Path(task.prefix) / "steps.jsonl", StepRow))


def weights_of(task: TrainSolverTask) -> bytes:
    return (Path(task.prefix) / "model.safetensors").read_bytes()


def timeless(rows: Sequence[StepRow]) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.metrics.items() if "econd" not in name} for row in rows
    ]


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM arrives while `step` is scored."""
    score = train_solver.LabelReward.__call__

    def scoring(self: train_solver.LabelReward, at: int, *rest: Sequence[object]) -> steps.Scores:
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(self, at, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(train_solver.LabelReward, "__call__", scoring)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrainSolverTask:
    task = prepare(tmp_path_factory.mktemp("undisturbed"))
    run(task)
    return task


def test_training_publishes_a_model_that_differs_from_its_start_and_the_story_of_its_steps(
    undisturbed: TrainSolverTask,
) -> None:
    result = run(undisturbed)
    rows = steps_of(undisturbed)
    assert [row.step for row in rows] == [1, 2, 3, 4, 5, 6]
    assert result.outputs == {"checkpoint": undisturbed.prefix}
    assert result.metrics["completions"] == 6 * 4 * 4
    assert result.metrics["right"] == sum(row.metrics["right"] for row in rows)
    assert 0 < result.metrics["rewardLast"] <= 1
    assert len(result.to_json()) < 4096
    trained = AutoModelForCausalLM.from_pretrained(undisturbed.prefix)
    start = AutoModelForCausalLM.from_pretrained(MODEL)
    difference = max(
        float((a - b).abs().max().detach())
        for a, b in zip(trained.parameters(), start.parameters(), strict=True)
    )
    assert 0 < difference < 1e-2


def test_a_finished_stage_answers_from_its_manifest(undisturbed: TrainSolverTask) -> None:
    gone = undisturbed.model_copy(update={"curriculum": "/nowhere", "solver": "/nowhere"})
    assert run(gone) == run(undisturbed)


def test_step_checkpoints_are_deleted_when_the_stage_is_published(
    undisturbed: TrainSolverTask,
) -> None:
    assert ArtifactStore(undisturbed.storage).steps(undisturbed.prefix) == []


def test_a_stage_stopped_by_sigterm_goes_on_to_the_very_same_weights(
    undisturbed: TrainSolverTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = prepare(tmp_path)
    with monkeypatch.context() as patch:
        interrupt(patch, step=5)
        with pytest.raises(TryAgain, match="after step 5"):
            run(task)
    # The last two are kept: that of checkpointEvery, and that of the stop.
    assert ArtifactStore(task.storage).steps(task.prefix) == [4, 5]
    run(task)
    assert weights_of(task) == weights_of(undisturbed)
    assert timeless(steps_of(task)) == timeless(steps_of(undisturbed))


def test_a_damaged_step_checkpoint_is_passed_over_for_the_one_before(
    undisturbed: TrainSolverTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = prepare(tmp_path)
    with monkeypatch.context() as patch:
        interrupt(patch, step=3)
        with pytest.raises(TryAgain):
            run(task)
    damaged = Path(task.prefix) / "step-0003" / "optimizer.pt"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    run(task)
    assert weights_of(task) == weights_of(undisturbed)


def test_too_small_a_curriculum_is_an_error_that_says_what_to_change(tmp_path: Path) -> None:
    task = prepare(tmp_path, questions=3)
    with pytest.raises(BadData, match=r"has 3 questions, fewer than solver.batchSize 4.*lower"):
        run(task)


def test_a_loss_that_is_no_number_stops_the_stage(tmp_path: Path) -> None:
    task = prepare(tmp_path, TRAINING.model_copy(update={"kl_coefficient": 1e300}))
    with pytest.raises(BadConfiguration, match=r"the loss is .* lower solver\.learningRate"):
        run(task)
    assert ArtifactStore(task.storage).manifest(task.prefix) is None


def test_adapters_are_merged_into_a_plain_model(tmp_path: Path) -> None:
    update = {"lora": Lora(rank=2, alpha=4), "steps": 2, "learning_rate": 1e-2}
    task = prepare(tmp_path, TRAINING.model_copy(update=update))
    run(task)
    assert not (Path(task.prefix) / "adapter_config.json").exists()
    trained = AutoModelForCausalLM.from_pretrained(task.prefix).state_dict()
    start = AutoModelForCausalLM.from_pretrained(MODEL).state_dict()
    assert trained.keys() == start.keys()
    assert any(not torch.equal(trained[name], start[name]) for name in start)


def test_the_kl_term_is_measured_from_the_start_or_from_the_base_model(
    undisturbed: TrainSolverTask, tmp_path: Path
) -> None:
    divergences = {}
    for reference in KlReference:
        update = {"kl_reference": reference, "steps": 1, "update_batch_size": 4}
        task = prepare(tmp_path / reference, TRAINING.model_copy(update=update))
        run(task.model_copy(update={"base_model": undisturbed.prefix}))
        divergences[reference] = steps_of(task)[0].metrics["kl"]
    # Before its first update the model is what it started from.
    assert divergences[KlReference.STAGE_START] == pytest.approx(0.0, abs=1e-9)
    assert divergences[KlReference.BASE_MODEL] > 1e-6


@pytest.mark.parametrize(
    ("training", "ranks", "expected"),
    [
        (TRAINING, 1, steps.Batch(completions=16, updates=2, micro=8, accumulation=1)),
        (TRAINING, 2, steps.Batch(completions=16, updates=2, micro=4, accumulation=1)),
        (
            Solver(batch_size=6, group_size=5, micro_batch_size=7),
            1,
            steps.Batch(completions=30, updates=1, micro=6, accumulation=5),
        ),
    ],
)
def test_micro_batches_divide_what_a_rank_has_in_an_update(
    training: Solver, ranks: int, expected: steps.Batch
) -> None:
    assert steps.Batch.cut(training, ranks) == expected


def test_ranks_that_cannot_share_an_update_are_refused() -> None:
    with pytest.raises(BadConfiguration, match=r"8 completions of an update .* 3 processes"):
        steps.Batch.cut(TRAINING, 3)


def test_every_question_comes_once_before_any_comes_again() -> None:
    order = grpo.row_order(5, 12, 0, 1, "trainSolver")
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert len(order) == 12
    assert order != grpo.row_order(5, 12, 0, 2, "trainSolver")
