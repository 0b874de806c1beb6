"""The folder in which a run on one machine keeps what it must not forget.

For `file://` storage it is the run's own folder beside its artifacts, for `s3://` a folder under
`.rzero/` in the working directory:

    status.json      RunStatus, replaced as a whole at each change
    run.json         what must never change (Identity)
    logs/            what the stages say, a file for each attempt
    attempts/        task and results of each attempt
    runner.lock      held by the one runner; stages.lock: held by every stage process
"""

import fcntl
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Self
from uuid import NAMESPACE_URL, uuid5

from pydantic import ValidationError

from rzero_core.disk import path_of
from rzero_core.manifest import disk_errors
from rzero_core.run import CoEvolutionRun
from rzero_core.status import RunStatus
from rzero_core.task import RESULT_VARIABLE, BadConfiguration, RunRef, run_prefix
from rzero_core.wire import Wire


class Identity(Wire):
    """What a run keeps from its first start on."""

    name: str
    namespace: str
    uid: str
    model: str
    seed: int
    storage: str


class RunFolder:
    """Where one run keeps its state. Making one touches nothing."""

    def __init__(self, manifest: CoEvolutionRun) -> None:
        spec, metadata = manifest.spec, manifest.metadata
        base = uuid5(NAMESPACE_URL, f"rzero.dev/{metadata.namespace}/{metadata.name}")
        root = local_path(spec.storage.uri)
        # In a bucket there is no run.json to compare with, so what may not change is in the uid.
        uid = base if root else uuid5(base, f"{spec.model}/{spec.seed}")
        self.run = RunRef(name=metadata.name, namespace=metadata.namespace, uid=str(uid))
        self.identity = Identity(
            **self.run.model_dump(), model=spec.model, seed=spec.seed, storage=spec.storage.uri
        )
        here = RunRef(name=metadata.name, namespace=metadata.namespace, uid=str(base))
        self.path = Path(run_prefix(str(root or ".rzero"), here)).resolve()
        self.status_path = self.path / "status.json"
        self._runner_lock: int | None = None
        self.stages_lock: int | None = None

    def read_status(self) -> RunStatus:
        """The recorded status; a fresh one before the first start."""
        try:
            return RunStatus.model_validate_json(self.status_path.read_bytes())
        except FileNotFoundError:
            return RunStatus()
        except ValidationError as error:
            raise BadConfiguration(
                f"{self.status_path}: not a status; move it away, the run continues from its "
                "artifacts"
            ) from error

    def write_status(self, status: RunStatus) -> None:
        """Replace the recorded status as a whole, on disk when this returns."""
        with disk_errors(self.status_path):
            _replace(self.status_path, status.to_json(indent=2))

    def open(self) -> Self:
        """Take the run for this process: alone, with no stage of an earlier runner left alive.

        Raises `BadConfiguration` when another runner holds it or when the manifest contradicts
        what the run was started with.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._runner_lock = os.open(self.path / "runner.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._runner_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise BadConfiguration(
                f"run {self.run.name} is already running here ({self.path}); watch it with "
                "`rzero status`, or stop that process first"
            ) from error
        try:
            self._check_identity()
        except BadConfiguration:
            self.close()
            raise
        self._end_leftovers()
        return self

    def close(self) -> None:
        """Let go of the run."""
        for descriptor in (self._runner_lock, self.stages_lock):
            if descriptor is not None:
                os.close(descriptor)
        self._runner_lock = self.stages_lock = None

    def _check_identity(self) -> None:
        path = self.path / "run.json"
        if not path.exists():
            with disk_errors(path):
                _replace(path, self.identity.to_json(indent=2))
            return
        try:
            recorded = Identity.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise BadConfiguration(
                f"{path}: does not say what the run was started with; move it away if the manifest "
                "is the one that the run was started with"
            ) from error
        for name, label in (("model", "model"), ("seed", "seed"), ("storage", "storage.uri")):
            was, now = getattr(recorded, name), getattr(self.identity, name)
            if was != now:
                raise BadConfiguration(
                    f"spec.{label}: run {self.run.name} was started with {was} and cannot go on "
                    f"with {now}; restore it, or choose another metadata.name for a new run"
                )

    def _end_leftovers(self) -> None:
        """Take the lock that stage processes inherit; end those that outlived a killed runner."""
        self.stages_lock = os.open(self.path / "stages.lock", os.O_RDWR | os.O_CREAT, 0o644)
        mark = f"{RESULT_VARIABLE}={self.path}/".encode()
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = environ.read_bytes().split(b"\0")
                if any(variable.startswith(mark) for variable in variables):
                    os.kill(int(environ.parent.name), signal.SIGKILL)
            except (OSError, ValueError):
                continue  # Ended meanwhile, or another user's.
        # Where processes cannot be listed, this waits for the last stage to end by itself.
        fcntl.flock(self.stages_lock, fcntl.LOCK_EX)
        # What a killed stage had not finished; a checkpoint's worth each.
        for unfinished in (self.path / "cache").glob("stage-*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def local_path(uri: str) -> Path | None:
    """The path that a URI or plain path names on this machine, None for other schemes."""
    return path_of(uri) if "://" not in uri or uri.startswith("file://") else None


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
