"""Two nodes train one model together: two launchers with a rank each, which meet by gloo."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from rzero_core.task import RunRef, StageResult, TrainChallengerTask, stage_prefix
from tests.cluster.processes import free_ports

MODEL = str(Path(__file__).parents[2] / "examples" / "tiny" / "model")
RUN = RunRef(name="demo", uid="0123456789")
SHORT = Sampling(max_tokens=32)
Node = subprocess.Popen[bytes]
Start = Callable[[TrainChallengerTask], list[Node]]


def make_task(root: Path, **training: Any) -> TrainChallengerTask:
    values = {"steps": 40, "batch_size": 16, "group_size": 2, "micro_batch_size": 16}
    return TrainChallengerTask(
        run=RUN,
        iteration=1,
        seed=0,
        storage=Storage(uri=str(root)),
        prefix=stage_prefix(str(root), RUN, 1, Stage.TRAIN_CHALLENGER),
        prompts=Prompts(challenger=Prompt(user="Write a sum."), solver=Prompt(user="{question}")),
        sampler=SamplerBackend.TRANSFORMERS,
        challenger=MODEL,
        solver=MODEL,
        base_model=MODEL,
        training=Challenger.model_validate(
            {**values, "checkpoint_every": 1, "sampling": SHORT, **training}
        ),
        labels=Labels(votes=2, sampling=SHORT),
        questions=Questions(count=10, shards=1, max_characters=60),
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    nodes: list[Node] = []

    def starting(task: TrainChallengerTask) -> list[Node]:
        (port,) = free_ports(1)
        for number in (0, 1):
            environment = {
                **os.environ,
                "RZERO_TASK": task.to_json(),
                "RZERO_CACHE": str(tmp_path / f"cache-{number}"),
                "RZERO_RESULT_PATH": str(tmp_path / f"message-{number}"),
                "PET_NNODES": "2",
                "PET_NPROC_PER_NODE": "1",
                "PET_NODE_RANK": str(number),
                "PET_MASTER_ADDR": "localhost",
                "PET_MASTER_PORT": str(port),
            }
            with (tmp_path / f"log-{number}").open("ab") as log:
                command = [sys.executable, "-m", "rzero_stages.ranks"]
                nodes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return nodes[-2:]

    yield starting
    for node in nodes:
        node.terminate()
        node.wait(60)


def test_two_nodes_stop_together_and_go_on_to_one_checkpoint(start: Start, tmp_path: Path) -> None:
    task = make_task(tmp_path / "store")
    store = ArtifactStore(task.storage)
    nodes = start(task)
    deadline = time.monotonic() + 200
    while not store.steps(task.prefix):
        assert [node.poll() for node in nodes] == [None, None], log(tmp_path)
        assert time.monotonic() < deadline, log(tmp_path)
        time.sleep(0.2)
    # The node that does not write is the one that is told.
    nodes[1].send_signal(signal.SIGTERM)
    assert [node.wait(120) for node in nodes] == [75, 75], log(tmp_path)
    assert "stopped on request after step" in (tmp_path / "message-0").read_text()
    reached = store.steps(task.prefix)[-1]

    shorter = task.model_copy(
        update={"training": task.training.model_copy(update={"steps": reached + 2})}
    )
    assert [node.wait(200) for node in start(shorter)] == [0, 0], log(tmp_path)
    assert f"going on after step {reached}" in log(tmp_path)
    result = StageResult.model_validate_json((tmp_path / "message-0").read_text())
    # The figures are those of both nodes.
    assert result.metrics["completions"] == (reached + 2) * 16 * 2
    assert (store.model(task.prefix) / "model.safetensors").is_file()


def test_what_no_retry_mends_comes_through_from_both(start: Start, tmp_path: Path) -> None:
    task = make_task(tmp_path / "store", batch_size=3, group_size=1)
    assert [node.wait(200) for node in start(task)] == [78, 78], log(tmp_path)
    message = (tmp_path / "message-1").read_text()
    assert "cannot be shared evenly by 2 processes" in message


def log(folder: Path) -> str:
    return "\n".join(path.read_text()[-6000:] for path in sorted(folder.glob("log-*")))
