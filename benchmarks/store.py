"""Publishing and fetching an artifact on S3 beside plain boto3, one file after the other.

`python -m benchmarks.store` starts a real S3 server (versitygw) and prints one table; with --json,
one object. Both ways move the same files in the same run and take turns. Ours hashes each byte
before it leaves and as it arrives; plain boto3 does not.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import boto3

from rzero_core.run import Stage, Storage
from rzero_core.store import ArtifactStore, Manifest
from rzero_core.task import RunRef

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from s3_server import S3Server, s3_server

MEBIBYTE = 1 << 20
# Shards of a checkpoint and the small files beside them: 256 MiB.
SIZES = [60 * MEBIBYTE] * 4 + [MEBIBYTE] * 16
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    arguments = parser.parse_args()
    with s3_server() as server, TemporaryDirectory(prefix="rzero-bench-") as scratch:
        os.environ.update(server.environment)
        figures = measure(server, Path(scratch))
    if arguments.json:
        print(json.dumps(figures))
    else:
        report(figures)


def measure(server: S3Server, scratch: Path) -> dict[str, Any]:
    """Median seconds of each way, over ROUNDS rounds after one that warms up."""
    work = scratch / "work"
    work.mkdir()
    for number, size in enumerate(SIZES):
        (work / f"file-{number:02d}.bin").write_bytes(os.urandom(size))
    rounds = [one_round(server, work, scratch, turn) for turn in range(ROUNDS + 1)][1:]
    seconds = {name: median(each[name] for each in rounds) for name in rounds[0]}
    return {
        "bytes": sum(SIZES),
        "files": len(SIZES),
        "seconds": seconds,
        "publish_speedup": seconds["publish, plain boto3"] / seconds["publish, ours"],
        "fetch_speedup": seconds["fetch, plain boto3"] / seconds["fetch, ours"],
    }


def one_round(server: S3Server, work: Path, scratch: Path, turn: int) -> dict[str, float]:
    """Seconds of each way, on fresh prefixes and folders that are deleted at the end."""
    storage = Storage(uri=f"s3://{server.bucket}/{turn}", endpoint=server.endpoint)
    prefix, cache, target = f"{storage.uri}/ours", scratch / "cache", scratch / "plain"
    client = boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1")
    names = sorted(path.name for path in work.iterdir())

    def connected() -> ArtifactStore:
        # As in a stage, the client (0.1 s to make) is there before the data is.
        store = ArtifactStore(storage, cache)
        store.manifest(prefix)
        return store

    store = connected()

    def publish() -> None:
        store.publish(work, manifest(), prefix)

    def fetch() -> None:
        store.local(prefix)

    def upload() -> None:
        for name in names:
            client.upload_file(str(work / name), server.bucket, f"{turn}/plain/{name}")

    def download() -> None:
        target.mkdir()
        for name in names:
            client.download_file(server.bucket, f"{turn}/plain/{name}", str(target / name))

    seconds = {}
    # Whoever goes second finds warmer caches, so the order changes every round.
    pair: list[tuple[str, Callable[[], None]]] = [
        ("publish, plain boto3", upload),
        ("publish, ours", publish),
        ("fetch, plain boto3", download),
        ("fetch, ours", fetch),
    ]
    for name, way in pair if turn % 2 else [pair[1], pair[0], pair[3], pair[2]]:
        seconds[name] = timed(way)
    # One that has not seen these files yet and so reads them all.
    store = connected()
    seconds["fetch again: all there, verified"] = timed(fetch)
    seconds["publish again: manifest found"] = timed(publish)
    # As after a kill just before the manifest.
    client.delete_object(Bucket=server.bucket, Key=f"{turn}/ours/manifest.json")
    seconds["publish resumed: all files skipped"] = timed(publish)
    store.delete(storage.uri)
    rmtree(cache)
    rmtree(target)
    return seconds


def manifest() -> Manifest:
    moment = "2026-01-01T00:00:00Z"
    return Manifest(
        run=RunRef(name="benchmark", uid="benchmark"),
        iteration=1,
        stage=Stage.TRAIN_SOLVER,
        seed=0,
        seconds=0.0,
        started_at=moment,
        finished_at=moment,
    )


def timed(way: Callable[[], None]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def report(figures: dict[str, Any]) -> None:
    mebibytes = figures["bytes"] / MEBIBYTE
    print(f"{figures['files']} files, {mebibytes:.0f} MiB, median of {ROUNDS} rounds, versitygw")
    print(f"{'':36} {'seconds':>8} {'MiB/s':>7}")
    for name, seconds in figures["seconds"].items():
        print(f"{name:36} {seconds:8.3f} {mebibytes / seconds:7.0f}")
    print(f"publish: {figures['publish_speedup']:.2f} times plain boto3's speed")
    print(f"fetch:   {figures['fetch_speedup']:.2f} times plain boto3's speed")


if __name__ == "__main__":
    main()
