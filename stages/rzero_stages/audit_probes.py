"""What is known without an oracle: how the votes fared on probes, and how high accuracy can be."""

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence

from rzero_core import answers
from rzero_core.label_accuracy import Interval, calibrate, mcnemar, triplet
from rzero_core.records import JudgedProbe, Question, VotedProbe, VotedQuestion
from rzero_core.store import ArtifactStore
from rzero_core.task import BadData
from rzero_stages import audit_archive

PROBES = "probes.jsonl"
_MARKS = re.compile(r"\$|[.?!:;,](?=\s|\$|$)")
"""Dollars of TeX, and the end of a sentence: not the point of 3.5 or the comma of 3,5."""
_FEWEST = 50
"""Probes, or questions that the Challenger answered, for an upper bound."""

log = logging.getLogger(__name__)


def read(store: ArtifactStore, votes: Iterable[str]) -> list[VotedProbe]:
    """The probes among the votes, each once; none where none were voted on."""
    found: dict[str, VotedProbe] = {}
    for uri in votes:
        for probe in audit_archive.rows(store, uri, PROBES, VotedProbe):
            found.setdefault(probe.id, probe)
    return list(found.values())


def texts(probes: Iterable[VotedProbe]) -> frozenset[str]:
    """The probes' texts as `is_probe` compares them."""
    return frozenset(_plain(probe.text) for probe in probes)


def is_probe(question: Question | VotedQuestion, texts: frozenset[str]) -> bool:
    """Whether the Challenger wrote a probe, up to white space, case, dollars, and the marks that
    end a sentence.
    """
    return _plain(question.text) in texts


def judge(probes: Sequence[VotedProbe]) -> list[JudgedProbe]:
    """Each label beside the known answer."""
    right = answers.grade_all([(probe.label, probe.answer) for probe in probes])
    return [
        JudgedProbe(
            id=probe.id,
            text=probe.text,
            answer=probe.answer,
            label=probe.label,
            agreement=probe.agreement,
            right=None if probe.label is None else is_right,
        )
        for probe, is_right in zip(probes, right, strict=True)
    ]


def metrics(
    store: ArtifactStore, probes: Sequence[JudgedProbe], previous: str | None
) -> dict[str, float]:
    """Counts, and McNemar's exact test on the probes of two iterations where there were such.

    A probe without a label counts as not right.
    """
    if not probes:
        return {}
    found: dict[str, float] = {
        "probes": len(probes),
        "probesRight": sum(probe.right is True for probe in probes),
        "probesAbstained": sum(probe.label is None for probe in probes),
    }
    before = _of_iteration(store, previous)
    pairs = [(before[p.id].right is True, p.right is True) for p in probes if p.id in before]
    if pairs:
        lost, gained = pairs.count((True, False)), pairs.count((False, True))
        found |= {
            "probesLost": lost,
            "probesGained": gained,
            "probesPValue": round(mcnemar(lost, gained), 6),
        }
    return found


def _of_iteration(store: ArtifactStore, curriculum: str | None) -> dict[str, JudgedProbe]:
    """The probes of an earlier iteration, by id; none where they are gone or damaged."""
    if curriculum is None:
        return {}
    try:
        probes = audit_archive.rows(store, curriculum, PROBES, JudgedProbe)
    except BadData as error:
        log.warning("the probes cannot be compared with those of the iteration before: %s", error)
        return {}
    return {probe.id: probe for probe in probes}


def vote_share_bound(
    probes: Sequence[JudgedProbe], agreements: Sequence[float], most: int
) -> tuple[Interval, int] | None:
    """How right labels with these agreements are if they are as right as those of the probes; and
    of how many probes that is known.

    `most` is the number of votes on a question. None with fewer than 50 labelled probes.
    """
    labelled = [probe for probe in probes if probe.right is not None]
    if len(labelled) < _FEWEST or not agreements:
        return None
    votes = [round(probe.agreement * most) for probe in labelled]
    fitted = calibrate(votes, [int(bool(probe.right)) for probe in labelled], most)
    counts = [0] * (most + 1)
    for agreement in agreements:
        counts[round(agreement * most)] += 1
    return fitted.estimate(counts), len(labelled)


def raters_bound(questions: Sequence[VotedQuestion], seed: int) -> tuple[Interval, int] | None:
    """How right labels are at most, by the agreement of label, Challenger and a single vote; and of
    how many questions.

    The single vote is the Solver's own, so that it agrees with the label more often than an
    independent rater would. None where the Challenger answered fewer than 50 of the questions.
    """
    rated = [q for q in questions if q.challenger_answer is not None and q.answers]
    if len(rated) < _FEWEST:
        return None
    pairs = [
        pair
        for q in rated
        for pair in (
            (q.label, q.challenger_answer),
            (q.label, q.answers[0]),
            (q.challenger_answer, q.answers[0]),
        )
    ]
    agree = answers.grade_all(pairs)
    rows = [agree[place : place + 3] for place in range(0, len(agree), 3)]
    if not any(row[2] for row in rows):
        return None
    return triplet(rows, seed=seed), len(rated)


def _plain(text: str) -> str:
    """Without what makes no other question of it; signs of arithmetic stay."""
    words = _MARKS.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(words.split())
