"""vLLM in this process draws as the other samplers do. Loading its engine takes about a minute."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models

from rzero_core.run import SamplerBackend, Sampling
from rzero_stages.sampler import UNANSWERABLE, Messages
from rzero_stages.sampling import TransformersSampler, VllmSampler, open_sampler

SETTINGS = Sampling(max_tokens=12, top_p=0.95, temperature=0.8)


def ask(text: str) -> Messages:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("model"), context=64, seed=3)


@pytest.fixture(scope="module")
def told() -> list[int]:
    return []


@pytest.fixture(scope="module")
def sampler(folder: Path, told: list[int]) -> Iterator[VllmSampler]:
    opened = open_sampler(SamplerBackend.VLLM, folder, on_completions=told.append)
    assert isinstance(opened, VllmSampler)
    yield opened


def test_greedy_texts_are_those_of_transformers(sampler: VllmSampler, folder: Path) -> None:
    prompts = [ask("1+2"), ask("a much longer question"), ask("1+2"), ask("7 * 8")]
    drawn = sampler.sample(prompts, 2, SETTINGS, seed=0, greedy=True)
    assert drawn == TransformersSampler.load(folder).sample(
        prompts, 2, SETTINGS, seed=0, greedy=True
    )


def test_the_same_seed_gives_the_same_texts_whatever_shares_the_batch(sampler: VllmSampler) -> None:
    (alone,) = sampler.sample([ask("1")], 4, SETTINGS, seed=5)
    among = sampler.sample([ask("1"), ask("22"), ask("333")], 4, SETTINGS, seed=5)
    assert among[0] == alone
    assert sampler.sample([ask("1")], 4, SETTINGS, seed=6) != [alone]


def test_completions_differ_and_are_counted(sampler: VllmSampler, told: list[int]) -> None:
    told.clear()
    drawn = sampler.sample([ask("1")] * 3, 5, SETTINGS, seed=0)
    assert [len(row) for row in drawn] == [5, 5, 5]
    assert len({completion.text for row in drawn for completion in row}) > 10
    assert sum(told) == 15


def test_a_prompt_that_fills_the_context_gets_no_text(sampler: VllmSampler) -> None:
    long, short = sampler.sample([ask("9" * 500), ask("1")], 2, SETTINGS, seed=0)
    assert long == [UNANSWERABLE] * 2
    assert all(completion.tokens for completion in short)


def test_no_prompts_give_no_completions(sampler: VllmSampler) -> None:
    assert sampler.sample([], 2, SETTINGS, seed=0) == []
