"""Runs and metrics with everything in them that can be exported."""

from typing import Any

from rzero_core.run import RunSpec, Stage
from rzero_core.status import (
    IterationStatus,
    LabelAccuracyStatus,
    Phase,
    RunStatus,
    StageState,
    StageStatus,
)
from rzero_operator.metrics import Metrics


def known(estimate: str, lower: str = "0.5", upper: str = "0.9", **more: Any) -> Any:
    """A known label accuracy, by the method oracle/1 unless said otherwise."""
    fields = {"sample_size": 300, "method": "oracle/1", **more}
    return LabelAccuracyStatus(estimate=estimate, lower=lower, upper=upper, **fields)


def full_status(iterations: int, accuracy: LabelAccuracyStatus | None = None) -> RunStatus:
    """The status of a run in the evaluation of its last iteration."""
    times = {"started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T01:00:00Z"}
    pool = {"questions": "8000", "duplicates": "7", "agreementSum": "3000.5", "kept": "2000"}
    scores = {f"{name}.mean": "0.5" for name in ("algebra", "geometry", "heldout")}
    return RunStatus(
        phase=Phase.RUNNING,
        iteration=iterations,
        stage=Stage.EVALUATE,
        iterations=[
            IterationStatus(
                iteration=number,
                stages=[
                    StageStatus(
                        stage=stage,
                        state=StageState.DONE,
                        attempts=1,
                        metrics=scores if stage is Stage.EVALUATE else pool,
                        **times,
                    )
                    for stage in (Stage if number else [Stage.EVALUATE])
                ],
                label_accuracy=accuracy or known("0.7") if number else None,
            )
            for number in range(iterations + 1)
        ],
    )


def full_spec() -> RunSpec:
    """A spec with an evaluation and an auditor."""
    return RunSpec.parse(
        {
            "model": "hf://owner/base@main",
            "storage": {"uri": "s3://bucket/runs"},
            "evaluation": {"datasets": [{"name": "heldout", "uri": "heldout.jsonl"}]},
            "labelAccuracy": {"auditor": {"type": "Programmatic"}},
        }
    )


def fed_metrics() -> Metrics:
    """An operator's metrics in which every family has a series."""
    metrics = Metrics()
    spec, ended = full_spec(), full_status(2)
    bound = known("0.9", method="triplet", is_upper_bound=True)
    groups = [*ended.iterations[:-1], ended.iterations[-1].model_copy(update={"stages": []})]
    metrics.seen("ml", "demo", spec, ended.model_copy(update={"iterations": groups}))
    metrics.seen("ml", "demo", spec, ended)
    metrics.seen("ml", "unaudited", spec, full_status(1, bound))
    metrics.reconciled("ok", 0.02)
    metrics.gap(1.2)
    metrics.api_request("PATCH", 200)
    metrics.watch_event("jobs")
    metrics.watch_queue(lambda: 3, lambda: 1.5)
    return metrics
