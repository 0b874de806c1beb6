"""The Challenger is rewarded for questions on which the Solver's votes split."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rzero_core.records import StepRow, read_jsonl
from rzero_core.run import (
    Baseline,
    Challenger,
    Labels,
    Prompt,
    Prompts,
    Questions,
    RewardForm,
    SamplerBackend,
    Sampling,
    Storage,
)
from rzero_core.store import ArtifactStore
from rzero_core.task import BadData, RunRef, TrainChallengerTask
from rzero_stages import train_challenger
from rzero_stages.sampler import Completion, Messages

MODEL = str(Path(__file__).parents[2] / "examples" / "tiny" / "model")
SHORT = Sampling(max_tokens=32)


def make_task(root: Path, user: str = "Write a sum.", **training: Any) -> TrainChallengerTask:
    values = {
        "steps": 2,
        "batch_size": 16,
        "group_size": 2,
        "micro_batch_size": 32,
        "learning_rate": 1e-4,
        "sampling": SHORT,
    }
    storage = Storage(uri=str(root))
    return TrainChallengerTask(
        run=RunRef(name="test", uid="0123456789"),
        iteration=1,
        seed=0,
        storage=storage,
        prefix=f"{storage.uri}/trainChallenger",
        prompts=Prompts(challenger=Prompt(user=user), solver=Prompt(user="{question}")),
        sampler=SamplerBackend.TRANSFORMERS,
        challenger=MODEL,
        solver=MODEL,
        base_model=MODEL,
        training=Challenger.model_validate(values | training),
        labels=Labels(votes=4, sampling=SHORT),
        questions=Questions(count=10, shards=1, max_characters=60),
    )


class Recited:
    """A Solver that gives each question the answers it was told to, None for one without a box."""

    def __init__(self, answers: dict[str, list[str | None]]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.seeds: list[int] = []

    def sample(
        self,
        prompts: Sequence[Messages],
        n: int,
        sampling: Sampling,
        seed: int,
        greedy: bool = False,
    ) -> list[list[Completion]]:
        self.seeds.append(seed)
        self.asked += [messages[-1]["content"] for messages in prompts]
        texts = [
            ["no idea" if a is None else f"It is \\boxed{{{a}}}." for a in self.answers[question]]
            for question in self.asked[-len(prompts) :]
        ]
        return [[Completion(text, 5, True) for text in group[:n]] for group in texts]


def written(question: str) -> str:
    return f"Let me see. <question>{question}</question> \\boxed{{1}}"


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., tuple[list[float], dict[str, float], Recited]]:
    def scoring(
        answers: dict[str, list[str | None]], texts: Sequence[str], **training: Any
    ) -> tuple[list[float], dict[str, float], Recited]:
        solver = Recited(answers)
        reward = train_challenger.WaveringReward(make_task(tmp_path, **training), solver)
        scores = reward(1, texts, [0] * len(texts))
        return list(scores.rewards), dict(scores.metrics), solver

    return scoring


Score = Callable[..., tuple[list[float], dict[str, float], Recited]]


def test_a_split_vote_earns_more_than_a_unanimous_one_and_no_question_earns_nothing(
    score: Score,
) -> None:
    answers: dict[str, list[str | None]] = {
        "What is 3 to the power 7?": ["1", "1", "2", "3"],
        "Name a prime between 8 and 12": ["11", "11", "11", "11"],
    }
    texts = [*map(written, answers), "no tags here"]
    rewards, metrics, _ = score(answers, texts)
    # Each repeats only itself: a third of the batch.
    assert rewards == pytest.approx([1 - 1 / 3, 0.0, 0.0])
    assert metrics["agreement"] == pytest.approx(0.75)
    assert metrics["uncertainty"] == pytest.approx(1 / 3)
    assert metrics["valid"] + metrics["noQuestionBlock"] == metrics["completions"] == 3


def test_answers_without_a_box_abstain_but_stay_in_the_denominator(score: Score) -> None:
    rewards, metrics, _ = score({"1+1": ["2", "2", None, None]}, [written("1+1")] + ["none"] * 9)
    assert rewards[0] == pytest.approx(1.0 - 0.1)
    assert metrics["abstained"] == 2
    _, metrics, _ = score({"1+1": [None] * 4}, [written("1+1")] + ["none"] * 9)
    assert metrics["agreement"] == 0.0


def test_equal_questions_share_their_votes_and_are_penalized_for_it(score: Score) -> None:
    texts = [written("What is 17 times 23?")] * 3 + [written("How many primes are below 100?")]
    answers: dict[str, list[str | None]] = {
        "What is 17 times 23?": ["1", "1", "2", "3"],
        "How many primes are below 100?": ["25", "25", "24", "26"],
    }
    rewards, metrics, solver = score(answers, texts)
    assert solver.asked == list(answers)
    assert rewards == pytest.approx([1 - 3 / 4] * 3 + [1 - 1 / 4])
    assert metrics["repetition"] == pytest.approx((3 * 3 / 4 + 1 / 4) / 4)


def test_what_is_no_question_is_counted_by_its_reason(score: Score) -> None:
    texts = [written("1+1"), written(""), written("9" * 61), "<question>2"]
    _, metrics, _ = score({"1+1": ["2"] * 4}, texts)
    reasons = {"noQuestionBlock": 1, "emptyQuestion": 1, "tooLong": 1}
    assert {name: metrics[name] for name in reasons} == reasons
    assert metrics["valid"] == 1


def test_the_reference_form_punishes_what_is_no_question(score: Score) -> None:
    texts = [written("1+1"), "nothing"]
    rewards, _, _ = score({"1+1": ["2", "2", "3", "4"]}, texts, reward=RewardForm.REFERENCE)
    assert rewards == pytest.approx([0.5 - 0.5, -1 - 0.5])


def test_the_votes_of_a_step_depend_on_its_number(tmp_path: Path) -> None:
    seeds = []
    for step in (1, 2, 1):
        solver = Recited({"1+1": ["2"] * 4})
        reward = train_challenger.WaveringReward(make_task(tmp_path), solver)
        reward(step, [written("1+1")], [0])
        seeds += solver.seeds
    assert seeds[0] == seeds[2] != seeds[1]


@pytest.mark.parametrize("baseline", list(Baseline))
def test_training_publishes_a_checkpoint_and_counts_every_completion(
    baseline: Baseline, tmp_path: Path
) -> None:
    task = make_task(tmp_path, baseline=baseline)
    store = ArtifactStore(task.storage)
    result = train_challenger.run(task, store)
    metrics = result.metrics
    dropped = sum(metrics[reason] for reason in ("noQuestionBlock", "emptyQuestion", "tooLong"))
    assert metrics["valid"] + dropped == metrics["completions"] == 2 * 16 * 2
    assert metrics["votes"] == 4 * metrics["valid"] > 0
    assert 0 < metrics["uncertaintyFirst"] <= 1
    assert result.outputs == {"checkpoint": task.prefix}
    assert store.model(task.prefix) == Path(task.prefix)
    assert len(list(read_jsonl(Path(task.prefix) / "steps.jsonl", StepRow))) == 2
    assert train_challenger.run(task, store) == result


def test_a_challenger_that_writes_no_question_is_an_error_that_says_what_to_change(
    tmp_path: Path,
) -> None:
    task = make_task(tmp_path, user="12+34")
    with pytest.raises(
        BadData, match=r"no valid question in 64 completions .*noQuestionBlock.*prompts.challenger"
    ):
        train_challenger.run(task, ArtifactStore(task.storage))
