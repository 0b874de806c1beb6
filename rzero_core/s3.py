"""Artifacts in S3 buckets. Nothing published is written again, and nothing damaged is kept.

Data goes through boto3's transfer manager: parts and files in parallel, in one pool of threads.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import ClientError

from rzero_core.manifest import (
    MANIFEST,
    OWN,
    FileEntry,
    Manifest,
    Verifier,
    disk_errors,
    folder_of_attempt,
)
from rzero_core.run import Storage
from rzero_core.s3_client import THREADS, Again, ask, connect, is_missing, is_taken
from rzero_core.task import BadTask

PART = 64 << 20
OPEN_FILES = 128


class S3:
    """The store's part for `s3://`. Downloads go to the folder that `cache` gives."""

    def __init__(self, storage: Storage, cache: Callable[[], Path], attempts: int) -> None:
        self._cache = cache
        self._verifier = Verifier()
        self._transfer = TransferConfig(
            multipart_threshold=PART,
            multipart_chunksize=PART,
            max_concurrency=THREADS,
            # The other client of boto3 ignores endpoints (boto3#4839) and our conditional puts.
            preferred_transfer_client="classic",
        )
        self._client = connect(storage, attempts)

    def read_manifest(self, prefix: str) -> bytes | None:
        """The manifest's bytes, None where there is none."""
        bucket, key = _split(f"{prefix}/{MANIFEST}")

        def read() -> bytes | None:
            try:
                body: bytes = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
            except ClientError as error:
                if is_missing(error):
                    return None
                raise
            return body

        return ask(prefix, read)

    def put_manifest(self, prefix: str, data: bytes) -> bool:
        """Write the manifest unless there is one. Of many writers exactly one gets True.

        False as well when our own put succeeded and its answer was lost.
        """
        bucket, key = _split(f"{prefix}/{MANIFEST}")

        def put() -> bool:
            try:
                self._client.put_object(
                    Bucket=bucket, Key=key, Body=data, ContentType="application/json"
                )
            except ClientError as error:
                if is_taken(error):
                    return False
                raise
            return True

        return ask(prefix, put)

    def place(self, folder: Path, files: Sequence[FileEntry], prefix: str) -> str:
        """Upload what is not there yet; returns the folder below the prefix with the files."""
        # Another attempt may have left other files. They may belong to a live one: touch none.
        for below in ("", folder_of_attempt(files)):
            root = f"{prefix}/{below}".rstrip("/")
            with disk_errors(folder):
                if ask(root, partial(self._upload, folder, files, root)):
                    return below
        raise BadTask(f"{root}: holds damaged files; delete what lies under {prefix}")

    def _upload(self, folder: Path, files: Sequence[FileEntry], root: str) -> bool:
        """Put all files under `root`. False: another file is at the place of one."""
        with ThreadPoolExecutor(THREADS) as pool:
            held = list(pool.map(lambda entry: self._holds(root, entry), files))
        if False in held:
            return False
        missing = [entry for entry, state in zip(files, held, strict=True) if state is None]
        with create_transfer_manager(self._client, self._transfer) as manager:
            transfers = []
            for entry in missing:
                bucket, key = _split(f"{root}/{entry.path}")
                extra = {"Metadata": {"sha256": entry.sha256}}
                transfers.append(manager.upload(str(folder / entry.path), bucket, key, extra))
            for entry, transfer in zip(missing, transfers, strict=True):
                try:
                    transfer.result()
                except ClientError as error:
                    if not is_taken(error):
                        raise
                    # Either another attempt was faster or our own first answer was lost.
                    if not self._holds(root, entry):
                        return False
        return True

    def _holds(self, root: str, entry: FileEntry) -> bool | None:
        """Whether the file is there with its size and checksum; None if nothing is there."""
        head = self._head(f"{root}/{entry.path}")
        if head is None:
            return None
        same: bool = head["ContentLength"] == entry.size
        return same and head["Metadata"].get("sha256") == entry.sha256

    def fetch(self, prefix: str, manifest: Manifest, files: Sequence[FileEntry]) -> Path:
        """A local copy of these files, each checked against the manifest."""
        target = self._cache() / manifest.digest[:16]
        root = f"{prefix}/{manifest.folder}".rstrip("/")
        self._download(root, files, target)
        return target

    def plain_folder(self, uri: str) -> Path | None:
        """A local copy of a prefix without manifest, None where nothing is."""
        root = uri.rstrip("/")
        found = {key: item for key, item in self._list(root) if not key.endswith("/")}
        if not found:
            return None
        start = len(_split(root)[1]) + 1
        state = "\n".join(f"{key} {_version(item)}" for key, item in sorted(found.items()))
        files = [
            FileEntry(path=key[start:], size=item["Size"], sha256="") for key, item in found.items()
        ]
        return self._unchecked(root, state, files)

    def plain_file(self, uri: str) -> Path | None:
        """A local copy of one object, None where there is none."""
        head = ask(uri, lambda: self._head(uri))
        if head is None:
            return None
        root, _, name = uri.rpartition("/")
        entry = FileEntry(
            path=name,
            size=head["ContentLength"],
            sha256="",
        )
        return self._unchecked(root, f"{name} {_version(head)}", [entry]) / name

    def _unchecked(self, root: str, state: str, files: Sequence[FileEntry]) -> Path:
        """Download into a folder named after what was found: a change there is another folder."""
        name = hashlib.sha256(f"{root}\n{state}".encode()).hexdigest()[:16]
        target = self._cache() / name
        self._download(root, files, target)
        return target

    def _download(self, root: str, files: Sequence[FileEntry], target: Path) -> None:
        """Fetch what `target` does not hold yet."""
        with disk_errors(target):
            todo = [
                entry for entry in files if not self._verifier.holds(target / entry.path, entry)
            ]
        while todo:
            ask(root, partial(self._download_some, root, todo, target))

    def _download_some(self, root: str, todo: list[FileEntry], target: Path) -> None:
        """Fetch the first files of `todo` and take from it what came whole."""
        batch = todo[:OPEN_FILES]
        sinks: list[_Sink] = []
        try:
            with create_transfer_manager(self._client, self._transfer) as manager:
                transfers = []
                for entry in batch:
                    bucket, key = _split(f"{root}/{entry.path}")
                    sinks.append(_Sink(target / entry.path, entry))
                    transfers.append(manager.download(bucket, key, sinks[-1]))
                for transfer in transfers:
                    transfer.result()
        finally:
            # After a failure, too: what came whole need not be fetched again.
            for sink in sinks:
                if sink.keep():
                    todo.remove(sink.entry)
                sink.discard()
        if todo and todo[0] in batch:
            raise Again(f"{root}/{todo[0].path}: damaged on its way or in storage")

    def steps(self, prefix: str) -> list[int]:
        """Published step checkpoints, ascending."""
        start = len(_split(prefix)[1]) + 1
        parts = [key[start:].split("/") for key, _ in self._list(f"{prefix}/step-", exact=False)]
        return sorted(
            int(part[0][5:])
            for part in parts
            if len(part) == 2 and part[1] == MANIFEST and part[0][5:].isdecimal()
        )

    def delete(self, prefix: str) -> None:
        """Delete all objects under the prefix, manifest first: half deleted is not published."""
        bucket, manifest = _split(f"{prefix}/{MANIFEST}")
        ask(prefix, lambda: self._client.delete_object(Bucket=bucket, Key=manifest))
        keys = [key for key, _ in self._list(prefix)]
        for start in range(0, len(keys), 1000):
            batch = {"Objects": [{"Key": key} for key in keys[start : start + 1000]], "Quiet": True}

            ask(prefix, partial(self._delete_batch, bucket, batch))

    def _delete_batch(self, bucket: str, batch: dict[str, Any]) -> None:
        answer = self._client.delete_objects(Bucket=bucket, Delete=batch)
        for failed in answer.get("Errors", []):
            raise ClientError({"Error": failed}, "DeleteObjects")

    def _head(self, uri: str) -> dict[str, Any] | None:
        bucket, key = _split(uri)
        try:
            head: dict[str, Any] = self._client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return head

    def _list(self, prefix: str, exact: bool = True) -> list[tuple[str, dict[str, Any]]]:
        """All keys under the prefix, with what the listing says of them."""
        bucket, key = _split(prefix)
        pages = self._client.get_paginator("list_objects_v2")

        def collect() -> list[tuple[str, dict[str, Any]]]:
            found = pages.paginate(Bucket=bucket, Prefix=f"{key}/" if exact and key else key)
            return [(item["Key"], item) for page in found for item in page.get("Contents", [])]

        return ask(prefix, collect)


class _Sink:
    """Takes an object in order, hashes it on its way to a temporary file, and names it if right."""

    def __init__(self, target: Path, entry: FileEntry) -> None:
        self.entry = entry
        self._target = target
        self._temporary = target.with_name(f"{OWN}tmp-{uuid4().hex}")
        self._hash = hashlib.sha256()
        self._size = 0
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._out = self._temporary.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        with disk_errors(self._target):
            rest = memoryview(data)
            while rest:
                rest = rest[self._out.write(rest) :]
        self._hash.update(data)
        self._size += len(data)

    def keep(self) -> bool:
        """Give the file its name, unless its size or checksum is wrong."""
        right = self._size == self.entry.size
        if self.entry.sha256:
            right = right and self._hash.hexdigest() == self.entry.sha256
        if right:
            with disk_errors(self._target):
                self._out.close()
                self._temporary.replace(self._target)
        return right

    def discard(self) -> None:
        """Leave nothing unfinished behind."""
        with suppress(OSError):
            self._out.close()
            self._temporary.unlink(missing_ok=True)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key.rstrip("/")


def _version(item: dict[str, Any]) -> str:
    return f"{item.get('ETag')} {item['LastModified']}"
