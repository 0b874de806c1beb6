"""Does the guardrail pay? Runs a good and a bad tiny model, unguarded and with `Stop`.

Each pair is one manifest of examples/tiny (`run.yaml`, `bad.yaml`), run in two folders:
`onViolation: Warn` in `warn/`, then `Stop` with the default limits in `stop/`. The same spec gives
the same questions and the same weights, so the guarded run starts from a copy of the unguarded
run's artifacts: its stages answer from their manifests, and the real runner decides at which of
them it ends. That saves half of the hours and changes nothing, because up to its end a guarded run
does what the unguarded one does.

The shipped checkpoint is `status.bestCheckpoint` of the guarded run. Scores are of the manifest's
held-out questions, the same for all checkpoints; differences are paired by question. The true label
accuracy of each curriculum is computed: these questions are sums, and Python's own parser works
them out, so that the auditor is not checked by itself. Beside the run's auditor, which computes
too, stands an oracle that judges a sample: how often would its interval have held the truth?
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.guardrail_runs import MANIFESTS, Pair, artifact, play
from benchmarks.guardrail_truth import accuracies, accuracy_table
from benchmarks.learning import paired
from rzero_core.records import ScoredQuestion, read_jsonl
from rzero_core.run import Stage
from rzero_core.status import RunStatus
from rzero_operator.guardrails import is_stopped

MEASURES = ("mean", "greedy", "majority")


def scores(pair: Pair, iteration: int) -> dict[str, np.ndarray]:
    """(questions,) scores of one Solver of the unguarded run, by measure; 0 is the base model."""
    place = artifact(pair.folder / "warn", pair.warn, iteration, Stage.EVALUATE, "scores")
    rows = list(read_jsonl(place / "scores.jsonl", ScoredQuestion))
    return {
        "mean": np.array([np.mean(row.right) for row in rows]),
        "greedy": np.array([float(row.greedy_right) for row in rows]),
        "majority": np.array([float(row.majority_right) for row in rows]),
    }


def measure(pair: Pair) -> dict[str, Any]:
    """Scores of one pair: base, every Solver of the unguarded run, and what the guarded one ships.

    The shipped Solver is one of the unguarded run's, or the base model, by its iteration.
    """
    by_iteration = [scores(pair, iteration) for iteration in range(pair.last + 1)]
    found: dict[str, Any] = {
        "model": pair.model,
        "seed": pair.seed,
        "questions": len(by_iteration[0]["mean"]),
        "shipped": pair.shipped,
        "stopped": pair.stop.iteration if is_stopped(pair.stop) else None,
        "secondsUnguarded": seconds(pair.warn),
        "secondsGuarded": seconds(pair.stop),
    }
    for name in MEASURES:
        columns = [scored[name] for scored in by_iteration]
        best = max(range(len(columns)), key=lambda i: float(columns[i].mean()))
        found[name] = {
            "scores": [float(column.mean()) for column in columns],
            "shipped": float(columns[pair.shipped].mean()),
            "shippedMinusBase": paired(columns[0], columns[pair.shipped]),
            "shippedMinusLast": paired(columns[-1], columns[pair.shipped]),
            "shippedMinusBest": paired(columns[best], columns[pair.shipped]),
        }
    found["pays"] = pays(pair.model, found["mean"])
    return found


def pays(model: str, score: dict[str, Any]) -> bool:
    """The aim: on the bad model no more than a point below the base and three above the unguarded
    run's last Solver, on the good one within a point of the unguarded run's best.
    """
    if model == "good":
        return bool(score["shippedMinusBest"][0] >= -0.01)
    base, last = score["shippedMinusBase"][0], score["shippedMinusLast"][0]
    return bool(base >= -0.01 and last >= 0.03)


def seconds(status: RunStatus) -> float:
    """Time in stages, as they took when they were first done."""
    entries = [entry for group in status.iterations for entry in group.stages]
    return sum(float(entry.metrics.get("seconds", "0")) for entry in entries)


def score_table(results: list[dict[str, Any]]) -> Table:
    """One row a run and measure."""
    last = max(len(result["mean"]["scores"]) for result in results) - 1
    out = Table(title=f"Held-out scores, %, on {results[0]['questions']} questions")
    for column in ("model", "seed", "score", "base", *(f"it. {i}" for i in range(1, last + 1))):
        out.add_column(column, justify="right")
    for column in ("stopped before", "shipped", "- base", "- unguarded last", "- unguarded best"):
        out.add_column(column, justify="right")
    out.add_column("time", justify="right")
    out.add_column("pays")
    for result in results:
        for name in MEASURES:
            score, first = result[name], name == MEASURES[0]
            solver = f"it. {result['shipped']}" if result["shipped"] else "base"
            shipped = f"{100 * score['shipped']:.1f}" + (f" ({solver})" if first else "")
            stopped = f"it. {result['stopped']}" if result["stopped"] else "-"
            spent = 100 * result["secondsGuarded"] / result["secondsUnguarded"]
            out.add_row(
                result["model"] if first else "",
                str(result["seed"]) if first else "",
                name,
                *(f"{100 * value:.1f}" for value in score["scores"]),
                stopped if first else "",
                shipped,
                *(_points(score[f"shippedMinus{to}"]) for to in ("Base", "Last", "Best")),
                f"{spent:.0f} %" if first else "",
                ("yes" if result["pays"] else "NO") if first else "",
            )
    return out


def _points(difference: tuple[float, float, float]) -> str:
    value, lower, upper = (100 * part for part in difference)
    return f"{value:+.1f} [{lower:+.1f}, {upper:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=list(MANIFESTS), default=list(MANIFESTS))
    parser.add_argument("--iterations", type=int, help="default: those of the manifests")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/guardrails"),
        help="keeps the runs: the same command goes on where it stopped, or prints them again",
    )
    parser.add_argument("--sample", type=int, default=150, help="size of the oracle's samples")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    folder = args.folder.resolve()
    wanted = [(model, seed) for seed in args.seeds for model in args.models]
    # Each run has one core: small models gain little from a second, another run gains all of it.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as cores:
        ahead = [cores.submit(play, *one, args.iterations, folder) for one in wanted]
        pairs = [pair.result() for pair in ahead]
    pairs.sort(key=lambda pair: (args.models.index(pair.model), pair.seed))
    results = [measure(pair) for pair in pairs]
    found = [row for pair in pairs for row in accuracies(pair, args.sample)]
    held = sum(row.holds for row in found)
    if args.json:
        rows = [asdict(row) for row in found]
        print(json.dumps({"benchmark": "guardrails", "runs": results, "accuracy": rows}))
        return
    console = Console(width=200)
    console.print(score_table(results))
    console.print(accuracy_table(found, args.sample))
    console.print(f"intervals that hold the true label accuracy: {held} of {len(found)}")


if __name__ == "__main__":
    main()
