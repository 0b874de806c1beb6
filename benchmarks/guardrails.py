"""Does the guardrail pay? Runs a good and a bad tiny model, unguarded and with `Stop`.

Each pair is one manifest, run in two folders: `onViolation: Warn` in `warn/`, then `Stop` with the
default limits in `stop/`. The same spec gives the same questions and the same weights, so the
guarded run starts from a copy of the unguarded run's artifacts: its stages answer from their
manifests, and the real runner decides at which of them it ends. That saves half of the hours and
changes nothing, because up to its end a guarded run does what the unguarded one does.

The shipped checkpoint is `status.bestCheckpoint` of the guarded run. Scores are of the manifest's
held-out questions, the same for all checkpoints; differences are paired by question. The true label
accuracy of each curriculum is computed: these questions are sums. Beside the run's own auditor,
which computes too, stands an oracle that judges a sample: how often would its interval have held
the truth?
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.learning import paired, seeded
from rzero_core import answers, arithmetic
from rzero_core.label_accuracy import AuditedStratum, allocate, audited
from rzero_core.records import LabeledQuestion, ScoredQuestion, read_jsonl
from rzero_core.run import Stage, Storage
from rzero_core.status import IterationStatus, RunStatus
from rzero_core.store import ArtifactStore
from rzero_operator.guardrails import is_stopped

MODELS = {"good": Path("examples/tiny/model"), "bad": Path("examples/tiny/model-bad")}
MEASURES = ("mean", "greedy", "majority")
STORAGE = "runs"
"""Relative, so that the artifacts of one folder may be copied to another."""
DRAWS = 500
ROUNDED = 1e-6
"""Reports are rounded to so much; a complete check has no other width."""


@dataclass(frozen=True)
class Pair:
    """The same run, unguarded and guarded."""

    model: str
    seed: int
    warn: RunStatus
    stop: RunStatus
    folder: Path
    """Holds warn/ and stop/."""

    @property
    def last(self) -> int:
        """The last Solver of the unguarded run."""
        return self.warn.iterations[-1].iteration

    @property
    def shipped(self) -> int:
        """Iteration of the checkpoint that the guarded run names."""
        assert self.stop.best_iteration is not None
        return self.stop.best_iteration


@dataclass(frozen=True)
class Accuracy:
    """Label accuracy of one curriculum: as reported, and as it is."""

    model: str
    seed: int
    iteration: int
    estimate: float
    lower: float
    upper: float
    truth: float
    """Of the questions whose answer can be computed."""
    uncomputed: int
    """Questions beside them; each may be right or wrong."""
    holds: bool
    """Whether the interval holds the truth."""
    sampled: float
    """Share of samples whose interval holds the truth."""
    verdict: str
    """Of the guarded run, where it came as far."""


def declared(manifest: dict[str, Any], model: str, seed: int, iterations: int | None) -> Any:
    """The manifest of one pair, without what differs between the two."""
    run = seeded(manifest, seed, iterations)
    spec = run["spec"]
    run["metadata"]["name"] = f"{model}-s{seed}"
    spec["model"] = str(MODELS[model].resolve())
    spec["storage"] = {"uri": STORAGE}
    spec["labelAccuracy"] = {"auditor": {"type": "Programmatic"}}
    for dataset in spec["evaluation"]["datasets"]:
        dataset["uri"] = str(Path(dataset["uri"]).resolve())
    return run


def finish(run: dict[str, Any], place: Path, on_violation: str) -> RunStatus:
    """Run the manifest to its end (at once if it is there) in `place`, and read its status."""
    place.mkdir(parents=True, exist_ok=True)
    run = json.loads(json.dumps(run))
    run["spec"]["labelAccuracy"]["onViolation"] = on_violation
    manifest = place / f"{run['metadata']['name']}.yaml"
    manifest.write_text(yaml.safe_dump(run))
    rzero = [sys.executable, "-m", "rzero_operator.cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {"check": True, "cwd": place, "env": environment}
    subprocess.run([*rzero, "run", "-q", manifest.name], stdout=sys.stderr, **options)
    told = subprocess.run(
        [*rzero, "status", "--json", manifest.name], stdout=subprocess.PIPE, **options
    )
    return RunStatus.model_validate_json(told.stdout)


def copy_artifacts(name: str, source: Path, target: Path) -> None:
    """What the stages of a run published; neither its status nor its attempts."""
    for place in (source / STORAGE).glob(f"{name}-*/i[0-9]*"):
        to = target / place.relative_to(source)
        if not to.exists():
            # Whole or not at all: a copy that was cut short must not pass for an artifact.
            unfinished = to.with_name(f".{to.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(place, unfinished)
            unfinished.rename(to)


def play(
    manifest: dict[str, Any], model: str, seed: int, iterations: int | None, folder: Path
) -> Pair:
    """Both runs of one model and seed."""
    run = declared(manifest, model, seed, iterations)
    warn = finish(run, folder / "warn", "Warn")
    copy_artifacts(run["metadata"]["name"], folder / "warn", folder / "stop")
    stop = finish(run, folder / "stop", "Stop")
    return Pair(model, seed, warn, stop, folder)


def artifact(place: Path, status: RunStatus, iteration: int, stage: Stage, name: str) -> Path:
    """The local folder of the artifact of the last round of a stage."""
    entries = [
        entry
        for group in status.iterations
        for entry in group.stages
        if group.iteration == iteration and entry.stage is stage and name in entry.outputs
    ]
    if not entries:
        raise SystemExit(f"{place}: iteration {iteration} has no {name}: did {stage} fail?")
    store = ArtifactStore(Storage(uri=str(place / STORAGE)))
    return store.local(str(place / entries[-1].outputs[name]))


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


def accuracies(pair: Pair, sample: int) -> list[Accuracy]:
    """Label accuracy of every curriculum of the unguarded run, beside the truth."""
    guarded = {group.iteration: group for group in pair.stop.iterations}
    return [
        _accuracy(pair, group, guarded.get(group.iteration), sample)
        for group in pair.warn.iterations
        if group.label_accuracy is not None
    ]


def _accuracy(
    pair: Pair, group: IterationStatus, guarded: IterationStatus | None, sample: int
) -> Accuracy:
    number = group.iteration
    stage = Stage.BUILD_CURRICULUM
    place = artifact(pair.folder / "warn", pair.warn, number, stage, "curriculum")
    rows = list(read_jsonl(place / "curriculum.jsonl", LabeledQuestion))
    values = [(row, arithmetic.solve(row.text)) for row in rows]
    known = [(row, str(value)) for row, value in values if value is not None]
    right = answers.grade_all([(row.label, value) for row, value in known])
    truth = sum(right) / len(known)
    report = group.label_accuracy
    assert report is not None and report.estimate is not None
    lower, upper = float(report.lower or 0), float(report.upper or 1)
    verdict = guarded.guardrail if guarded else None
    strata: dict[float, list[bool]] = {}
    for (row, _), is_right in zip(known, right, strict=True):
        strata.setdefault(row.agreement, []).append(is_right)
    return Accuracy(
        pair.model,
        pair.seed,
        number,
        float(report.estimate),
        lower,
        upper,
        truth,
        len(rows) - len(known),
        lower - ROUNDED <= truth <= upper + ROUNDED,
        _coverage(list(strata.values()), truth, sample, pair.seed),
        f"{verdict.outcome}{', ' + verdict.action if verdict.action else ''}" if verdict else "",
    )


def _coverage(strata: list[list[bool]], truth: float, sample: int, seed: int) -> float:
    """Share of stratified samples, judged without a mistake, whose interval holds the truth."""
    draw, held = random.Random(seed), 0
    counts = allocate([len(stratum) for stratum in strata], sample)
    for _ in range(DRAWS):
        judged = []
        for stratum, count in zip(strata, counts, strict=True):
            right = sum(draw.sample(stratum, count))
            judged.append(AuditedStratum(len(stratum), right, count - right))
        found = audited(judged).accuracy
        held += found.lower <= truth <= found.upper
    return held / DRAWS


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


def accuracy_table(found: list[Accuracy], sample: int) -> Table:
    """One row a curriculum of the unguarded runs."""
    out = Table(title="Pseudo-label accuracy of the unguarded runs' curricula, %")
    for column in ("model", "seed", "iteration", "reported [95 %]", "true", "not computable"):
        out.add_column(column, justify="right")
    out.add_column("holds")
    out.add_column(f"holds, samples of {sample}", justify="right")
    out.add_column("the guarded run's verdict")
    for row in found:
        reported = f"{100 * row.estimate:.1f} [{100 * row.lower:.1f}, {100 * row.upper:.1f}]"
        out.add_row(
            row.model,
            str(row.seed),
            str(row.iteration),
            reported,
            f"{100 * row.truth:.1f}",
            str(row.uncomputed),
            "yes" if row.holds else "NO",
            f"{100 * row.sampled:.1f} %",
            row.verdict,
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, default=Path("examples/tiny/run.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--iterations", type=int, help="default: those of the manifest")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/guardrails"),
        help="keeps the runs: the same command goes on where it stopped, or prints them again",
    )
    parser.add_argument("--sample", type=int, default=150, help="size of the oracle's samples")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    manifest = yaml.safe_load(args.manifest.read_text())
    folder = args.folder.resolve()
    wanted = [(model, seed) for seed in args.seeds for model in args.models]
    # Each run has one core: small models gain little from a second, another run gains all of it.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as cores:
        ahead = [cores.submit(play, manifest, *one, args.iterations, folder) for one in wanted]
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
