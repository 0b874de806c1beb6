"""Lets a training stage stop at any time and go on: step checkpoints in storage, and SIGTERM.

They are published in the background, the last two are kept, and the newest whole one is found again
when the stage starts anew.
"""

import logging
import shutil
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

from rzero_core.store import ArtifactStore, Manifest
from rzero_core.task import BadData, TryAgain

_KEPT = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepCheckpoint:
    """A step checkpoint that was verified against its manifest."""

    step: int
    folder: Path


def step_prefix(prefix: str, step: int) -> str:
    """Where the checkpoint after one training step lies."""
    return f"{prefix}/step-{step:04d}"


def newest(store: ArtifactStore, prefix: str) -> StepCheckpoint | None:
    """The newest whole step checkpoint, or None.

    A damaged one is passed over and deleted: its name must be free when training comes by again.
    """
    for step in reversed(store.steps(prefix)):
        uri = step_prefix(prefix, step)
        try:
            return StepCheckpoint(step, store.local(uri))
        except BadData as error:
            log.warning("step checkpoint %s is damaged and passed over: %s", uri, error)
            store.delete(uri)
    return None


class Publisher:
    """Publishes step checkpoints in a thread, one at a time, while training goes on."""

    def __init__(self, store: ArtifactStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def publish(self, folder: Path, manifest: Manifest, step: int) -> None:
        """Begin to publish `folder`, which is deleted afterwards; waits for the one before."""
        self.wait()
        self._pending = self._thread.submit(self._publish, folder, manifest, step)

    def wait(self) -> None:
        """Until nothing is in flight. Raises what no later attempt can mend."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            try:
                pending.result()
            except TryAgain as error:
                # Training can do without: the next checkpoint, or the final one, may get through.
                log.warning("a step checkpoint was not published: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The one in flight comes to its end also when training has failed.
        self._thread.shutdown(wait=True)

    def discard(self) -> None:
        """Delete all step checkpoints, after the stage itself is published."""
        for step in self._store.steps(self._prefix):
            self._store.delete(step_prefix(self._prefix, step))

    def _publish(self, folder: Path, manifest: Manifest, step: int) -> None:
        try:
            self._store.publish(folder, manifest, step_prefix(self._prefix, step))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for old in self._store.steps(self._prefix)[:-_KEPT]:
            self._store.delete(step_prefix(self._prefix, old))


class StopRequest:
    """Turns SIGTERM into a flag for the time of a `with`: the step under way is brought to its end.

    For the main thread, where alone Python lets signals be handled.
    """

    def __init__(self) -> None:
        self.made = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        log.info("stopping on request after the step under way")
        self.made = True
