"""The store on a real S3 server when connections, publishers and files are lost on the way."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from artifact_makers import MEGABYTE, content, folder_with, manifest
from faulty_proxy import Fault, FaultyProxy
from s3_server import S3Server

from rzero_core.run import Storage
from rzero_core.store import ArtifactStore
from rzero_core.task import BadData, TryAgain


def test_an_interrupted_upload_goes_on_with_the_files_that_are_missing(
    shaky: ArtifactStore, proxy: FaultyProxy, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_txt="one", b_txt="two", c_txt="three")
    proxy.faults = [Fault("busy", "PUT", "/b.txt", times=4)]
    with pytest.raises(TryAgain, match=r"storage is busy or broken \(SlowDown"):
        shaky.publish(work, manifest(), f"{root}/x")
    assert shaky.manifest(f"{root}/x") is None
    proxy.requests.clear()
    shaky.publish(work, manifest(), f"{root}/x")
    puts = [request for request in proxy.requests if request.startswith("PUT")]
    assert any("b.txt" in put for put in puts)
    assert content(shaky.local(f"{root}/x")) == content(work)
    # What had arrived is not sent again.
    assert len([put for put in puts if "manifest" not in put]) < 3


def test_an_interrupted_download_goes_on_with_the_files_that_are_missing(
    shaky: ArtifactStore, proxy: FaultyProxy, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_txt="one", b_txt="two", c_txt="three")
    shaky.publish(work, manifest(), f"{root}/x")
    proxy.faults = [Fault("busy", "GET", "/b.txt", times=4)]
    with pytest.raises(TryAgain, match="storage is busy"):
        shaky.local(f"{root}/x")
    proxy.requests.clear()
    assert content(shaky.local(f"{root}/x")) == content(work)
    gets = [request for request in proxy.requests if "manifest" not in request]
    assert {request.split("/")[-1].split("?")[0] for request in gets} == {"b.txt"}
    # A file that was changed behind our back is fetched again.
    (shaky.local(f"{root}/x") / "a.txt").write_text("two")
    assert content(shaky.local(f"{root}/x")) == content(work)


@pytest.mark.parametrize("kind", ["busy", "reset"])
def test_a_few_refusals_and_resets_are_sat_out(
    shaky: ArtifactStore, proxy: FaultyProxy, root: str, tmp_path: Path, kind: str
) -> None:
    work = folder_with(tmp_path / "work", a_txt="one", b_txt="two" * 1000)
    proxy.faults = [
        Fault(kind, method, path, times=2)
        for method in ("GET", "PUT", "HEAD")
        for path in ("a.txt", "manifest.json")
    ]
    shaky.publish(work, manifest(), f"{root}/x")
    assert content(shaky.local(f"{root}/x")) == content(work)
    assert sum(fault.happened for fault in proxy.faults) == 10


@pytest.mark.parametrize("kind", ["truncate", "flip"])
def test_a_truncated_or_damaged_body_is_fetched_again(
    shaky: ArtifactStore, proxy: FaultyProxy, root: str, tmp_path: Path, kind: str
) -> None:
    work = folder_with(tmp_path / "work", a_bin=os.urandom(3 * MEGABYTE), b_txt="two")
    shaky.publish(work, manifest(), f"{root}/x")
    proxy.faults = [Fault(kind, "GET", "/a.bin", times=2)]
    if kind == "truncate":
        proxy.faults.append(Fault(kind, "GET", "/manifest.json"))
    assert content(shaky.local(f"{root}/x")) == content(work)
    assert all(fault.happened == fault.times for fault in proxy.faults)


def test_a_body_that_stays_damaged_is_never_handed_out(
    shaky: ArtifactStore, proxy: FaultyProxy, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_bin=os.urandom(MEGABYTE), b_txt="two")
    shaky.publish(work, manifest(), f"{root}/x")
    proxy.faults = [Fault("flip", "GET", "/a.bin", times=99)]
    with pytest.raises(TryAgain, match=r"x/a.bin: damaged on its way or in storage"):
        shaky.local(f"{root}/x")
    assert proxy.faults[0].happened < 10
    left = [path.name for path in (tmp_path / "shaky").rglob("*") if path.is_file()]
    assert left == ["b.txt"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/manifest.json"), ("PUT", "/a.txt"), ("POST", r"/big.bin\?uploadId")],
)
def test_a_put_whose_answer_was_lost_counts_as_done(
    shaky: ArtifactStore, proxy: FaultyProxy, root: str, tmp_path: Path, method: str, path: str
) -> None:
    # The large file goes in parts, which the last request joins.
    work = folder_with(tmp_path / "work", a_txt="one", big_bin=os.urandom(MEGABYTE) * 65)
    proxy.faults = [Fault("swallow", method, path)]
    published = shaky.publish(work, manifest(), f"{root}/x")
    assert proxy.faults[0].happened == 1
    assert shaky.manifest(f"{root}/x") == published
    assert published.folder == ""
    assert content(shaky.local(f"{root}/x")) == content(work)


def test_a_publisher_killed_at_any_request_leaves_nothing_that_reads_as_whole(
    proxy: FaultyProxy, store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", **{f"f{n}_bin": os.urandom(MEGABYTE) for n in range(6)})
    script = f"""
import sys
from pathlib import Path
from rzero_core.run import Storage
from rzero_core.store import ArtifactStore, Manifest
store = ArtifactStore(Storage(uri={root!r}, endpoint={proxy.endpoint!r}))
manifest = Manifest.model_validate_json({manifest().to_json()!r})
store.publish(Path({str(work)!r}), manifest, sys.argv[1])
"""
    for deadly in (2, 4, 6):
        prefix, puts, reached = f"{root}/{deadly}", 0, threading.Event()

        def count(request: str, deadly: int = deadly, reached: threading.Event = reached) -> None:
            nonlocal puts
            puts += request.startswith("PUT")
            if puts >= deadly:
                # However late the kill comes: from this request on the server hears nothing.
                proxy.faults = [Fault("reset", "PUT", "", times=999)]
                reached.set()

        proxy.faults, proxy.on_request = [], count
        process = subprocess.Popen([sys.executable, "-c", script, prefix])
        assert reached.wait(60)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with pytest.raises(BadData, match="is not published"):
            store.local(prefix)
        store.publish(work, manifest(attempt=2), prefix)
        assert content(store.local(prefix)) == content(work)


def test_a_published_file_that_vanished_is_bad_data(
    s3: S3Server, store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    store.publish(folder_with(tmp_path / "work", a_txt="one"), manifest(), f"{root}/x")
    (s3.folder / root.split("/")[-1] / "x/a.txt").unlink()
    with pytest.raises(BadData, match=r"x: a published file is gone; .*run the stage again"):
        store.local(f"{root}/x")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_an_endpoint_that_cannot_be_reached_means_try_again(root: str, endpoint: str) -> None:
    store = ArtifactStore(Storage(uri=root, endpoint=endpoint), attempts=2)
    with pytest.raises(TryAgain, match=r"x: storage cannot be reached") as error:
        store.manifest(f"{root}/x")
    assert "\n" not in str(error.value)
