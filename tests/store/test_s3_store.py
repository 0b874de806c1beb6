"""The store on a real S3 server, in fair weather and foul."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest
from faulty_proxy import Fault, FaultyProxy, faulty_proxy
from s3_server import S3Server

from rzero_core.run import Stage, Storage
from rzero_core.store import ArtifactStore, Manifest
from rzero_core.task import BadConfiguration, BadData, BadTask, RunRef, TryAgain

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


@pytest.fixture
def root(s3: S3Server) -> str:
    return f"s3://{s3.bucket}/{uuid4().hex[:8]}"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3.endpoint) as running:
        yield running


@pytest.fixture
def store(s3: S3Server, root: str, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Storage(uri=root, endpoint=s3.endpoint), tmp_path / "cache")


@pytest.fixture
def shaky(proxy: FaultyProxy, root: str, tmp_path: Path) -> ArtifactStore:
    """A store behind the faulty proxy."""
    return ArtifactStore(Storage(uri=root, endpoint=proxy.endpoint), tmp_path / "shaky", attempts=4)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_was_published_is_found_again_with_its_files(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_txt="one", sub__b_txt="two", empty_txt="")
    assert store.manifest(f"{root}/x") is None
    published = store.publish(work, manifest(), f"{root}/x")
    assert store.manifest(f"{root}/x") == published
    assert content(store.local(f"{root}/x")) == content(work)
    assert content(store.local(f"{root}/x", ["a.txt"])).keys() >= {"a.txt"}
    with pytest.raises(BadData, match=r"x has no c.txt"):
        store.local(f"{root}/x", ["c.txt"])


@pytest.mark.parametrize("checksums", ["WhenSupported", "WhenRequired"])
def test_a_file_of_several_parts_comes_back_whole_in_either_checksum_mode(
    s3: S3Server, root: str, tmp_path: Path, checksums: str
) -> None:
    storage = Storage.parse({"uri": root, "endpoint": s3.endpoint, "checksums": checksums})
    store = ArtifactStore(storage, tmp_path / "cache")
    work = folder_with(tmp_path / "work", big_bin=os.urandom(MEGABYTE) * 150, a_txt="one")
    published = store.publish(work, manifest(), f"{root}/x")
    assert published.folder == ""
    assert content(store.local(f"{root}/x")) == content(work)


def test_a_second_attempt_gets_the_manifest_of_the_first(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    first = store.publish(folder_with(tmp_path / "one", a_txt="one"), manifest(), f"{root}/x")
    work = folder_with(tmp_path / "two", a_txt="two")
    assert store.publish(work, manifest(attempt=2), f"{root}/x") == first
    assert content(store.local(f"{root}/x")) == {"a.txt": b"one"}
    other = RunRef(name="other", uid="99999999")
    with pytest.raises(BadTask, match=r"/x holds .* of run demo .*choose another storage.uri"):
        store.publish(work, manifest(other), f"{root}/x")


def test_of_eight_publishers_at_once_one_wins_and_its_files_stay_whole(
    s3: S3Server, root: str, tmp_path: Path
) -> None:
    storage = Storage(uri=root, endpoint=s3.endpoint)
    for turn in range(3):
        prefix, start = f"{root}/{turn}", Barrier(8)

        def publish(n: int, turn: int = turn, prefix: str = prefix, start: Barrier = start) -> str:
            work = folder_with(tmp_path / f"{turn}-{n}", a_txt=f"mine: {n}" * 9999, b_txt=str(n))
            store = ArtifactStore(storage, tmp_path / f"cache-{n}")
            start.wait()
            whole = store.publish(work, manifest(attempt=n), prefix)
            return f"{whole.attempt} {whole.digest}"

        with ThreadPoolExecutor(8) as pool:
            winners = set(pool.map(publish, range(1, 9)))
        assert len(winners) == 1
        winner = winners.pop().split()[0]
        local = ArtifactStore(storage, tmp_path / f"cache-{turn}").local(prefix)
        assert (local / "b.txt").read_text() == winner
        assert (local / "a.txt").read_text() == f"mine: {winner}" * 9999


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
    s3: S3Server, proxy: FaultyProxy, store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", **{f"f{n}_bin": os.urandom(MEGABYTE) for n in range(6)})
    script = f"""
