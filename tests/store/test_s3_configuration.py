"""What the store says of wrong credentials, buckets and places for its cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from artifact_makers import MEGABYTE, folder_with, manifest
from s3_server import S3Server

from rzero_core.run import Storage
from rzero_core.store import ArtifactStore
from rzero_core.task import BadConfiguration


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "wrong")],
)
def test_wrong_credentials_are_bad_configuration(
    store: ArtifactStore, root: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadConfiguration, match=r"wrong credentials .*storage.secretName") as error:
        store.manifest(f"{root}/x")
    assert "\n" not in str(error.value)


def test_missing_credentials_are_bad_configuration(
    store: ArtifactStore, root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(BadConfiguration, match=r"no credentials; set AWS_ACCESS_KEY_ID and .*"):
        store.manifest(f"{root}/x")


def test_a_missing_bucket_is_bad_configuration(store: ArtifactStore, tmp_path: Path) -> None:
    work = folder_with(tmp_path / "work", a_txt="one")
    with pytest.raises(BadConfiguration, match=r"there is no bucket nowhere; create it"):
        store.publish(work, manifest(), "s3://nowhere/x")


def test_a_cache_that_cannot_be_written_is_bad_configuration(
    s3: S3Server, store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    store.publish(folder_with(tmp_path / "work", a_txt="one"), manifest(), f"{root}/x")
    (tmp_path / "file").write_text("in the way")
    storage = Storage(uri=root, endpoint=s3.endpoint)
    with pytest.raises(BadConfiguration, match=r"file/.*: .*; correct the path"):
        ArtifactStore(storage, tmp_path / "file").local(f"{root}/x")


def test_a_disk_that_fills_up_during_a_download_is_bad_configuration(
    s3: S3Server, store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_bin=os.urandom(MEGABYTE))
    store.publish(work, manifest(), f"{root}/x")
    cache = str(tmp_path / "c")
    script = f"""
import resource, signal
from pathlib import Path
from rzero_core.run import Storage
from rzero_core.store import ArtifactStore
from rzero_core.task import StageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
store = ArtifactStore(Storage(uri={root!r}, endpoint={s3.endpoint!r}), Path({cache!r}))
try:
    store.local({root + "/x"!r})
except StageError as error:
    print(error.exit_code, error)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("78 ") and "free some space" in done.stdout
    assert [path for path in (tmp_path / "c").rglob("*") if path.is_file()] == []
