"""Trains the Challenger against the frozen Solver: GRPO that rewards questions it wavers on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rzero_core import answers, prompts
from rzero_core.prompts import ParsedQuestion, Rejection
from rzero_core.rewards import challenger_reward, uncertainty
from rzero_core.run import Baseline, SamplerBackend
from rzero_core.store import ArtifactStore
from rzero_core.task import BadData, StageResult, TrainChallengerTask, derive_seed
from rzero_stages import grpo
from rzero_stages.published import already
from rzero_stages.sampler import Sampler
from rzero_stages.sampling import open_sampler
from rzero_stages.steps import Scores, gathered, ranks

COMPLETIONS_WITHOUT_A_QUESTION = 512
"""After so many the stage gives up: with equal rewards for all there is nothing to learn."""


def run(task: TrainChallengerTask, store: ArtifactStore) -> StageResult:
    """Train, publish the checkpoint and report; raises `BadData` if no question is ever written."""
    if (result := already(task, store, task.prefix)) is not None:
        return result
    training = task.training
    solver = _open_solver(task, store)
    prompt = task.prompts.challenger or prompts.CHALLENGER_PROMPT
    # All prompts are the same, so the whole batch can be the group that rewards are compared in.
    whole = training.baseline is Baseline.BATCH
    groups = 1 if whole else training.batch_size
    lessons = grpo.Lessons(
        conversations=[prompts.challenger_messages(prompt)],
        order=[0] * (training.steps * groups),
        group=training.batch_size * training.group_size // groups,
        reward=WaveringReward(task, solver),
    )
    return grpo.train(task, store, task.challenger, lessons, [task.challenger, task.solver])


def _open_solver(task: TrainChallengerTask, store: ArtifactStore) -> Sampler:
    """The frozen Solver: the server beside this stage, else in this process.

    Not by vLLM there: on a GPU its engine takes the memory that training needs.
    """
    if task.solver_endpoint is not None:
        return open_sampler(task.sampler, None, task.solver_endpoint)
    with ranks().local_main_process_first():
        return open_sampler(SamplerBackend.TRANSFORMERS, store.model(task.solver))


@dataclass(frozen=True)
class Judged:
    """What became of one completion."""

    question: str | None
    rejection: Rejection | None
    agreement: float
    """0 where there is no question."""
    abstained: int
    """Votes without an answer."""


class WaveringReward:
    """Lets the frozen Solver vote on each question, and rewards agreement near one half."""

    counts = frozenset({"completions", "valid", "votes", "abstained", *map(str, Rejection)})
    trends = ("uncertainty", "agreement", "repetition", "validShare")

    def __init__(self, task: TrainChallengerTask, solver: Sampler) -> None:
        self._task = task
        self._solver = solver
        self._empty_handed = 0

    def __call__(self, step: int, texts: Sequence[str], rows: Sequence[int]) -> Scores:
        """See `steps.Reward`. The repetition penalty is over the completions of all ranks."""
        mine = self._judge(step, texts)
        judged: list[Judged] = gathered(mine)
        training = self._task.training
        rewards = challenger_reward(
            [one.question for one in judged],
            [one.agreement for one in judged],
            training.reward,
            repetition_weight=training.repetition_weight,
            repetition_threshold=training.repetition_threshold,
            similarity=training.similarity,
        )
        self._expect_a_question(judged, step)
        first = ranks().process_index * len(mine)
        return Scores(
            rewards.total[first : first + len(mine)].tolist(),
            self._metrics(judged) | {"repetition": float(-rewards.terms["repetition"].mean())},
        )

    def _judge(self, step: int, texts: Sequence[str]) -> list[Judged]:
        """Parse, and let the Solver vote; equal questions share their votes."""
        limit = self._task.questions.max_characters
        parsed = [prompts.parse_question(text, limit) for text in texts]
        valid = [item for item in parsed if isinstance(item, ParsedQuestion)]
        votes = self._vote(step, list(dict.fromkeys(item.question for item in valid)))
        return [
            Judged(
                item.question, None, votes[item.question].agreement, votes[item.question].abstained
            )
            if isinstance(item, ParsedQuestion)
            else Judged(None, item, 0.0, 0)
            for item in parsed
        ]

    def _vote(self, step: int, questions: Sequence[str]) -> dict[str, answers.Vote]:
        if not questions:
            return {}
        task = self._task
        prompt = task.prompts.solver or prompts.SOLVER_PROMPT
        drawn = self._solver.sample(
            [prompts.solver_messages(prompt, question) for question in questions],
            task.labels.votes,
            task.labels.sampling,
            derive_seed(
                task.seed, task.iteration, task.stage, "votes", step, ranks().process_index
            ),
        )
        votes = answers.vote_all(
            [[answers.extract(completion.text) for completion in group] for group in drawn]
        )
        return dict(zip(questions, votes, strict=True))

    def _metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Means over valid questions, but of uncertainty over all: a malformed one earns none."""
        agreements = [one.agreement for one in judged if one.question is not None]
        rejections = Counter(one.rejection for one in judged if one.rejection is not None)
        return {
            "completions": len(judged),
            "valid": len(agreements),
            "validShare": len(agreements) / len(judged),
            "votes": len(agreements) * self._task.labels.votes,
            "abstained": sum(one.abstained for one in judged),
            "agreement": float(np.mean(agreements)) if agreements else 0.0,
            "uncertainty": float(uncertainty(agreements).sum()) / len(judged),
        } | {reason.value: rejections[reason] for reason in Rejection}

    def _expect_a_question(self, judged: Sequence[Judged], step: int) -> None:
        if any(one.question is not None for one in judged):
            self._empty_handed = 0
            return
        self._empty_handed += len(judged)
        if (
            self._empty_handed >= COMPLETIONS_WITHOUT_A_QUESTION
            or step == self._task.training.steps
        ):
            reasons = Counter(one.rejection for one in judged)
            raise BadData(
                f"the Challenger wrote no valid question in {self._empty_handed} completions "
                f"(mostly {reasons.most_common(1)[0][0]}); give it prompts.challenger that it can "
                "follow, raise challenger.sampling.maxTokens, or start from another model"
            )
