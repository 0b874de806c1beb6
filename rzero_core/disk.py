"""Artifacts in folders: `file://` and plain paths. Nothing that was published is written again."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote
from uuid import uuid4

from rzero_core.manifest import (
    MANIFEST,
    OWN,
    FileEntry,
    Manifest,
    Verifier,
    disk_errors,
    folder_of_attempt,
)
from rzero_core.task import BadData

UNFINISHED = f"{OWN}tmp-"


def path_of(uri: str) -> Path:
    """The path that a `file://` URI or a plain path names, seen from the working directory."""
    if uri.startswith("file://"):
        return Path(unquote(uri.removeprefix("file://"))).absolute()
    return Path(uri).expanduser().absolute()


class Disk:
    """The store's part for `file://`."""

    def __init__(self) -> None:
        self._verifier = Verifier()

    def read_manifest(self, prefix: str) -> bytes | None:
        """The manifest's bytes, None where there is none."""
        with disk_errors(prefix):
            try:
                return (path_of(prefix) / MANIFEST).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def put_manifest(self, prefix: str, data: bytes) -> bool:
        """Write the manifest unless there is one. Of many writers exactly one gets True."""
        target = path_of(prefix)
        temporary = target / f"{UNFINISHED}{uuid4().hex}"
        with disk_errors(prefix):
            target.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as out:
                    out.write(data)
                    out.flush()
                    os.fsync(out.fileno())
                # Unlike a rename, a link never replaces what is there.
                os.link(temporary, target / MANIFEST)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _sync(target)
            # Left by attempts that were killed; one that still lives finds our manifest instead.
            for leftover in target.glob(f"{UNFINISHED}*"):
                leftover.unlink(missing_ok=True)
            return True

    def place(self, folder: Path, files: Sequence[FileEntry], prefix: str) -> str:
        """Bring the files under the prefix; returns the folder below it that holds them."""
        target = path_of(prefix)
        with disk_errors(prefix):
            if folder.resolve() == target.resolve():
                for entry in files:
                    _sync(folder / entry.path)
                return ""
            target.mkdir(parents=True, exist_ok=True)
            # What the stage wrote below its prefix is the store's own by now: no copy needed.
            link = folder.resolve().is_relative_to(target.resolve())
            for entry in files:
                if not self._place_file(folder / entry.path, target, entry.path, entry, link):
                    break
            else:
                return ""
            # Another attempt left other files. They may belong to a live one: touch none of them.
            below = folder_of_attempt(files)
            for entry in files:
                path = f"{below}/{entry.path}"
                if not self._place_file(folder / entry.path, target, path, entry, link):
                    (target / path).unlink()
                    self._place_file(folder / entry.path, target, path, entry, link)
            return below

    def _place_file(
        self, source: Path, root: Path, path: str, entry: FileEntry, link: bool
    ) -> bool:
        """Put one file at `root/path`. False: another file is there."""
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return self._verifier.holds(target, entry)
        temporary = root / f"{UNFINISHED}{uuid4().hex}"
        try:
            if link:
                os.link(source, temporary)
            else:
                shutil.copyfile(source, temporary)
            _sync(temporary)
            os.link(temporary, target)
        except FileExistsError:
            return self._verifier.holds(target, entry)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def fetch(self, prefix: str, manifest: Manifest, files: Sequence[FileEntry]) -> Path:
        """The artifact's folder, once its files were found to be what the manifest says."""
        folder = path_of(prefix) / manifest.folder
        with disk_errors(prefix):
            for entry in files:
                if not self._verifier.holds(folder / entry.path, entry):
                    raise BadData(
                        f"{prefix}: {entry.path} is missing or differs from its manifest; "
                        "delete the folder and run the stage again"
                    )
        return folder

    def plain_folder(self, uri: str) -> Path | None:
        """A folder without manifest, None where there is none."""
        path = path_of(uri)
        return path if path.is_dir() else None

    def plain_file(self, uri: str) -> Path | None:
        """A single file, None where there is none."""
        path = path_of(uri)
        return path if path.is_file() else None

    def steps(self, prefix: str) -> list[int]:
        """Published step checkpoints, ascending."""
        with disk_errors(prefix):
            names = [path.parent.name for path in path_of(prefix).glob(f"step-*/{MANIFEST}")]
        return sorted(int(name[5:]) for name in names if re.fullmatch(r"step-\d+", name))

    def delete(self, prefix: str) -> None:
        """Remove the folder, manifest first: what is half deleted is not published."""
        target = path_of(prefix)
        with disk_errors(prefix):
            (target / MANIFEST).unlink(missing_ok=True)
            if target.exists():
                shutil.rmtree(target)


def _sync(path: Path) -> None:
    """Wait until the file or folder is on the disk: a manifest must not outlive its data."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
