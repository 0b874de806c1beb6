"""Serves the frozen Solver beside a stage: vLLM's OpenAI-compatible server as a sidecar of the pod.

The Solver is the one that the stage's own task names. The server holds nothing worth keeping, so it
ends at once when it is asked to: the pod waits for its sidecars.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rzero_core import prompts
from rzero_core.store import ArtifactStore
from rzero_core.task import (
    DEFAULT_RESULT_PATH,
    RESULT_VARIABLE,
    TASK_VARIABLE,
    BadTask,
    StageError,
    TrainChallengerTask,
    parse_task,
)

HOST = "127.0.0.1"
"""The stage is in the same pod, and nobody else has to reach the server."""
TEMPLATE_TOKENS = 256
"""Room for what a chat template adds to a prompt."""
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{{ '\\n' if not loop.last else '' }}{% endfor %}"
)
"""`prompts.plain` as a chat template, for models that bring none."""

log = logging.getLogger("rzero_stages.serve")


def main(options: Sequence[str]) -> int:
    """Fetch the Solver and serve it until SIGTERM; `options` are passed on to vLLM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    server: list[subprocess.Popen[bytes]] = []

    def end(_number: int, _frame: FrameType | None) -> None:
        for process in server:
            os.killpg(process.pid, signal.SIGKILL)
        os._exit(0)

    # As the first process of its container vLLM would not even hear SIGTERM while it loads.
    signal.signal(signal.SIGTERM, end)
    try:
        task = parse_task(os.environ[TASK_VARIABLE])
        if not isinstance(task, TrainChallengerTask):
            raise BadTask(f"{task.stage} has no frozen Solver beside it")
        # The store keeps its downloads while it lives.
        store = ArtifactStore(task.storage)
        folder = store.model(task.solver)
    except StageError as error:
        log.error("%s", error)
        result_path = Path(os.environ.get(RESULT_VARIABLE, DEFAULT_RESULT_PATH))
        result_path.write_text(f"{error}\n", encoding="utf-8")
        return error.exit_code
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += [*arguments(task, folder), *options]
    log.info("%s", " ".join(command))
    process = subprocess.Popen(command, env=_environment(), process_group=0)
    server.append(process)
    return 1 if process.wait() else 0


def arguments(task: TrainChallengerTask, folder: Path) -> list[str]:
    """How vLLM has to serve the Solver for this task."""
    words = [
        *("--model", str(folder), "--served-model-name", "solver", "--host", HOST),
        # The sampler says all it wants; the model's own settings must not get in.
        *("--generation-config", "vllm"),
        "--disable-uvicorn-access-log",
    ]
    longest = _longest(task)
    context = _context(folder)
    if context is None or longest < context:
        # The full context of a large model would not even fit the cache.
        words += ["--max-model-len", str(longest)]
    if not _has_chat_template(folder):
        words += ["--chat-template", PLAIN_TEMPLATE]
    return words


def _longest(task: TrainChallengerTask) -> int:
    """Tokens of the longest question and its answer, at one token a character."""
    prompt = task.prompts.solver or prompts.SOLVER_PROMPT
    written = len(prompt.system) + len(prompt.user) + task.questions.max_characters
    return written + TEMPLATE_TOKENS + task.labels.sampling.max_tokens


def _context(folder: Path) -> int | None:
    """The model's longest sequence in tokens, None where it is not said in the usual place."""
    found = _json(folder / "config.json").get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _has_chat_template(folder: Path) -> bool:
    return (folder / "chat_template.jinja").is_file() or bool(
        _json(folder / "tokenizer_config.json").get("chat_template")
    )


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _environment() -> dict[str, str]:
    return {
        # On processors vLLM takes half of the memory for its cache unless told otherwise.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
