"""How the sidecar serves the Solver of a task."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from job_makers import make_spec, make_start

from rzero_core import prompts
from rzero_core.run import Stage
from rzero_core.task import TrainChallengerTask
from rzero_stages import serve


def make_task(**fields: Any) -> TrainChallengerTask:
    task = make_start(make_spec(**fields), Stage.TRAIN_CHALLENGER).task
    assert isinstance(task, TrainChallengerTask)
    return task


def model(folder: Path, context: int | None = 40_960, template: bool = True) -> Path:
    config = {} if context is None else {"max_position_embeddings": context}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"chat_template": "{{ messages }}"} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def test_the_server_is_for_the_pod_alone_and_keeps_the_models_own_settings_out(
    tmp_path: Path,
) -> None:
    words = serve.arguments(make_task(), model(tmp_path))
    assert option(words, "--model") == str(tmp_path)
    assert option(words, "--host") == "127.0.0.1"
    assert option(words, "--generation-config") == "vllm"


@pytest.mark.parametrize("context", [40_960, None])
def test_sequences_are_as_long_as_a_question_and_its_answer(
    tmp_path: Path, context: int | None
) -> None:
    task = make_task(
        labels={"sampling": {"maxTokens": 1000}},
        questions={"maxCharacters": 500, "shards": 3},
        prompts={"solver": {"user": "{question}"}},
    )
    words = serve.arguments(task, model(tmp_path, context))
    assert option(words, "--max-model-len") == str(1000 + 500 + 10 + 256)


def test_a_model_of_a_shorter_context_keeps_it(tmp_path: Path) -> None:
    words = serve.arguments(make_task(), model(tmp_path, context=256))
    assert "--max-model-len" not in words


def test_a_model_without_a_chat_template_is_asked_in_plain_text(tmp_path: Path) -> None:
    assert "--chat-template" not in serve.arguments(make_task(), model(tmp_path))
    words = serve.arguments(make_task(), model(tmp_path, template=False))
    template = option(words, "--chat-template")
    assert template is not None
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    written = jinja2.Template(template).render(messages=messages)
    assert written == prompts.plain(messages)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert "--chat-template" not in serve.arguments(make_task(), tmp_path)


def test_a_solver_that_cannot_be_fetched_is_named(tmp_path: Path) -> None:
    task = make_task(model=str(tmp_path / "missing"), storage={"uri": str(tmp_path / "runs")})
    path = tmp_path / "message"
    environment = {**os.environ, "RZERO_TASK": task.to_json(), "RZERO_RESULT_PATH": str(path)}
    command = [sys.executable, "-m", "rzero_stages.serve"]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 78
    assert "no such model folder" in path.read_text()
