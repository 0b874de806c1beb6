"""Our BLEU and clusters beside sacrebleu, scikit-learn and the pairwise nltk of R-Zero's code.

`python -m benchmarks.bleu` prints one table; with --json, one object.
"""

import argparse
import json
import random
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from nltk.translate.bleu_score import (  # type: ignore[import-untyped]
    SmoothingFunction,
    sentence_bleu,
)
from sacrebleu import sentence_bleu as sacrebleu_sentence
from sklearn.cluster import AgglomerativeClustering  # type: ignore[import-untyped]

from rzero_core import bleu
from rzero_core.run import Similarity

SIZES = (512, 2048, 8000)
PAIRS = 10_000
NLTK_PAIRS = 4000

NAMES = ["Ann", "Bo", "Chloe", "Dev", "Ema", "Farid", "Grace", "Hugo", "Ines", "Jun"]
THINGS = ["apples", "marbles", "books", "tickets", "coins", "stamps", "tiles", "cards", "pens"]
CONTEXTS = [
    "{x} and {y} prepare for a contest and look at the following together.",
    "A school in {x}ville has {p} pupils, and {q} of them collect {t}.",
    "Let $p = {p}$ and $q = {q}$, and write $\\gcd(p, q)$ for their greatest common divisor.",
    "For a positive integer $k$ let $\\sigma(k)$ be the sum of its positive divisors.",
    "All angles are in degrees, and all numbers are written in base ten.",
    "{x} claims that the answer is a multiple of ${p}$, but {y} is not sure.",
    "Recall that $\\binom{{n}}{{k}} = \\frac{{n!}}{{k!(n-k)!}}$ for $0 \\le k \\le n$.",
    "The points $A({p}, {q})$ and $B({q}, {p})$ lie in the plane.",
]
TEMPLATES = [
    "Find the number of integers $n$ with $1 \\le n \\le {a}$ such that "
    "$n^2 + {b}n + {c}$ is divisible by ${d}$.",
    "{x} has {a} {t} and gives {b} of them to {y}. {y} then loses {c} {t}. "
    "How many {t} do they have together?",
    "Let $f(x) = {a}x^3 - {b}x^2 + {c}x - {d}$. "
    "What is the sum of the squares of the roots of $f$?",
    "A triangle has sides ${a}$, ${b}$ and ${c}$. Compute the square of its area, written as "
    "$\\frac{{p}}{{q}}$ in lowest terms.",
    "What is the remainder when ${a}^{{{b}}} + {c}$ is divided by ${d}$?",
    "In how many ways can {x} place {a} identical {t} into {b} distinct boxes so that every box "
    "holds at least {c} and at most {d} of them?",
    "Evaluate $\\int_{{0}}^{{{a}}} \\left( {b}x^2 + {c}x \\right) \\, dx$, and give the answer "
    "as an exact fraction.",
    "The probability that {x} wins a game against {y} is $\\frac{{{a}}}{{{b}}}$. "
    "They play {c} games. Find the probability that {x} wins exactly {d} of them.",
    "Suppose $a_1 = {a}$, $a_2 = {b}$ and $a_{{n+2}} = {c}a_{{n+1}} - {d}a_n$ for $n \\ge 1$. "
    "Determine $a_{{10}} \\bmod {e}$.",
    "Two trains leave {x}ville at {a} km/h and {b} km/h. After {c} hours, what is the distance "
    "between them if they travel at an angle of ${d}^\\circ$?",
]
ENDINGS = ["", "", "Give your answer as an integer.", "Justify each step.", "Here $i^2 = -1$."]
ODD = [
    "", " ", "x", "x", "1", "a b", "$", "\\frac{1}{2}", "\\frac{1}{2}", "$$ \\sqrt{2} $$",
    "the the", "a b c", "a b c d", "2.5, 3.7", "1,000-2", "&lt;x&gt; &amp; y", "<skipped> x",
    "well-\nknown", "a\tb\n c", "3-4-5", "Ünïcode 数学 题", "\\boxed{\\boxed{1}}", "x. y, z",
    "'tis", "...", "- -",
]  # fmt: skip
SMOOTHING = SmoothingFunction().method1


def questions(n: int, seed: int = 0) -> list[str]:
    """N templated math questions with LaTeX, names and numbers, of which some repeat."""
    rng = random.Random(seed)
    return [_question(rng) for _ in range(n)]


def _question(rng: random.Random) -> str:
    sentences = [*rng.sample(CONTEXTS, rng.randint(0, 2)), rng.choice(TEMPLATES)]
    values = {key: str(rng.randint(2, 99)) for key in "abcdepq"}
    values |= {"x": rng.choice(NAMES), "y": rng.choice(NAMES), "t": rng.choice(THINGS)}
    text = " ".join(sentences).format(**values)
    return f"{text} {rng.choice(ENDINGS)}".strip()


