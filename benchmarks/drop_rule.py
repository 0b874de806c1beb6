"""How often the guardrail's rules alarm without cause, and how often with: the second table of
`benchmarks.coverage`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rzero_core.guardrail import Audit, Outcome, below_floor, drop, judge
from rzero_core.intervals import wilson

DRAWS = 3000
SIZES = (200, 300, 500, 1000)
LEVELS = (0.9, 0.8, 0.7, 0.6)


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
    return rows


def _drop_rate(rng: np.random.Generator, truths: Sequence[float], n: int) -> float:
    counts = rng.binomial(n, truths, (DRAWS, len(truths))).tolist()
    alarms = (
        drop([Audit(place, wilson(x, n), judged=n) for place, x in enumerate(run)]) is not None
        for run in counts
    )
    return sum(alarms) / DRAWS


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


def alarm_table(rows: Sequence[dict[str, Any]]) -> str:
    heads = "".join(f"{f'p = {p}':>9}" for p in LEVELS)
    lines = [f"{'alarms':<8}{'situation':<24}{'n':>6}{heads}{'mean':>9}"]
    for row in rows:
        shown = "".join(f"{rate:>9.1%}" for rate in row["rates"]) if len(row["rates"]) > 1 else ""
        mean = float(np.mean(row["rates"]))
        lines.append(f"{row['rule']:<8}{row['situation']:<24}{row['n']:>6}{shown:<36}{mean:>9.1%}")
    lines.append("target: no drop at most 6 %, a drop of 0.10 at n = 500 at least 95 % on average")
    return "\n".join(lines)
