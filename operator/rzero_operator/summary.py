"""What `kubectl get` shows of a run, derived from the rest of its status. Pure."""

from rzero_core.run import RunSpec, Stage
from rzero_core.status import Phase, RunStatus, StageState
from rzero_operator.scores import best, score


def summarized(spec: RunSpec, status: RunStatus) -> RunStatus:
    """The status with its progress, newest figures, and best Solver so far."""
    reports = [group.label_accuracy for group in status.iterations if group.label_accuracy]
    accuracy = None
    if reports and reports[-1].estimate is not None:
        bound = "<=" if reports[-1].is_upper_bound else ""
        accuracy = f"{bound}{float(reports[-1].estimate):.3f}"
    scores = [score(status, group.iteration) for group in status.iterations]
    known = [value for value in scores if value is not None]
    summary: dict[str, object] = {
        "progress": f"{status.iteration}/{spec.iterations}",
        "latest_label_accuracy": accuracy,
        "latest_score": f"{known[-1]:.3f}" if known else None,
    }
    if known or status.phase is Phase.SUCCEEDED or _trained(status):
        solver = best(spec, status)
        summary |= {"best_iteration": solver.iteration, "best_checkpoint": solver.uri}
    return status.model_copy(update=summary)


def _trained(status: RunStatus) -> bool:
    return any(
        entry.stage is Stage.TRAIN_SOLVER and entry.state is StageState.DONE
        for group in status.iterations
        for entry in group.stages
    )
