"""What an artifact says of itself: its files, where they come from, and the result of its stage.

The manifest is written last and at most once, so its presence proves that the artifact is whole.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, field_validator

from rzero_core.run import Stage
from rzero_core.task import (
    BadConfiguration,
    BadTask,
    LabelAudit,
    RunRef,
    StageError,
    StageResult,
    TryAgain,
)
from rzero_core.wire import Wire

MANIFEST = "manifest.json"
OWN = ".rzero-"
"""Start of the store's own names: unfinished files, and files of a second attempt."""

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY}


class FileEntry(Wire):
    """One file of an artifact."""

    path: str
    """Relative to the artifact, with forward slashes."""
    size: int = Field(ge=0)
    """Bytes."""
    sha256: str
    """64 hex digits."""

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        if path.startswith("/") or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise ValueError("must be a plain path below the artifact")
        return path


class InputRef(Wire):
    """What an artifact was made from."""

    uri: str
    digest: str
    """Digest of the input's manifest, or sha256 of a single file."""


class Manifest(Wire):
    """The proof that an artifact is whole, and the chain back to what it was made from."""

    schema_version: int = 1
    run: RunRef
    iteration: int
    stage: Stage
    round: int = 1
    shard: int | None = None
    step: int | None = None
    """Set on step checkpoints."""
    attempt: int = 1
    """For people only: any attempt may publish, and the first one counts."""
    seed: int
    inputs: list[InputRef] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    """Package versions."""
    folder: str = ""
    """Where the files lie below the prefix; empty unless another attempt left other files there."""
    files: list[FileEntry] = Field(default_factory=list)
    outputs: dict[str, str] = Field(default_factory=dict)
    """URIs of the artifacts, by name, as in `StageResult`."""
    metrics: dict[str, float] = Field(default_factory=dict)
    label_audit: LabelAudit | None = None
    """Of a curriculum only."""
    seconds: float
    """Time that the work took."""
    started_at: str
    """RFC 3339."""
    finished_at: str
    """RFC 3339."""

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON (sorted keys, no spaces)."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def identity(self) -> tuple[str, int, str, int, int | None, int | None]:
        """What two attempts of one piece of work have in common."""
        return (self.run.uid, self.iteration, self.stage, self.round, self.shard, self.step)

    def result(self) -> StageResult:
        """What the stage reports: the same for every attempt."""
        return StageResult(
            run_uid=self.run.uid,
            iteration=self.iteration,
            stage=self.stage,
            round=self.round,
            shard=self.shard,
            outputs=self.outputs,
            metrics=self.metrics | {"bytes": float(sum(entry.size for entry in self.files))},
            manifest_digest=self.digest,
            seconds=self.seconds,
            label_audit=self.label_audit,
        )


def sha256_of(path: Path) -> str:
    """sha256 of a file, as 64 hex digits."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


class Verifier:
    """Checks files against their entries, each only once while it does not change."""

    def __init__(self) -> None:
        self._seen: set[tuple[Path, int, int, str]] = set()

    def holds(self, path: Path, entry: FileEntry) -> bool:
        """Whether `path` holds what `entry` says; without a checksum there, its size counts."""
        if not path.is_file():
            return False
        stat = path.stat()
        if stat.st_size != entry.size:
            return False
        key = (path, stat.st_size, stat.st_mtime_ns, entry.sha256)
        # Reading gigabytes again for each caller in one process would be a waste.
        if entry.sha256 and key not in self._seen:
            if sha256_of(path) != entry.sha256:
                return False
            self._seen.add(key)
        return True


def entries_of(folder: Path) -> list[FileEntry]:
    """The files of `folder`, by path. Folders in it that are artifacts themselves are left out."""
    paths = sorted(_files(folder, folder))
    with ThreadPoolExecutor(4) as pool:
        digests = pool.map(sha256_of, paths)
        return [
            FileEntry(
                path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest
            )
            for path, digest in zip(paths, digests, strict=True)
        ]


def _files(folder: Path, root: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(OWN):
            continue
        if path.is_dir():
            if not (path / MANIFEST).exists():
                yield from _files(path, root)
        elif path.name == MANIFEST and folder == root:
            raise BadTask(f"{path}: this name is kept for the artifact's manifest; rename the file")
        else:
            yield path


def folder_of_attempt(files: Sequence[FileEntry]) -> str:
    """A folder that only these very files can have, for when the usual place is taken."""
    text = "\n".join(f"{entry.sha256} {entry.path}" for entry in files)
    return OWN + hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def disk_errors(where: str | Path) -> Iterator[None]:
    """Turn `OSError` into the error of a stage that names the place and the remedy."""
    try:
        yield
    except BrokenPipeError:
        raise  # Whoever read our output went away: no matter of the disk.
    except OSError as error:
        raise _named(error, str(where)) from error


def _named(error: OSError, where: str) -> StageError:
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    if error.errno in NO_SPACE:
        return BadConfiguration(f"{where}: {reason}; free some space or choose another place")
    if error.filename and str(error.filename) not in where:
        reason += f" ({error.filename})"
    if error.errno in NO_PERMISSION:
        return BadConfiguration(
            f"{where}: {reason}; let user {os.geteuid()} write there or choose another place"
        )
    if error.errno in PASSING:
        return TryAgain(f"{where}: {reason}")
    return BadConfiguration(f"{where}: {reason}; correct the path")
