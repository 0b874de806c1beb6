"""The only code that knows where an artifact lies and when it is whole.

An artifact is a folder of files under a prefix, and a manifest that is put there last and only if
there is none. Stages publish and read artifacts through `ArtifactStore`; `disk` and `s3` do the
work for their kind of URI.
"""

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Protocol

from pydantic import ValidationError

from rzero_core.disk import Disk
from rzero_core.manifest import FileEntry, InputRef, Manifest, disk_errors, entries_of
from rzero_core.run import Storage
from rzero_core.task import CACHE_VARIABLE, BadConfiguration, BadData, BadTask, StageError
from rzero_core.wire import explain

__all__ = ["ArtifactStore", "FileEntry", "InputRef", "Manifest"]


class Backend(Protocol):
    """What a kind of URI has to offer. All errors are those of a stage and name the URI."""

    def read_manifest(self, prefix: str) -> bytes | None: ...

    def put_manifest(self, prefix: str, data: bytes) -> bool: ...

    def place(self, folder: Path, files: Sequence[FileEntry], prefix: str) -> str: ...

    def fetch(self, prefix: str, manifest: Manifest, files: Sequence[FileEntry]) -> Path: ...

    def plain_folder(self, uri: str) -> Path | None: ...

    def plain_file(self, uri: str) -> Path | None: ...

    def steps(self, prefix: str) -> list[int]: ...

    def delete(self, prefix: str) -> None: ...


class ArtifactStore:
    """Artifacts in folders or in an S3 bucket.

    `cache` is the folder for downloads: by default that of `RZERO_CACHE`, else a temporary one.
    `attempts` bounds how often a request is sent before `TryAgain` is raised.
    """

    def __init__(self, storage: Storage, cache: Path | None = None, attempts: int = 10) -> None:
        self._storage = storage
        self._cache = cache
        self._attempts = attempts
        self._disk = Disk()
        self._lock = Lock()
        self._s3: Backend | None = None
        self._temporary: TemporaryDirectory[str] | None = None

    def manifest(self, prefix: str) -> Manifest | None:
        """What was published under the prefix, None if nothing was. A corrupt one is `BadData`."""
        data = self._backend(prefix).read_manifest(prefix)
        if data is None:
            return None
        try:
            return Manifest.model_validate_json(data)
        except ValidationError as error:
            raise BadData(
                f"{prefix}/manifest.json: not a manifest of an artifact: {explain(error)[0]}; "
                "delete what lies under this prefix and run the stage again"
            ) from error

    def publish(self, folder: Path, manifest: Manifest, prefix: str) -> Manifest:
        """Publish the files of `folder` and return the manifest that counts.

        That is the one already there if it is of the same work (run, iteration, stage, round,
        shard, step), whatever the attempt. Raises `BadTask` if it is of other work.
        """
        found = self.manifest(prefix)
        if found is not None:
            return _own(found, manifest, prefix)
        backend = self._backend(prefix)
        with disk_errors(folder):
            files = entries_of(folder)
        try:
            below = backend.place(folder, files, prefix)
            whole = manifest.model_copy(update={"files": files, "folder": below})
            if backend.put_manifest(prefix, whole.to_json(indent=1).encode()):
                return whole
        except StageError:
            # Another attempt may have published meanwhile and tidied up behind itself.
            found = self.manifest(prefix)
            if found is None:
                raise
        else:
            # Another attempt was first, or the answer to our own first put was lost.
            found = self.manifest(prefix)
        if found is None:
            raise BadTask(f"{prefix}: deleted while it was being published; run nothing beside it")
        return _own(found, manifest, prefix)

    def local(self, prefix: str, names: Collection[str] | None = None) -> Path:
        """The artifact, or only the named files of it, in a local folder, verified by sha256.

        Without copying for `file://`; downloads for `s3://` skip what is there already. Raises
        `BadData` if nothing is published under the prefix, or not these files.
        """
        manifest = self.manifest(prefix)
        if manifest is None:
            raise BadData(f"{prefix} is not published; run the stage that makes it first")
        files = manifest.files
        if names is not None:
            missing = sorted(set(names) - {entry.path for entry in files})
            if missing:
                raise BadData(f"{prefix} has no {missing[0]}; it was made by another version")
            files = [entry for entry in files if entry.path in names]
        return self._backend(prefix).fetch(prefix, manifest, files)

    def model(self, uri: str) -> Path:
        """A local Hugging Face model folder.

        `uri` is an artifact (verified), a folder or `s3://` prefix without manifest, or
        `hf://owner/name@revision`. Raises `BadConfiguration` if there is no model.
        """
        uri = uri.rstrip("/")
        if uri.startswith("hf://"):
            from rzero_core.hub import snapshot

            folder: Path | None = snapshot(uri)
        elif self._is_artifact(uri):
            folder = self.local(uri)
        else:
            folder = self._backend(uri).plain_folder(uri)
        if folder is None:
            raise BadConfiguration(
                f"{uri}: no such model folder; correct spec.model or put the model there"
            )
        if not (folder / "config.json").is_file():
            raise BadConfiguration(
                f"{uri}: config.json is missing, so it is no Hugging Face model folder; "
                "correct spec.model or save the model there with save_pretrained"
            )
        return folder

    def file(self, uri: str) -> Path:
        """A single file, downloaded if need be. Raises `BadConfiguration` if it is missing."""
        path = self._backend(uri).plain_file(uri)
        if path is None:
            raise BadConfiguration(f"{uri}: no such file; correct the URI or put the file there")
        return path

    def steps(self, prefix: str) -> list[int]:
        """Published step checkpoints under the prefix, ascending."""
        return self._backend(prefix).steps(prefix)

    def delete(self, prefix: str) -> None:
        """Delete all that lies under the prefix, its manifest first."""
        self._backend(prefix).delete(prefix)

    def _is_artifact(self, uri: str) -> bool:
        if self.manifest(uri) is not None:
            return True
        # A checkpoint that a run is still writing must not pass for a plain model folder.
        root = self._storage.uri
        return uri.startswith(f"{root}/") and bool(re.search(r"/i\d{4}/", uri[len(root) :]))

    def _backend(self, uri: str) -> Backend:
        if not uri.startswith("s3://"):
            if "://" in uri and not uri.startswith("file://"):
                raise BadConfiguration(f"{uri}: write s3://bucket/prefix, file:///path or a path")
            return self._disk
        # Training publishes checkpoints from a second thread.
        with self._lock:
            if self._s3 is None:
                from rzero_core.s3 import S3

                self._s3 = S3(self._storage, self._downloads, self._attempts)
            return self._s3

    def _downloads(self) -> Path:
        with self._lock:
            named = os.environ.get(CACHE_VARIABLE)
            if self._cache is None and named:
                self._cache = Path(named)
            if self._cache is None:
                with disk_errors("temporary folder"):
                    self._temporary = TemporaryDirectory(prefix="rzero-")
                self._cache = Path(self._temporary.name)
            return self._cache


def _own(found: Manifest, ours: Manifest, prefix: str) -> Manifest:
    if found.identity != ours.identity:
        raise BadTask(
            f"{prefix} holds {found.stage} of iteration {found.iteration} of run "
            f"{found.run.name} ({found.run.uid}), not of {ours.run.name} ({ours.run.uid}); "
            "choose another storage.uri or delete what is there"
        )
    return found
