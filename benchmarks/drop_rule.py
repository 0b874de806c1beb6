"""How often the guardrail's rules and its canaries alarm without cause, and how often with: the
second table of `benchmarks.coverage`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rzero_core.guardrail import Audit, Outcome, below_floor, drop, judge
from rzero_core.intervals import wilson
from rzero_core.label_accuracy import AuditedStratum, Probes, audited
from rzero_core.run import Stage
from rzero_core.status import IterationStatus, RunStatus, StageState, StageStatus
from rzero_operator import canaries

DRAWS = 3000
SIZES = (200, 300, 500, 1000)
LEVELS = (0.9, 0.8, 0.7, 0.6)
PROBES = 160
SENSITIVITY, SPECIFICITY = 0.95, 0.90
"""Of an oracle that errs on 5 % of right labels and on 10 % of wrong ones."""
MANY = 10**9
"""Questions, of which chance alone explains nothing."""
WATCHED = 5
"""Figures that canaries watch, the probes aside."""


def alarm_rates() -> list[dict[str, Any]]:
    """Rows of rule, situation, n, and the share of simulated runs in which the last one alarms."""
    rng = np.random.default_rng(100)
    rows = []
    for earlier in (1, 2, 5):
        for n in SIZES:
            rates = [_drop_rate(rng, [p] * (earlier + 1), n) for p in LEVELS]
            situation = f"no drop, {earlier} earlier"
            rows.append({"rule": "R1", "situation": situation, "n": n, "rates": rates})
    for loss in (0.05, 0.10, 0.16):
        for earlier in (1, 2):
            for n in SIZES:
                rates = [_drop_rate(rng, [*[p] * earlier, p - loss], n) for p in LEVELS]
                situation = f"drop of {loss:.2f}, {earlier} earlier"
                rows.append({"rule": "R1", "situation": situation, "n": n, "rates": rates})
    for above in (0.05, 0.0, -0.05, -0.10):
        for n in SIZES:
            hits = rng.binomial(n, 0.6 + above, DRAWS).tolist()
            share = float(np.mean([below_floor(wilson(x, n), 0.6) for x in hits]))
            row = {"rule": "R2", "situation": f"floor {above:+.2f}", "n": n, "rates": [share]}
            rows.append(row)
    rates = [_three_looks(rng, p) for p in LEVELS]
    rows.append({"rule": "R1+R3", "situation": "no drop, three looks", "n": 300, "rates": rates})
    for loss in (0.0, 0.10):
        for n in SIZES:
            rates = [_corrected_rate(rng, p, p - loss, n) for p in LEVELS]
            situation = f"drop of {loss:.2f}, corrected" if loss else "no drop, corrected"
            rows.append({"rule": "R1", "situation": situation, "n": n, "rates": rates})
    for earlier in (5, 10):
        told = [_canaries(rng, earlier) for _ in range(DRAWS)]
        for situation, rate in (
            (f"one figure, {earlier} earlier", np.mean(told) / WATCHED),
            (f"any of {WATCHED}, {earlier} earlier", np.mean([count > 0 for count in told])),
        ):
            row = {"rule": "canary", "situation": situation, "n": None, "rates": [float(rate)]}
            rows.append(row)
    return rows


def _drop_rate(rng: np.random.Generator, truths: Sequence[float], n: int) -> float:
    counts = rng.binomial(n, truths, (DRAWS, len(truths))).tolist()
    alarms = (
        drop([Audit(place, wilson(x, n), judged=n) for place, x in enumerate(run)]) is not None
        for run in counts
    )
    return sum(alarms) / DRAWS


def _corrected_rate(rng: np.random.Generator, before: float, now: float, n: int) -> float:
    """Alarms where an oracle that errs judged both, corrected by probes of the same accuracy."""
    alarms = (
        drop([_corrected(rng, place, p, n) for place, p in enumerate((before, now))]) is not None
        for _ in range(DRAWS)
    )
    return sum(alarms) / DRAWS


def _corrected(rng: np.random.Generator, place: int, p: float, n: int) -> Audit:
    agreed = int(rng.binomial(n, p * SENSITIVITY + (1 - p) * (1 - SPECIFICITY)))
    right = int(rng.binomial(PROBES, p))
    probes = Probes(
        right_agreed=int(rng.binomial(right, SENSITIVITY)),
        right_n=right,
        wrong_disagreed=int(rng.binomial(PROBES - right, SPECIFICITY)),
        wrong_n=PROBES - right,
    )
    found = audited([AuditedStratum(size=n, right=agreed, wrong=n - agreed)], probes)
    return Audit(
        place, found.accuracy, auditor=found.method, judged=n, uncorrected=found.uncorrected
    )


def _three_looks(rng: np.random.Generator, p: float) -> float:
    """Alarms of a level run judged after 100 questions, then 200 and 300 where still unclear."""
    baselines = rng.binomial(300, p, DRAWS).tolist()
    looks = rng.binomial(100, p, (DRAWS, 3)).cumsum(axis=1).tolist()
    alarms = 0
    for base, counts in zip(baselines, looks, strict=True):
        before = Audit(1, wilson(base, 300), judged=300)
        for look, x in enumerate(counts, start=1):
            n = 100 * look
            now = Audit(2, wilson(x, n), looks=look, judged=n)
            found = judge([before, now], floor=0.0)
            if found.outcome is Outcome.DROPPED:
                alarms += 1
            if found.outcome is not Outcome.INCONCLUSIVE:
                break
    return alarms / DRAWS


def _canaries(rng: np.random.Generator, earlier: int) -> int:
    """Figures of the last iteration that are told, where all only vary by themselves (normal)."""
    values = rng.normal(0.5, 0.02, (earlier + 1, WATCHED)).tolist()
    groups = [_iteration(number, *row) for number, row in enumerate(values, start=1)]
    return len(canaries.found(RunStatus(iterations=groups), earlier + 1))


def _iteration(
    number: int, valid: float, abstained: float, near: float, kept: float, agreement: float
) -> IterationStatus:
    """What the stages of an iteration reported, by the shares that canaries watch."""
    reported = {
        Stage.GENERATE_QUESTIONS: {"questions": 1.0, "valid": valid},
        Stage.LABEL_QUESTIONS: {"questions": 1.0, "votes": 1.0, "abstained": abstained},
        Stage.BUILD_CURRICULUM: {
            "questions": 1.0,
            "duplicates": 0.0,
            "nearDuplicates": near,
            "kept": kept,
            "agreementSum": agreement,
        },
    }
    stages = [
        StageStatus(
            stage=stage,
            state=StageState.DONE,
            metrics={name: str(share * MANY) for name, share in metrics.items()},
        )
        for stage, metrics in reported.items()
    ]
    return IterationStatus(iteration=number, stages=stages)


def alarm_table(rows: Sequence[dict[str, Any]]) -> str:
    heads = "".join(f"{f'p = {p}':>9}" for p in LEVELS)
    lines = [f"{'alarms':<8}{'situation':<24}{'n':>6}{heads}{'mean':>9}"]
    for row in rows:
        shown = "".join(f"{rate:>9.1%}" for rate in row["rates"]) if len(row["rates"]) > 1 else ""
        mean = float(np.mean(row["rates"]))
        lines.append(
            f"{row['rule']:<8}{row['situation']:<24}{row['n'] or '':>6}{shown:<36}{mean:>9.1%}"
        )
    lines.append("target: no drop at most 6 %, a drop of 0.10 at n = 500 at least 95 % on average")
    return "\n".join(lines)
