"""Trains the Solver on the curriculum: GRPO that rewards the majority's answers."""

from collections.abc import Sequence

from rzero_core import answers, prompts
from rzero_core.records import LabeledQuestion, read_jsonl
from rzero_core.rewards import solver_reward
from rzero_core.store import ArtifactStore
from rzero_core.task import BadData, StageResult, TrainSolverTask
from rzero_stages import grpo
from rzero_stages.published import already
from rzero_stages.steps import Scores, gathered

CURRICULUM = "curriculum.jsonl"


def run(task: TrainSolverTask, store: ArtifactStore) -> StageResult:
    """Train, publish the checkpoint and report; `BadData` if there is no batch of questions."""
    if (result := already(task, store, task.prefix)) is not None:
        return result
    training = task.training
    questions = list(
        read_jsonl(store.local(task.curriculum, [CURRICULUM]) / CURRICULUM, LabeledQuestion)
    )
    if len(questions) < training.batch_size:
        raise BadData(
            f"{task.curriculum}/{CURRICULUM} has {len(questions)} questions, fewer than "
            f"solver.batchSize {training.batch_size}; lower that, or start a run of another name "
            "with a larger questions.count or a wider labels.minAgreement to labels.maxAgreement"
        )
    prompt = task.prompts.solver or prompts.SOLVER_PROMPT
    lessons = grpo.Lessons(
        conversations=[prompts.solver_messages(prompt, question.text) for question in questions],
        order=grpo.row_order(
            len(questions),
            training.steps * training.batch_size,
            *(task.seed, task.iteration, task.stage),
        ),
        group=training.group_size,
        reward=LabelReward(questions, training.format_weight),
    )
    return grpo.train(task, store, task.solver, lessons, [task.solver, task.curriculum])


class LabelReward:
    """1 for an answer equal to the label, else 0; with a share for the asked form (section 3.3)."""

    counts = frozenset({"completions", "right", "boxed"})
    trends = ("rightShare", "boxedShare")

    def __init__(self, questions: Sequence[LabeledQuestion], format_weight: float) -> None:
        self._questions = questions
        self._format_weight = format_weight

    def __call__(self, step: int, texts: Sequence[str], rows: Sequence[int]) -> Scores:
        """See `steps.Reward`."""
        extracted = [answers.extract(text) for text in texts]
        labels = [self._questions[row].label for row in rows]
        matches = answers.grade_all(list(zip(extracted, labels, strict=True)))
        boxed = [answer is not None for answer in extracted]
        rewards = solver_reward(matches, boxed, self._format_weight)
        outcomes = gathered(list(zip(matches, boxed, strict=True)))
        right, formed = (sum(column) for column in zip(*outcomes, strict=True))
        return Scores(
            rewards.tolist(),
            {
                "completions": len(outcomes),
                "right": right,
                "boxed": formed,
                "rightShare": right / len(outcomes),
                "boxedShare": formed / len(outcomes),
            },
        )
