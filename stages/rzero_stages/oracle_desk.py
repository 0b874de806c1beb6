"""Gets the oracle's answers, from what was paid before or from its endpoint, and judges by them.

Every answer that was paid is in storage before the next batch is asked for, so that a lost pod
loses one batch at most.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rzero_core import answers
from rzero_core.manifest import Manifest
from rzero_core.records import (
    JudgedProbe,
    LabeledQuestion,
    OracleAnswers,
    Verdict,
    write_jsonl,
)
from rzero_core.run import Oracle
from rzero_core.store import ArtifactStore
from rzero_core.task import BadData, BuildCurriculumTask, derive_seed
from rzero_stages import audit_archive, progress
from rzero_stages.audit_archive import ANSWERS
from rzero_stages.checkpoints import step_prefix
from rzero_stages.oracle_endpoint import Draw, OracleEndpoint
from rzero_stages.oracle_identity import identity, is_ill_posed
from rzero_stages.published import scratch, versions

_BATCH = 64
"""Answers that are asked for together and then brought to safety: what a lost pod can cost."""
_CALLS = "oracleCalls"
"""Metric: calls of all attempts, also those that brought no answer."""
_TOKENS = "oracleTokens"
"""Metric: tokens of these calls, of prompts and answers."""
_PROBES = 100
"""Probes with a right label that the oracle is asked, and as many with a wrong one."""

log = logging.getLogger(__name__)


class OracleDesk:
    """Gets answers, from what was paid before or from the endpoint, and makes verdicts of them."""

    def __init__(
        self, task: BuildCurriculumTask, store: ArtifactStore, oracle: Oracle, first_pause: float
    ) -> None:
        self._task = task
        self._store = store
        self._oracle = oracle
        self.identity = identity(oracle)
        """Names the oracle in its verdicts."""
        self._endpoint = OracleEndpoint(oracle, task.seed, first_pause)
        self._known: dict[str, list[str | None]] = {}
        self._why: dict[str, str] = {}
        self._used: dict[str, None] = {}
        self._prefix = f"{task.prefix}/oracle"
        self._step = 0
        if task.previous is not None:
            self._take(_published(store, task.previous))
        self._free = {id: len(known) for id, known in self._known.items()}
        for step in store.steps(self._prefix):
            # A damaged step keeps its number, which what is saved next must not take.
            self._step = step
            prefix = step_prefix(self._prefix, step)
            self._take(_published(store, prefix))
            # All calls of earlier attempts count against the budget, also those that failed.
            spent = _spent(store, prefix)
            self._endpoint.calls = max(self._endpoint.calls, int(spent.get(_CALLS, 0.0)))
            self._endpoint.tokens = max(self._endpoint.tokens, int(spent.get(_TOKENS, 0.0)))
        self._calls_saved = self._endpoint.calls

    def verdicts(self, questions: Sequence[LabeledQuestion]) -> dict[str, Verdict]:
        """The verdict on each label, by the question's id."""
        # In an order of chance, so that what the budget or an outage cuts off is a random part.
        seed = self._task.seed
        questions = sorted(questions, key=lambda q: (derive_seed(seed, "order", q.id), q.id))
        majorities = self._solve([(question.id, question.text) for question in questions])
        pairs = [(q.label, majorities[q.id]) for q in questions]
        right = answers.grade_all([(a, None if is_ill_posed(b) else b) for a, b in pairs])
        return {
            question.id: Verdict(
                id=question.id,
                text=question.text,
                label=question.label,
                agreement=question.agreement,
                auditor=self.identity,
                right=None if truth is None else is_right,
                truth=truth,
                answers=self._known.get(question.id, []),
                why=self._why.get(question.id, "no majority") if truth is None else None,
            )
            for question, (_, truth), is_right in zip(questions, pairs, right, strict=True)
        }

    def probe_verdicts(self, probes: Sequence[JudgedProbe]) -> list[JudgedProbe]:
        """The probes, the first ones of either kind with the oracle's verdict on their label."""
        asked = [p for p in probes if p.right is True][:_PROBES]
        asked += [p for p in probes if p.right is False][:_PROBES]
        majorities = self._solve([(probe.id, probe.text) for probe in asked])
        agrees = answers.grade_all([(probe.label, majorities[probe.id]) for probe in asked])
        says = {
            probe.id: agree
            for probe, agree in zip(asked, agrees, strict=True)
            if majorities[probe.id] is not None
        }
        return [
            probe.model_copy(update={"oracle_says_right": says.get(probe.id)}) for probe in probes
        ]

    def affordable(self, besides: Sequence[LabeledQuestion] = ()) -> int:
        """How many more questions the budget can pay all draws of; 0 if no answer comes at all.

        What a lost attempt paid for those of `besides` that were not asked about yet counts as if
        it was left, so that this attempt decides as that one did. It does so also where no answer
        comes any more, since these are there.
        """
        paid = sum(
            len(self._known.get(question.id, [])) - self._free.get(question.id, 0)
            for question in besides
            if question.id not in self._used
        )
        return (self._endpoint.affordable() + paid) // self._oracle.samples

    def unanswered(self, questions: Sequence[LabeledQuestion]) -> int:
        """How many of the questions would be put to the oracle, since no answers were paid yet."""
        return len({draw.id for draw in self._draws([(q.id, q.text) for q in questions])})

    def rows(self) -> list[OracleAnswers]:
        """The answers to all that was asked."""
        return self._rows(self._used)

    def metrics(self) -> dict[str, float]:
        """What it cost, and how many answers of the iteration before were used again at no cost."""
        return {
            "oracleReused": sum(self._free.get(id, 0) for id in self._used),
            _CALLS: self._endpoint.calls,
            _TOKENS: self._endpoint.tokens,
            "oracleSeconds": round(self._endpoint.seconds, 3),
        }

    def _solve(self, questions: Sequence[tuple[str, str]]) -> dict[str, str | None]:
        """The oracle's strict majority answer to each question (id, text); None: it abstains."""
        self._used |= dict.fromkeys(id for id, _ in questions)
        counter = progress.Counter(len(questions), "verdicts")
        size = max(1, _BATCH // self._oracle.samples)
        for start in range(0, len(questions), size):
            batch = questions[start : start + size]
            self._ask(batch)
            counter.advance(len(batch))
        ids = [id for id, _ in questions]
        return dict(zip(ids, self._majorities(ids), strict=True))

    def _ask(self, batch: Sequence[tuple[str, str]]) -> None:
        """Draw answers until every question is decided or has no draw left."""
        fresh: set[str] = set()
        while True:
            draws = self._draws(batch)
            if not draws:
                break
            for draw, reply in zip(draws, self._endpoint.ask(draws), strict=True):
                if reply.why is not None:
                    self._why[draw.id] = reply.why
                else:
                    self._known.setdefault(draw.id, []).append(reply.answer)
                    fresh.add(draw.id)
        self._save(fresh)

    def _draws(self, batch: Sequence[tuple[str, str]]) -> list[Draw]:
        """The fewest draws after which questions can be decided; none after a failed one."""
        draws: list[Draw] = []
        votes = answers.vote_all([self._known.get(id, []) for id, _ in batch])
        for (id, text), vote in zip(batch, votes, strict=True):
            cast = len(self._known.get(id, []))
            largest = max(vote.counts.values(), default=0)
            missing = self._oracle.samples // 2 + 1 - largest
            left = self._oracle.samples - cast
            if id not in self._why and 0 < missing <= left:
                draws += [Draw(id, text, cast + number) for number in range(missing)]
        return draws

    def _majorities(self, ids: Sequence[str]) -> list[str | None]:
        votes = answers.vote_all([self._known.get(id, []) for id in ids])
        needed = self._oracle.samples // 2 + 1
        return [v.label if max(v.counts.values(), default=0) >= needed else None for v in votes]

    def _rows(self, ids: Iterable[str]) -> list[OracleAnswers]:
        return [
            OracleAnswers(id=id, oracle=self.identity, answers=self._known[id])
            for id in ids
            if id in self._known
        ]

    def _take(self, rows: Iterable[OracleAnswers]) -> None:
        """Take over answers of this very oracle."""
        for row in rows:
            have = self._known.get(row.id, [])
            if row.oracle == self.identity and len(row.answers) > len(have):
                self._known[row.id] = list(row.answers)

    def _save(self, ids: set[str]) -> None:
        """Bring new answers, and what was spent on calls, to safety: an artifact of its own."""
        if self._endpoint.calls == self._calls_saved:
            return
        self._calls_saved = self._endpoint.calls
        self._step += 1
        task, now = self._task, datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest(
            run=task.run,
            iteration=task.iteration,
            stage=task.stage,
            round=task.round,
            step=self._step,
            attempt=task.attempt,
            seed=task.seed,
            versions=versions(),
            metrics={_CALLS: self._calls_saved, _TOKENS: self._endpoint.tokens},
            seconds=0.0,
            started_at=now,
            finished_at=now,
        )
        with scratch() as folder:
            write_jsonl(folder / ANSWERS, self._rows(sorted(ids)))
            self._store.publish(folder, manifest, step_prefix(self._prefix, self._step))


def _published(store: ArtifactStore, prefix: str) -> list[OracleAnswers]:
    """The answers of an artifact; none where there are none, or they are damaged."""
    try:
        return audit_archive.rows(store, prefix, ANSWERS, OracleAnswers)
    except BadData as error:
        log.warning("answers of the oracle are asked for again: %s", error)
        return []


def _spent(store: ArtifactStore, prefix: str) -> dict[str, float]:
    """What had been spent when a step was saved; nothing is known where its manifest is damaged."""
    try:
        saved = store.manifest(prefix)
    except BadData:
        return {}
    return saved.metrics if saved is not None else {}
