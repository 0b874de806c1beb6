"""What is published on a real S3 server is whole, is there once, and is found again."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from artifact_makers import MEGABYTE, content, folder_with, manifest
from s3_server import S3Server

from rzero_core.run import Storage
from rzero_core.store import ArtifactStore
from rzero_core.task import BadConfiguration, BadData, BadTask, RunRef


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


def test_readers_see_nothing_or_the_whole_while_it_is_being_published(
    s3: S3Server, store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", **{f"f{n}_bin": os.urandom(MEGABYTE) for n in range(8)})
    seen: list[str] = []
    reads, done = threading.Event(), threading.Event()

    def read() -> None:
        reader = ArtifactStore(Storage(uri=root, endpoint=s3.endpoint), tmp_path / "reader")
        is_last = False
        while "whole" not in seen and not is_last:
            # What begins after it was published has to see it.
            is_last = done.is_set()
            try:
                same = content(reader.local(f"{root}/x")) == content(work)
                seen.append("whole" if same else "partial")
            except BadData:
                seen.append("nothing")
            reads.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert reads.wait(60)
    try:
        store.publish(work, manifest(), f"{root}/x")
    finally:
        done.set()
    thread.join()
    assert seen[-1] == "whole" and "partial" not in seen


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