from pathlib import Path
from rzero_core.run import Storage
from rzero_core.store import ArtifactStore, Manifest
store = ArtifactStore(Storage(uri={root!r}, endpoint={proxy.endpoint!r}))
manifest = Manifest.model_validate_json({manifest().to_json()!r})
store.publish(Path({str(work)!r}), manifest, {root + "/x"!r})
"""
    for deadly in (2, 4, 6):
        puts, reached = 0, threading.Event()

        def count(request: str, deadly: int = deadly, reached: threading.Event = reached) -> None:
            nonlocal puts
            puts += request.startswith("PUT")
            if puts >= deadly:
                reached.set()

        proxy.on_request = count
        process = subprocess.Popen([sys.executable, "-c", script])
        assert reached.wait(60) or process.poll() is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with pytest.raises(BadData, match="is not published"):
            store.local(f"{root}/x")
        if deadly < 6:
            # So that the next attempt has something left to send.
            for number in range(6):
                (s3.folder / root.split("/")[-1] / f"x/f{number}.bin").unlink(missing_ok=True)
    store.publish(work, manifest(attempt=2), f"{root}/x")
    assert content(store.local(f"{root}/x")) == content(work)


def test_readers_see_nothing_or_the_whole_while_it_is_being_published(
    s3: S3Server, store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", **{f"f{n}_bin": os.urandom(MEGABYTE) for n in range(8)})
    seen: list[str] = []
    done = threading.Event()

    def read() -> None:
        reader = ArtifactStore(Storage(uri=root, endpoint=s3.endpoint), tmp_path / "reader")
        while "whole" not in seen and not (done.is_set() and len(seen) > 500):
            try:
                same = content(reader.local(f"{root}/x")) == content(work)
                seen.append("whole" if same else "partial")
            except BadData:
                seen.append("nothing")

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.05)
    store.publish(work, manifest(), f"{root}/x")
    done.set()
    thread.join()
    assert seen[-1] == "whole" and "partial" not in seen


def test_a_published_file_that_vanished_is_bad_data(
    s3: S3Server, store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    store.publish(folder_with(tmp_path / "work", a_txt="one"), manifest(), f"{root}/x")
    (s3.folder / root.split("/")[-1] / "x/a.txt").unlink()
    with pytest.raises(BadData, match=r"x: a published file is gone; .*run the stage again"):
        store.local(f"{root}/x")


def test_step_checkpoints_are_listed_and_deleted(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_txt="one", sub__b_txt="two")
    for step in (10, 5):
        store.publish(work, manifest(step=step), f"{root}/x/step-{step:04d}")
    assert store.steps(f"{root}/x") == [5, 10]
    store.delete(f"{root}/x/step-0005")
    assert store.steps(f"{root}/x") == [10]
    with pytest.raises(BadData, match="is not published"):
        store.local(f"{root}/x/step-0005")
    assert store.steps(f"{root}/nothing") == []
    store.delete(f"{root}/nothing")


def test_a_model_and_a_dataset_that_were_put_there_by_hand_are_read(
    s3: S3Server, store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    name = root.split("/")[-1]
    files = {"config_json": "{}", "sub__a_txt": "one", "rows_jsonl": '{"question": "1+1"}'}
    model = folder_with(s3.folder / name / "model", **files)
    assert content(store.model(f"{root}/model")) == content(model)
    rows = store.file(f"{root}/model/rows.jsonl")
    assert json.loads(rows.read_text()) == {"question": "1+1"}
    (model / "rows.jsonl").unlink()
    with pytest.raises(BadConfiguration, match=r"model/rows.jsonl: no such file"):
        store.file(f"{root}/model/rows.jsonl")
    with pytest.raises(BadConfiguration, match=r"nowhere: no such model folder"):
        store.model(f"{root}/nowhere")


def test_a_checkpoint_that_a_run_still_writes_does_not_pass_for_a_model(
    s3: S3Server, store: ArtifactStore, root: str
) -> None:
    folder_with(s3.folder / root.split("/")[-1] / "demo-1/i0001/trainSolver", config_json="{}")
    with pytest.raises(BadData, match="is not published"):
        store.model(f"{root}/demo-1/i0001/trainSolver")


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


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_an_endpoint_that_cannot_be_reached_means_try_again(root: str, endpoint: str) -> None:
    store = ArtifactStore(Storage(uri=root, endpoint=endpoint), attempts=2)
    with pytest.raises(TryAgain, match=r"x: storage cannot be reached") as error:
        store.manifest(f"{root}/x")
    assert "\n" not in str(error.value)


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
