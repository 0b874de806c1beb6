"""Where the time of a finished run goes: stage by stage, and by the kind of work.

Reads what the stages measured themselves (their metrics in status.json) and sets it against the
clock: sampling texts, learning (forward, backward, reference model), grading answers, other work
(loading models, clustering, writing), and what passes between a stage's start and its end outside
its own account (start-up of its process, the runner's turn).
"""

import argparse
import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rzero_core.run import Stage
from rzero_core.status import RunStatus, StageStatus

PARTS = ("sampling", "learning", "grading", "other", "start-up")


def wall_seconds(entry: StageStatus) -> float:
    """Time between the start of the first attempt and the end of the last."""
    assert entry.started_at is not None and entry.finished_at is not None
    ended, began = (datetime.fromisoformat(t) for t in (entry.finished_at, entry.started_at))
    return (ended - began).total_seconds()


def parts_of(entry: StageStatus) -> dict[str, float]:
    """Seconds of one stage by part; they add up to its time on the clock."""

    def seconds(name: str) -> float:
        return float(entry.metrics.get(name, 0.0))

    # The Challenger's reward is the Solver's votes; grading them is counted apart.
    votes = seconds("rewardSeconds") - seconds("gradingSeconds") if _is_challenger(entry) else 0.0
    parts = {
        "sampling": seconds("samplingSeconds") + votes,
        "learning": seconds("learningSeconds"),
        "grading": seconds("gradingSeconds"),
    }
    parts["other"] = seconds("seconds") - sum(parts.values())
    parts["start-up"] = wall_seconds(entry) - seconds("seconds")
    return parts


def _is_challenger(entry: StageStatus) -> bool:
    return entry.stage is Stage.TRAIN_CHALLENGER


def profile(status: RunStatus) -> dict[str, dict[str, float]]:
    """Seconds by stage and part, over all iterations."""
    table: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for iteration in status.iterations:
        for entry in iteration.stages:
            if entry.finished_at is None:
                continue
            for part, seconds in parts_of(entry).items():
                table[entry.stage][part] += seconds
                table[entry.stage]["total"] += seconds
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("status", type=Path, nargs="?", help="status.json of a finished run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    newest = sorted(Path("runs").glob("tiny-*/status.json"), key=_age)
    path = args.status or next(iter(newest), None)
    if path is None:
        raise SystemExit("no finished run: `make quickstart` first, or name a status.json")
    result = profile(RunStatus.model_validate_json(path.read_text()))
    if args.json:
        print(json.dumps({"benchmark": "profile", "stages": result}))
        return
    total = sum(row["total"] for row in result.values())
    out = Table(title=f"Seconds of {path.parent.name}, {total:.0f} s in all (share of the whole)")
    out.add_column("stage")
    columns = (*PARTS, "total")
    for column in columns:
        out.add_column(column, justify="right")
    for stage, row in [*result.items(), ("all", _sum(result))]:
        out.add_row(stage, *(f"{row[c]:.0f} ({100 * row[c] / total:.0f} %)" for c in columns))
    Console(width=120).print(out)


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _sum(result: dict[str, dict[str, float]]) -> dict[str, float]:
    columns = (*PARTS, "total")
    return {c: sum(row[c] for row in result.values()) for c in columns}


if __name__ == "__main__":
    main()
