"""TrainChallenger lets the Solver beside it vote. Loading vLLM's server takes about a minute."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from rzero_core.run import (
    Challenger,
    Labels,
    Prompt,
    Prompts,
    Questions,
    SamplerBackend,
    Sampling,
    Stage,
    Storage,
)
from rzero_core.store import ArtifactStore
from rzero_core.task import RunRef, TrainChallengerTask, stage_prefix
from rzero_stages import train_challenger
from tests.cluster.processes import free_ports

MODEL = Path(__file__).parents[2] / "examples" / "tiny" / "model"
RUN = RunRef(name="demo", uid="0123456789")
SHORT = Sampling(max_tokens=32)


def make_task(root: Path, port: int) -> TrainChallengerTask:
    return TrainChallengerTask(
        run=RUN,
        iteration=1,
        seed=0,
        storage=Storage(uri=str(root)),
        prefix=stage_prefix(str(root), RUN, 1, Stage.TRAIN_CHALLENGER),
        prompts=Prompts(challenger=Prompt(user="Write a sum."), solver=Prompt(user="{question}")),
        sampler=SamplerBackend.TRANSFORMERS,
        challenger=str(MODEL),
        # Nothing but the server knows where the Solver is.
        solver=str(MODEL),
        base_model=str(MODEL),
        solver_endpoint=f"http://127.0.0.1:{port}",
        training=Challenger(
            steps=2, batch_size=16, group_size=2, micro_batch_size=32, sampling=SHORT
        ),
        labels=Labels(votes=4, sampling=SHORT),
        questions=Questions(count=10, shards=1, max_characters=60),
    )


@dataclass
class Sidecar:
    task: TrainChallengerTask
    process: subprocess.Popen[bytes]
    log: Path
    seconds: float


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    root = tmp_path_factory.mktemp("sidecar")
    (port,) = free_ports(1)
    task = make_task(root / "store", port)
    environment = {
        **os.environ,
        "RZERO_TASK": task.to_json(),
        "RZERO_CACHE": str(root / "cache"),
        "RZERO_RESULT_PATH": str(root / "message"),
    }
    began = time.monotonic()
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "rzero_stages.serve", f"--port={port}", "--enforce-eager"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        while not healthy(port):
            assert process.poll() is None, (root / "log").read_text()[-3000:]
            assert time.monotonic() - began < 480, (root / "log").read_text()[-3000:]
            time.sleep(0.5)
        yield Sidecar(task, process, root / "log", time.monotonic() - began)
    finally:
        process.terminate()
        process.wait(10)


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.HTTPError:
        return False


def test_the_challenger_learns_from_the_votes_of_the_server(sidecar: Sidecar) -> None:
    print(f"ready after {sidecar.seconds:.0f} s")
    task = sidecar.task
    result = train_challenger.run(task, ArtifactStore(task.storage))
    assert result.metrics["votes"] == 4 * result.metrics["valid"] > 0
    assert 0 < result.metrics["uncertaintyFirst"] <= 1
    assert (Path(task.prefix) / "model.safetensors").is_file()
    (offered,) = httpx.get(f"{task.solver_endpoint}/v1/models").json()["data"]
    assert offered["id"] == "solver"


def test_it_ends_at_once_and_leaves_nothing_behind(sidecar: Sidecar) -> None:
    helpers = psutil.Process(sidecar.process.pid).children(recursive=True)
    assert helpers
    began = time.monotonic()
    sidecar.process.send_signal(signal.SIGTERM)
    assert sidecar.process.wait(5) == 0
    psutil.wait_procs(helpers, timeout=5)
    print(f"ended after {time.monotonic() - began:.2f} s")
    assert [helper for helper in helpers if helper.is_running()] == []
