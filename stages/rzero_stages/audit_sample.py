"""Draws random samples of a curriculum by agreement, for an oracle to judge, and counts verdicts.

An oracle costs money, so it sees a few hundred labels, as evenly spread as chance allows.
"""

import random
from collections.abc import Collection, Mapping, Sequence

from rzero_core.label_accuracy import AuditedStratum, allocate
from rzero_core.records import LabeledQuestion, Verdict

_PER_STRATUM = 20


class Strata:
    """The questions of a curriculum by tenths of agreement, each stratum in an order of chance.

    Neighbors are joined where a sample of `size` could not reach 20 questions of each. The
    questions in `first`, a random sample of an earlier draw, come first in their stratum.
    """

    def __init__(
        self,
        questions: Sequence[LabeledQuestion],
        size: int,
        seed: int,
        first: Collection[str] = (),
    ) -> None:
        tenths: dict[int, list[LabeledQuestion]] = {}
        for question in questions:
            tenths.setdefault(int(10 * question.agreement + 0.5), []).append(question)
        self._strata = [tenths[tenth] for tenth in sorted(tenths)]
        self._join(max(1, size // _PER_STRATUM))
        draw = random.Random(seed)
        for stratum in self._strata:
            stratum.sort(key=lambda question: question.id)
            draw.shuffle(stratum)
            stratum.sort(key=lambda question: question.id not in first)
        self._drawn = [sum(q.id in first for q in stratum) for stratum in self._strata]

    @property
    def sample(self) -> list[LabeledQuestion]:
        """What was drawn so far; at first, `first`."""
        return self._first(self._drawn)

    def larger(self, size: int) -> list[LabeledQuestion]:
        """The sample that `enlarge` would leave."""
        return self._first(self._enlarged(size))

    def enlarge(self, size: int) -> None:
        """Draw more, up to `size`, in proportion and 20 of each stratum at least.

        The sample holds the one before. It may be larger than `size`, where that one had more of a
        stratum.
        """
        self._drawn = self._enlarged(size)

    def audited(self, verdicts: Mapping[str, Verdict]) -> list[AuditedStratum]:
        """The verdicts on the sample, counted by stratum."""
        found = []
        for stratum, drawn in zip(self._strata, self._drawn, strict=True):
            says = [verdicts[question.id].right for question in stratum[:drawn]]
            counts = (says.count(True), says.count(False), says.count(None))
            found.append(AuditedStratum(len(stratum), *counts))
        return found

    def _enlarged(self, size: int) -> list[int]:
        counts = allocate([len(stratum) for stratum in self._strata], size, _PER_STRATUM)
        return [max(before, count) for before, count in zip(self._drawn, counts, strict=True)]

    def _first(self, counts: Sequence[int]) -> list[LabeledQuestion]:
        """So many questions of each stratum."""
        return [
            question
            for stratum, count in zip(self._strata, counts, strict=True)
            for question in stratum[:count]
        ]

    def _join(self, most: int) -> None:
        strata = self._strata
        while len(strata) > most:
            pairs = range(len(strata) - 1)
            place = min(pairs, key=lambda i: (len(strata[i]) + len(strata[i + 1]), i))
            strata[place : place + 2] = [strata[place] + strata[place + 1]]
