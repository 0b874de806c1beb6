"""Turns prompts into texts: one interface over Transformers, vLLM in process, and a model server.

All three draw by the task's `Sampling` alone: nothing of a model's own generation settings (its
temperature, top_k, penalties) gets in. torch and vllm are imported by the sampler that needs them.
"""

import importlib.util
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from rzero_core import prompts as prompt_texts
from rzero_core.run import SamplerBackend, Sampling
from rzero_core.task import BadConfiguration, derive_seed
from rzero_stages.endpoint import EndpointSampler
from rzero_stages.sampler import UNANSWERABLE, Completion, Messages, OnCompletions, Sampler

log = logging.getLogger(__name__)


def open_sampler(
    backend: SamplerBackend,
    folder: Path | None,
    endpoint: str | None = None,
    on_completions: OnCompletions | None = None,
) -> Sampler:
    """The sampler of a model folder, or of the server at `endpoint` if there is one.

    Raises `BadConfiguration` when vLLM is asked for and not installed.
    """
    told = on_completions or (lambda _: None)
    if endpoint is not None:
        return EndpointSampler(endpoint, on_completions=told)
    if folder is None:
        raise BadConfiguration("there is neither a model folder nor an endpoint to sample from")
    if resolve(backend) is SamplerBackend.VLLM:
        return VllmSampler(folder, told)
    return TransformersSampler.load(folder, told)


def resolve(backend: SamplerBackend) -> SamplerBackend:
    """What AUTO means on this machine: vLLM where there is a GPU and vLLM, else Transformers."""
    has_vllm = importlib.util.find_spec("vllm") is not None
    if backend is SamplerBackend.VLLM and not has_vllm:
        raise BadConfiguration(
            "sampler: Vllm is not installed here; install rzero[vllm], or write Transformers"
        )
    if backend is SamplerBackend.AUTO:
        import torch

        use_vllm = has_vllm and torch.cuda.is_available()
        return SamplerBackend.VLLM if use_vllm else SamplerBackend.TRANSFORMERS
    return backend


def render(tokenizer: Any, messages: Messages) -> str:
    """The text that the model continues: its chat template's, or a plain one if it has none."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return prompt_texts.plain(messages)
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        raise BadConfiguration(
            f"the model's chat template refuses the prompt: {error}; for a template without a "
            'system role set prompts.challenger.system and prompts.solver.system to ""'
        ) from error
    return text


class TransformersSampler:
    """Samples with a Transformers model in this process: the default without a GPU."""

    def __init__(
        self, model: Any, tokenizer: Any, on_completions: OnCompletions | None = None
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._on_completions = on_completions or (lambda _: None)

    @classmethod
    def load(cls, folder: Path, on_completions: OnCompletions | None = None) -> Self:
        """The model of a Hugging Face folder: bfloat16 on a GPU, float32 on a processor."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        except (OSError, ValueError) as error:
            raise _unreadable(folder, error) from error
        return cls(model.to(device).eval(), tokenizer, on_completions)

    def sample(
        self,
        prompts: Sequence[Messages],
        n: int,
        sampling: Sampling,
        seed: int,
        greedy: bool = False,
    ) -> list[list[Completion]]:
        """See `Sampler`."""
        from rzero_stages.decoding import decode

        if not prompts:
            return []
        tokens, which = _distinct_tokens(self._tokenizer, prompts)
        rows = [prompt for prompt in which for _ in range(n)]
        drawn = decode(
            self._model,
            tokens,
            rows,
            None if greedy else sampling,
            max_tokens=sampling.max_tokens,
            end_tokens=self._end_tokens(),
            seed=seed,
            on_rows=self._on_completions,
        )
        texts = self._tokenizer.batch_decode(
            [row.tokens for row in drawn], skip_special_tokens=True
        )
        flat = [
            Completion(text, len(row.tokens), row.finished)
            for text, row in zip(texts, drawn, strict=True)
        ]
        return [flat[start : start + n] for start in range(0, len(flat), n)]

    def _end_tokens(self) -> set[int]:
        """The tokenizer's end token, and all that the model's generation settings name."""
        named = getattr(self._model.generation_config, "eos_token_id", None)
        ends = {named} if isinstance(named, int) else set(named or ())
        if self._tokenizer.eos_token_id is not None:
            ends.add(self._tokenizer.eos_token_id)
        return ends


