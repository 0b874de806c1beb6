"""The store on file://: what is published is whole, is there once, and says what it is."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from rzero_core.run import Stage, Storage
from rzero_core.store import ArtifactStore, Manifest
from rzero_core.task import BadConfiguration, BadData, BadTask, RunRef

RUN = RunRef(name="demo", uid="11111111-2222")
TIME = "2026-01-01T00:00:00Z"


def manifest(run: RunRef = RUN, attempt: int = 1, step: int | None = None) -> Manifest:
    return Manifest(
        run=run,
        iteration=1,
        stage=Stage.BUILD_CURRICULUM,
        step=step,
        attempt=attempt,
        seed=7,
        metrics={"kept": 2.0},
        outputs={"curriculum": "somewhere"},
        seconds=1.5,
        started_at=TIME,
        finished_at=TIME,
    )


def folder_with(root: Path, **files: str) -> Path:
    root.mkdir(parents=True)
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture
def store(root: str) -> ArtifactStore:
    return ArtifactStore(Storage(uri=root))


def test_what_was_published_is_found_again_with_its_files_and_its_result(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_txt="one", sub__b_txt="two")
    assert store.manifest(f"{root}/x") is None
    published = store.publish(work, manifest(), f"{root}/x")
    assert store.manifest(f"{root}/x") == published
    assert [entry.path for entry in published.files] == ["a.txt", "sub/b.txt"]
    local = store.local(f"{root}/x")
    assert (local / "sub/b.txt").read_text() == "two"
    result = published.result()
    assert result.metrics == {"kept": 2.0, "bytes": 6.0}
    assert result.manifest_digest == published.digest
    assert sorted(os.listdir(local)) == ["a.txt", "manifest.json", "sub"]


def test_a_plain_path_and_a_relative_file_uri_are_seen_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    work = folder_with(tmp_path / "work", a_txt="one")
    store = ArtifactStore(Storage(uri="runs"))
    store.publish(work, manifest(), "runs/x")
    assert store.local("file://runs/x") == store.local(f"file://{tmp_path}/runs/x")
    assert store.local("runs/x").is_absolute()


def test_what_a_stage_wrote_at_its_prefix_is_published_without_a_copy(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "store/x", a_txt="one", **{"step-0005__b_txt": "old"})
    store.publish(work / "step-0005", manifest(step=5), f"{root}/x/step-0005")
    inode = (work / "a.txt").stat().st_ino
    published = store.publish(work, manifest(), f"{root}/x")
    assert [entry.path for entry in published.files] == ["a.txt"]
    assert (store.local(f"{root}/x") / "a.txt").stat().st_ino == inode


def test_a_folder_below_the_prefix_is_linked_rather_than_copied(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "store/x/.rzero-work", a_txt="one")
    store.publish(work, manifest(), f"{root}/x")
    assert (tmp_path / "store/x/a.txt").stat().st_ino == (work / "a.txt").stat().st_ino


def test_a_second_attempt_gets_the_manifest_of_the_first(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    first = store.publish(folder_with(tmp_path / "one", a_txt="one"), manifest(), f"{root}/x")
    work = folder_with(tmp_path / "two", a_txt="two")
    assert store.publish(work, manifest(attempt=2), f"{root}/x") == first
    assert (store.local(f"{root}/x") / "a.txt").read_text() == "one"


def test_a_prefix_that_holds_another_run_is_an_error_that_names_it(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_txt="one")
    store.publish(work, manifest(), f"{root}/x")
    other = RunRef(name="other", uid="99999999")
    with pytest.raises(BadTask, match=r"/x holds .* of run demo .*choose another storage.uri"):
        store.publish(work, manifest(other), f"{root}/x")


def test_of_eight_publishers_at_once_one_wins_and_its_files_stay_whole(
    root: str, tmp_path: Path
) -> None:
    for turn in range(5):
        prefix, start = f"{root}/{turn}", Barrier(8)

        def publish(n: int, turn: int = turn, prefix: str = prefix, start: Barrier = start) -> str:
            work = folder_with(tmp_path / f"{turn}-{n}", a_txt=f"mine: {n}" * 1000, b_txt=str(n))
            start.wait()
            whole = ArtifactStore(Storage(uri=root)).publish(work, manifest(attempt=n), prefix)
            return f"{whole.attempt} {whole.digest}"

        with ThreadPoolExecutor(8) as pool:
            winners = set(pool.map(publish, range(1, 9)))
        assert len(winners) == 1
        winner = winners.pop().split()[0]
        local = ArtifactStore(Storage(uri=root)).local(prefix)
        assert (local / "b.txt").read_text() == winner
        assert (local / "a.txt").read_text() == f"mine: {winner}" * 1000


def test_files_that_a_killed_attempt_left_neither_count_nor_get_in_the_way(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    folder_with(tmp_path / "store/x", a_txt="left behind", stale_txt="left behind")
    (tmp_path / "store/x/.rzero-tmp-dead").write_text("half")
    work = folder_with(tmp_path / "work", a_txt="new")
    published = store.publish(work, manifest(), f"{root}/x")
    assert (store.local(f"{root}/x") / "a.txt").read_text() == "new"
    assert [entry.path for entry in published.files] == ["a.txt"]
    assert not (tmp_path / "store/x/.rzero-tmp-dead").exists()


@pytest.mark.parametrize("damage", ["two", "onE", None])
def test_a_published_file_that_was_changed_or_lost_is_never_handed_out(
    store: ArtifactStore, root: str, tmp_path: Path, damage: str | None
) -> None:
    store.publish(folder_with(tmp_path / "work", a_txt="one"), manifest(), f"{root}/x")
    path = tmp_path / "store/x/a.txt"
    path.write_text(damage) if damage else path.unlink()
    with pytest.raises(BadData, match=r"/x: a.txt is missing or differs .* run the stage again"):
        store.local(f"{root}/x")


def test_only_the_named_files_are_looked_at(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_txt="one", b_txt="two")
    store.publish(work, manifest(), f"{root}/x")
    (tmp_path / "store/x/b.txt").write_text("damaged")
    assert (store.local(f"{root}/x", ["a.txt"]) / "a.txt").read_text() == "one"
    with pytest.raises(BadData, match=r"/x has no c.txt"):
        store.local(f"{root}/x", {"c.txt"})


def test_what_is_not_published_and_what_is_no_manifest_is_bad_data_that_names_the_uri(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    with pytest.raises(BadData, match=r"/x is not published"):
        store.local(f"{root}/x")
    folder_with(tmp_path / "store/x", manifest_json='{"run": 3')
    with pytest.raises(BadData, match=r"/x/manifest.json: not a manifest .* run the stage again"):
        store.manifest(f"{root}/x")


def test_a_manifest_that_points_outside_its_artifact_is_refused(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    store.publish(folder_with(tmp_path / "work", a_txt="one"), manifest(), f"{root}/x")
    path = tmp_path / "store/x/manifest.json"
    path.write_text(path.read_text().replace('"a.txt"', '"../a.txt"'))
    with pytest.raises(BadData, match=r"files.0.path: must be a plain path below the artifact"):
        store.local(f"{root}/x")


def test_a_file_named_like_the_manifest_cannot_be_published(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", manifest_json="{}")
    with pytest.raises(BadTask, match=r"manifest.json: this name is kept"):
        store.publish(work, manifest(), f"{root}/x")


def test_step_checkpoints_are_listed_once_they_are_published(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_txt="one")
    for step in (10, 5):
        store.publish(work, manifest(step=step), f"{root}/x/step-{step:04d}")
    folder_with(tmp_path / "store/x/step-0015", a_txt="unfinished")
    folder_with(tmp_path / "store/x/step-last", manifest_json="{}")
    assert store.steps(f"{root}/x") == [5, 10]
    store.delete(f"{root}/x/step-0005")
    assert store.steps(f"{root}/x") == [10]
    store.delete(f"{root}/x/step-0005")


def test_a_model_is_an_artifact_or_a_plain_folder(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "model", config_json="{}")
    assert store.model(str(work)) == work
    assert store.model(f"file://{work}") == work
    store.publish(work, manifest(), f"{root}/demo-1/i0001/trainSolver")
    assert (store.model(f"{root}/demo-1/i0001/trainSolver") / "config.json").is_file()


def test_a_checkpoint_that_a_run_still_writes_does_not_pass_for_a_model(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    folder_with(tmp_path / "store/demo-1/i0001/trainSolver", config_json="{}")
    with pytest.raises(BadData, match="is not published"):
        store.model(f"{root}/demo-1/i0001/trainSolver")


def test_a_missing_model_or_file_says_what_to_correct(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"/nowhere: no such model folder; .*spec.model"):
        store.model(f"{tmp_path}/nowhere")
    with pytest.raises(BadConfiguration, match=r"config.json is missing"):
        store.model(str(folder_with(tmp_path / "empty")))
    with pytest.raises(BadConfiguration, match=r"nowhere.jsonl: no such file"):
        store.file(f"file://{tmp_path}/nowhere.jsonl")
    with pytest.raises(BadConfiguration, match=r"write hf://owner/name@revision"):
        store.model("hf://nobody")
    with pytest.raises(BadConfiguration, match=r"write s3://bucket/prefix"):
        store.model("gs://bucket/model")


def test_a_hub_model_without_network_says_what_to_correct(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadConfiguration, match=r"hf://owner/name@main: .*correct spec.model") as e:
        store.model("hf://owner/name@main")
    assert "\n" not in str(e.value)


def test_a_file_where_a_folder_should_be_is_bad_configuration(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("in the way")
    work = folder_with(tmp_path / "work", a_txt="one")
    with pytest.raises(BadConfiguration, match=r"store/x: .*; correct the path"):
        store.publish(work, manifest(), f"{root}/x")


def publish_elsewhere(root: str, work: Path, before: str) -> subprocess.CompletedProcess[str]:
    """Publish in a process that has first run `before` (Python)."""
    script = f"""
