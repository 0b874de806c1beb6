"""Which runs the resync looks at: none that has ended and was not touched since."""

from typing import Any

import pytest

from rzero_operator.reconciler import needs_a_look


def run(phase: str, *, generation: int = 3, retry: str = "", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"generation": generation, "annotations": {"rzero.dev/retry": retry}},
        "status": {"phase": phase, "observedGeneration": 3, **status},
    }


@pytest.mark.parametrize("phase", ["Pending", "Running", "Suspending", "Suspended"])
def test_a_run_that_has_not_ended_is_looked_at(phase: str) -> None:
    assert needs_a_look(run(phase))


def test_a_new_run_is_looked_at() -> None:
    assert needs_a_look({"metadata": {"generation": 1}})


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_run_that_ended_is_looked_at_when_somebody_touched_it(phase: str) -> None:
    assert not needs_a_look(run(phase))
    assert not needs_a_look(run(phase, retry="once", lastRetry="once"))
    assert needs_a_look(run(phase, generation=4))
    assert needs_a_look(run(phase, retry="twice", lastRetry="once"))