class _ProgressBar:
    """What vLLM takes for a tqdm bar: passes its counts on and draws nothing."""

    def __init__(
        self,
        told: OnCompletions,
        iterable: Iterable[Any] = (),
        total: int = 0,
        **_unused: Any,
    ) -> None:
        self._told = told
        self._iterable = iterable
        self._start = time.monotonic()
        self.n = 0
        self.postfix = ""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterable)

    @property
    def format_dict(self) -> dict[str, float]:
        return {"elapsed": time.monotonic() - self._start}

    def update(self, completions: int) -> None:
        self.n += completions
        self._told(completions)

    def refresh(self) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        """Nothing is held."""


class VllmSampler:
    """Samples with vLLM's engine in this process: the default on GPUs, one for each process."""

    def __init__(self, folder: Path, on_completions: OnCompletions | None = None) -> None:
        # On processors vLLM takes half of the memory for its cache unless told otherwise.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        # vLLM logs to standard output, which belongs to progress lines.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        # A stage that is killed leaves no engine behind.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from vllm import LLM

        try:
            self._engine = LLM(model=str(folder))
        except (OSError, ValueError) as error:
            raise _unreadable(folder, error) from error
        self._context: int = self._engine.model_config.max_model_len
        self._on_completions = on_completions or (lambda _: None)

    def sample(
        self,
        prompts: Sequence[Messages],
        n: int,
        sampling: Sampling,
        seed: int,
        greedy: bool = False,
    ) -> list[list[Completion]]:
        """See `Sampler`. Every prompt has a seed of its own, so scheduling changes no text."""
        from vllm import TokensPrompt

        if not prompts:
            return []
        tokens, which = _distinct_tokens(self._engine.get_tokenizer(), prompts)
        asked = [i for i, prompt in enumerate(which) if len(tokens[prompt]) < self._context]
        outputs = self._engine.generate(
            [TokensPrompt(prompt_token_ids=tokens[which[i]]) for i in asked],
            [_vllm_params(n, sampling, derive_seed(seed, i), greedy) for i in asked],
            use_tqdm=partial(_ProgressBar, self._on_completions),
        )
        results = [[UNANSWERABLE] * n for _ in which]
        for i, output in zip(asked, outputs, strict=True):
            completions = [
                Completion(item.text, len(item.token_ids), item.finish_reason == "stop")
                for item in output.outputs
            ]
            # vLLM answers only once when it is greedy.
            results[i] = completions * n if greedy else completions
        return results


def _distinct_tokens(
    tokenizer: Any, prompts: Sequence[Messages]
) -> tuple[list[list[int]], list[int]]:
    """The tokens of each distinct prompt, and which of them each prompt is.

    All prompts of the Challenger are one, which is rendered and tokenized once.
    """
    places: dict[tuple[tuple[str, str], ...], int] = {}
    which = [
        places.setdefault(tuple((m["role"], m["content"]) for m in prompt), len(places))
        for prompt in prompts
    ]
    texts = [
        render(tokenizer, [{"role": role, "content": content} for role, content in key])
        for key in places
    ]
    # A chat template writes its own special tokens.
    has_template = bool(getattr(tokenizer, "chat_template", None))
    tokens = tokenizer(texts, add_special_tokens=not has_template)["input_ids"]
    return tokens, which


def _vllm_params(n: int, sampling: Sampling, seed: int, greedy: bool) -> Any:
    from vllm import SamplingParams

    if greedy:
        return SamplingParams(temperature=0.0, max_tokens=sampling.max_tokens)
    return SamplingParams(
        n=n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=seed,
    )


def _unreadable(folder: Path, error: Exception) -> BadConfiguration:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return BadConfiguration(
        f"{folder} is not a model folder that can be loaded: {reason}; correct spec.model or save "
        "the model there with save_pretrained"
    )