import os, resource, signal
from pathlib import Path
from rzero_core.run import Storage
from rzero_core.store import ArtifactStore, Manifest
from rzero_core.task import StageError
store = ArtifactStore(Storage(uri={root!r}))
manifest = Manifest.model_validate_json({manifest().to_json()!r})
{before}
try:
    store.publish(Path({str(work)!r}), manifest, {root + "/x"!r})
except StageError as error:
    print(error.exit_code, error)
"""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )


def test_a_full_disk_is_bad_configuration_and_leaves_nothing_published(
    store: ArtifactStore, root: str, tmp_path: Path
) -> None:
    work = folder_with(tmp_path / "work", a_txt="x" * 100_000)
    limit = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    done = publish_elsewhere(root, work, limit)
    assert done.stdout.startswith(f"78 {root}/x: ") and "free some space" in done.stdout
    assert done.stdout.count("\n") == 1
    assert store.manifest(f"{root}/x") is None
    assert os.listdir(tmp_path / "store/x") == []
    store.publish(work, manifest(), f"{root}/x")


def test_a_folder_without_permission_is_bad_configuration(root: str, tmp_path: Path) -> None:
    work = folder_with(tmp_path / "work", a_txt="one")
    (tmp_path / "store").mkdir(mode=0o555)
    for folder in [tmp_path, *tmp_path.parents[:2]]:
        folder.chmod(folder.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
    # The superuser may write anywhere.
    done = publish_elsewhere(root, work, "os.geteuid() or os.seteuid(65534)")
    assert done.stdout.startswith(f"78 {root}/x: permission denied")
    assert "let user" in done.stdout and done.stdout.count("\n") == 1


def test_the_store_of_a_laptop_does_not_load_the_s3_client() -> None:
    script = "import sys, rzero_core.store; print('boto3' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