def reference_score(hypothesis: str, reference: str) -> float:
    """What R-Zero's public code computes for one pair."""
    references, words = [reference.split()], hypothesis.split()
    return float(sentence_bleu(references, words, smoothing_function=SMOOTHING))


def sacrebleu_score(hypothesis: str, reference: str) -> float:
    return float(sacrebleu_sentence(hypothesis, [reference]).score / 100)


def largest_difference(
    form: Similarity, score: Callable[[str, str], float], pairs: int, seed: int = 1
) -> float:
    """Largest |ours - theirs| over random pairs; a third of the texts are empty, tiny or odd."""
    rng = random.Random(seed)
    texts = questions(200, seed) + [rng.choice(ODD) for _ in range(100)] + ODD
    ours = bleu.similarities(texts, form)
    indices = [(rng.randrange(len(texts)), rng.randrange(len(texts))) for _ in range(pairs)]
    return max(abs(float(ours[i, j]) - score(texts[i], texts[j])) for i, j in indices)


def same_partition_as_sklearn(texts: Sequence[str], threshold: float = 0.5) -> bool:
    """Whether `bleu.clusters` and scikit-learn group the texts alike, ids aside."""
    upper = np.triu(1 - bleu.similarities(texts), 1)
    distances = upper + upper.T
    theirs = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=threshold
    ).fit_predict(distances)
    ours = bleu.clusters(texts, threshold)
    together = len(set(zip(ours.tolist(), theirs.tolist(), strict=True)))
    return together == len(set(ours.tolist())) == len(set(theirs.tolist()))


def nltk_seconds(texts: Sequence[str], pairs: int) -> float:
    """Seconds that nltk would take for all pairs, as the public code does, from a random subset."""
    rng = random.Random(2)
    chosen = [rng.sample(texts, 2) for _ in range(pairs)]
    start = time.perf_counter()
    for hypothesis, reference in chosen:
        reference_score(hypothesis, reference)
    return (time.perf_counter() - start) / pairs * len(texts) * (len(texts) - 1) / 2


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def timed(function: Callable[[list[str]], object], texts: list[str]) -> float:
    start = time.perf_counter()
    function(texts)
    return time.perf_counter() - start


def measure() -> dict[str, object]:
    """All figures. Memory is read after the clusters, before anything else that is large."""
    clusters = {size: timed(bleu.clusters, questions(size)) for size in SIZES}
    peak = peak_gib()
    similarities = {size: timed(bleu.similarities, questions(size)) for size in SIZES}
    nltk = nltk_seconds(questions(2048), NLTK_PAIRS)
    return {
        "clustersSeconds": clusters,
        "similaritiesSeconds": similarities,
        "clustersPeakGiB": peak,
        "differenceFromSacrebleu": largest_difference(Similarity.SACREBLEU, sacrebleu_score, PAIRS),
        "differenceFromNltk": largest_difference(Similarity.NLTK_METHOD1, reference_score, PAIRS),
        "sameAsSklearn": {n: same_partition_as_sklearn(questions(n)) for n in (512, 2048)},
        "nltkSeconds2048": nltk,
        "timesFasterThanNltk": nltk / clusters[2048],
    }


def table(figures: dict[str, Any]) -> str:
    rows = [("measured", "value", "target")]
    for size, seconds in figures["clustersSeconds"].items():
        target = {2048: "<= 3 s", 8000: "<= 30 s"}.get(size, "")
        rows.append((f"clusters of {size} questions", f"{seconds:.2f} s", target))
    for size, seconds in figures["similaritiesSeconds"].items():
        rows.append((f"all similarities of {size} questions", f"{seconds:.2f} s", ""))
    rows += [
        ("peak memory of the clusters", f"{figures['clustersPeakGiB']:.2f} GiB", "< 2 GiB"),
        (
            f"largest difference from sacrebleu, {PAIRS} pairs",
            f"{figures['differenceFromSacrebleu']:.1e}",
            "<= 1e-9",
        ),
        (
            f"largest difference from nltk method1, {PAIRS} pairs",
            f"{figures['differenceFromNltk']:.1e}",
            "<= 1e-9",
        ),
    ]
    for size, same in figures["sameAsSklearn"].items():
        rows.append((f"same clusters as scikit-learn, {size}", "yes" if same else "no", "yes"))
    rows += [
        (
            f"pairwise nltk at 2048, extrapolated from {NLTK_PAIRS} pairs",
            f"{figures['nltkSeconds2048']:.0f} s",
            "",
        ),
        ("clusters at 2048, times faster", f"{figures['timesFasterThanNltk']:.0f}", ">= 200"),
    ]
    return "\n".join(f"{name:<58}{value:>12}{target:>10}" for name, value, target in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    as_json = parser.parse_args().json
    figures = measure()
    print(json.dumps(figures) if as_json else table(figures))


if __name__ == "__main__":
    main()
