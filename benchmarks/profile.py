"""Where the time of a finished run goes: stage by stage, and by the kind of work.

Reads what the stages measured themselves (the manifests' metrics) and sets it against the time on
the wall between the first attempt's start and the stage's end; the rest is start-up: the process,
its imports, loading models, publishing.
"""

import argparse
import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rzero_core.status import RunStatus, StageStatus

PARTS = ("sampling", "training", "grading")


def wall_seconds(entry: StageStatus) -> float:
    """Time between the start of the first attempt and the end of the last."""
    assert entry.started_at is not None and entry.finished_at is not None
    ended, began = (datetime.fromisoformat(t) for t in (entry.finished_at, entry.started_at))
    return (ended - began).total_seconds()


def profile(status: RunStatus) -> dict[str, dict[str, float]]:
    """Seconds by stage and part; `rest` is what the stage did not account for itself."""
    table: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for iteration in status.iterations:
        for entry in iteration.stages:
            if entry.finished_at is None:
                continue
            row = table[entry.stage]
            parts = {p: float(entry.metrics.get(f"{p}Seconds", 0.0)) for p in PARTS}
            for part, seconds in parts.items():
                row[part] += seconds
            row["rest"] += wall_seconds(entry) - sum(parts.values())
            row["total"] += wall_seconds(entry)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("status", type=Path, nargs="?", help="status.json of a finished run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    path = args.status or next(iter(sorted(Path("runs").glob("tiny-*/status.json"))), None)
    if path is None:
        raise SystemExit("no finished run: `make quickstart` first, or name a status.json")
    result = profile(RunStatus.model_validate_json(path.read_text()))
    if args.json:
        print(json.dumps({"benchmark": "profile", "stages": result}))
        return
    total = sum(row["total"] for row in result.values())
    out = Table(title=f"Seconds of {path.parent.name}, {total:.0f} s in all (share of the whole)")
    out.add_column("stage")
    columns = (*PARTS, "rest", "total")
    for column in columns:
        out.add_column(column, justify="right")
    for stage, row in [*result.items(), ("all", _sum(result))]:
        out.add_row(stage, *(f"{row[c]:.0f} ({100 * row[c] / total:.0f} %)" for c in columns))
    Console(width=120).print(out)


def _sum(result: dict[str, dict[str, float]]) -> dict[str, float]:
    columns = (*PARTS, "rest", "total")
    return {c: sum(row[c] for row in result.values()) for c in columns}


if __name__ == "__main__":
    main()
