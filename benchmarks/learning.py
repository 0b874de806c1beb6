"""Does it learn? Runs a manifest on several seeds; compares each Solver with the base model.

Each seed is a run of its own (`<name>-s<seed>`), as many at a time as there are cores, and goes on
where it stopped, so that a table can be printed again at no cost. Held-out questions are the same
for every checkpoint: differences are paired by question, their 95 % intervals are bootstrap
percentiles over questions.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from rzero_core.records import ScoredQuestion, read_jsonl
from rzero_core.run import CoEvolutionRun, Stage
from rzero_core.status import RunStatus
from rzero_core.store import ArtifactStore

RESAMPLES = 10_000


def seeded(manifest: dict[str, Any], seed: int, iterations: int | None) -> dict[str, Any]:
    """The manifest as a run of its own for one seed."""
    run = json.loads(json.dumps(manifest))
    run["metadata"]["name"] += f"-s{seed}"
    run["spec"]["seed"] = seed
    if iterations is not None:
        run["spec"]["iterations"] = iterations
    return run


def finish(run: dict[str, Any]) -> RunStatus:
    """Run the manifest to its end (at once if it is there) and read its status."""
    rzero = [sys.executable, "-m", "rzero_operator.cli"]
    # Each run has one core: small models gain little from a second, another seed gains all of it.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(run, file)
        file.flush()
        subprocess.run([*rzero, "run", file.name], check=True, stdout=sys.stderr, env=environment)
        output = subprocess.run(
            [*rzero, "status", "--json", file.name], check=True, stdout=subprocess.PIPE
        )
    return RunStatus.model_validate_json(output.stdout)


def scores(store: ArtifactStore, status: RunStatus, iteration: int) -> list[ScoredQuestion]:
    """What one checkpoint made of the held-out questions; iteration 0 is the base model."""
    entry = status.find(iteration, Stage.EVALUATE)
    if entry is None or "scores" not in entry.outputs:
        raise SystemExit(f"iteration {iteration} has no scores: does the manifest evaluate?")
    folder = store.local(entry.outputs["scores"])
    return list(read_jsonl(folder / "scores.jsonl", ScoredQuestion))


def paired(base: np.ndarray, late: np.ndarray) -> tuple[float, float, float]:
    """Mean difference of two (questions,) arrays with its 95 % bootstrap interval."""
    difference = late - base
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(difference), (RESAMPLES, len(difference)))
    means = difference[rows].mean(axis=1)
    lower, upper = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(lower), float(upper)


def measure(run: dict[str, Any], status: RunStatus) -> dict[str, Any]:
    """The figures of one seed."""
    spec = CoEvolutionRun.parse(run).spec
    store = ArtifactStore(spec.storage)
    by_iteration = [scores(store, status, i) for i in range(spec.iterations + 1)]
    mean = [np.array([np.mean(q.right) for q in rows]) for rows in by_iteration]
    greedy = [np.array([float(q.greedy_right) for q in rows]) for rows in by_iteration]
    majority = [np.array([float(q.majority_right) for q in rows]) for rows in by_iteration]
    uncertainty = []
    for i in range(1, spec.iterations + 1):
        entry = status.find(i, Stage.TRAIN_CHALLENGER)
        assert entry is not None
        uncertainty.append(
            [float(entry.metrics["uncertaintyFirst"]), float(entry.metrics["uncertaintyLast"])]
        )
    return {
        "seed": spec.seed,
        "questions": len(mean[0]),
        "mean": [float(m.mean()) for m in mean],
        "greedy": [float(g.mean()) for g in greedy],
        "majority": [float(m.mean()) for m in majority],
        "mean_gain": paired(mean[0], mean[-1]),
        "greedy_gain": paired(greedy[0], greedy[-1]),
        "majority_gain": paired(majority[0], majority[-1]),
        "uncertainty": uncertainty,
    }


def table(results: list[dict[str, Any]], samples: int) -> Table:
    """One row a seed and score."""
    last = len(results[0]["mean"]) - 1
    out = Table(title=f"Held-out scores of the Solver, %, on {results[0]['questions']} questions")
    for column in ("seed", "score", "base", *(f"it. {i}" for i in range(1, last + 1))):
        out.add_column(column, justify="right")
    out.add_column("gain [95 %]", justify="right")
    out.add_column("uncertainty reward, first -> last quarter", justify="left")
    for result in results:
        for name, key in (
            (f"mean@{samples}", "mean"),
            ("greedy", "greedy"),
            (f"maj@{samples}", "majority"),
        ):
            gain, lower, upper = (100 * x for x in result[f"{key}_gain"])
            rises = "  ".join(f"{a:.2f} -> {b:.2f}" for a, b in result["uncertainty"])
            out.add_row(
                str(result["seed"]) if key == "mean" else "",
                name,
                *(f"{100 * x:.1f}" for x in result[key]),
                f"{gain:+.1f} [{lower:+.1f}, {upper:+.1f}]",
                rises if key == "mean" else "",
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("examples/tiny/run.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, help="default: those of the manifest")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    manifest = yaml.safe_load(args.manifest.read_text())
    runs = [seeded(manifest, seed, args.iterations) for seed in args.seeds]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as cores:
        statuses = list(cores.map(finish, runs))
    results = [measure(run, status) for run, status in zip(runs, statuses, strict=True)]
    if args.json:
        print(json.dumps({"benchmark": "learning", "seeds": results}))
    else:
        samples = CoEvolutionRun.parse(manifest).spec.evaluation.samples
        Console(width=160).print(table(results, samples))


if __name__ == "__main__":
    main()
