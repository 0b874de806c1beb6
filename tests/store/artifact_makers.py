"""Makes manifests and the folders that the tests of this folder publish."""

from pathlib import Path

from rzero_core.run import Stage
from rzero_core.store import Manifest
from rzero_core.task import RunRef

RUN = RunRef(name="demo", uid="11111111-2222")
TIME = "2026-01-01T00:00:00Z"
MEGABYTE = 1 << 20


def manifest(run: RunRef = RUN, attempt: int = 1, step: int | None = None) -> Manifest:
    return Manifest(
        run=run,
        iteration=1,
        stage=Stage.TRAIN_SOLVER,
        step=step,
        attempt=attempt,
        seed=7,
        seconds=1.5,
        started_at=TIME,
        finished_at=TIME,
    )


def folder_with(root: Path, **files: str | bytes) -> Path:
    root.mkdir(parents=True)
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
