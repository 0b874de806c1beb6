"""Prompts become texts: in order, by the task's settings alone, and again the same."""

import importlib.util
from pathlib import Path

import pytest
import tiny_models
import torch
from transformers import Qwen2ForCausalLM

from rzero_core.run import SamplerBackend, Sampling
from rzero_core.task import BadConfiguration, BadData
from rzero_stages import decoding, sampling
from rzero_stages.sampler import UNANSWERABLE, Messages
from rzero_stages.sampling import TransformersSampler, open_sampler

SHORT = Sampling(max_tokens=8, top_p=1.0)


def ask(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def sampler(context: int = 256) -> TransformersSampler:
    return TransformersSampler(tiny_models.model(context), tiny_models.tokenizer())


def by_generate(model: Qwen2ForCausalLM, text: str, tokens: int) -> str:
    """The greedy text as Transformers' own `generate` makes it, one prompt at a time."""
    tokenizer = tiny_models.tokenizer()
    rendered = tokenizer.apply_chat_template(ask(text), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(rendered, return_tensors="pt", add_special_tokens=False)["input_ids"]
    drawn = model.generate(ids, max_new_tokens=tokens, do_sample=False)[0, ids.shape[1] :]
    return str(tokenizer.decode(drawn, skip_special_tokens=True))


def test_greedy_texts_are_those_of_generate_whatever_shares_their_batch() -> None:
    model = tiny_models.model(seed=3)
    texts = ["1+2", "a much longer question than the others", "", "1+2", "what is 7 times 8?"]
    drawn = TransformersSampler(model, tiny_models.tokenizer()).sample(
        [ask(text) for text in texts], 1, Sampling(max_tokens=40), seed=0, greedy=True
    )
    assert [c.text for (c,) in drawn] == [by_generate(model, text, 40) for text in texts]


def test_the_same_seed_gives_the_same_texts_and_another_seed_others() -> None:
    prompts = [ask("1+2")] * 3 + [ask("5")]
    first = sampler().sample(prompts, 4, SHORT, seed=1)
    assert sampler().sample(prompts, 4, SHORT, seed=1) == first
    assert sampler().sample(prompts, 4, SHORT, seed=2) != first


def test_every_prompt_has_its_own_n_completions_and_they_differ() -> None:
    drawn = sampler().sample([ask("1"), ask("22"), ask("1")], 5, SHORT, seed=0)
    assert [len(row) for row in drawn] == [5, 5, 5]
    assert len({c.text for row in drawn for c in row}) > 10


def test_sampling_leaves_the_random_state_of_the_process_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    tiny_sampler = sampler()
    torch.set_rng_state(before)
    tiny_sampler.sample([ask("1")], 3, SHORT, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_text_that_reaches_max_tokens_is_not_finished() -> None:
    (row,) = sampler().sample([ask("1")], 20, Sampling(max_tokens=2, top_p=1.0), seed=0)
    assert all(c.tokens <= 2 if c.finished else c.tokens == 2 for c in row)
    assert not all(c.finished for c in row)


def test_an_end_token_ends_a_text_and_is_not_part_of_it() -> None:
    model = tiny_models.model()
    # The end token becomes by far the likeliest after anything.
    model.generation_config.eos_token_id = list(range(7, 60))
    (row,) = TransformersSampler(model, tiny_models.tokenizer()).sample(
        [ask("1")], 50, Sampling(max_tokens=60, top_p=1.0), seed=0
    )
    assert all(c.finished for c in row)
    assert len({c.tokens for c in row}) > 3


def test_a_prompt_that_fills_the_context_gets_no_text_and_harms_no_other() -> None:
    alone = sampler(64).sample([ask("1+1")], 2, SHORT, seed=0, greedy=True)
    drawn = sampler(64).sample([ask("9" * 500), ask("1+1")], 2, SHORT, seed=0, greedy=True)
    assert drawn == [[UNANSWERABLE] * 2, alone[0]]


def test_completions_end_at_the_end_of_the_context() -> None:
    (row,) = sampler(32).sample([ask("1" * 20)], 4, Sampling(max_tokens=4096, top_p=1.0), seed=0)
    assert all(c.tokens <= 32 - 22 for c in row)


def test_no_prompts_give_no_completions() -> None:
    assert sampler().sample([], 3, SHORT, seed=0) == []


def test_finished_completions_are_counted_one_by_one() -> None:
    told: list[int] = []
    tiny = TransformersSampler(tiny_models.model(), tiny_models.tokenizer(), told.append)
    tiny.sample([ask("1"), ask("22")], 30, SHORT, seed=0)
    assert sum(told) == 60


def test_the_settings_of_the_model_do_not_take_part() -> None:
    plain, opinionated = tiny_models.model(), tiny_models.model()
    settings = opinionated.generation_config
    settings.temperature, settings.top_k, settings.repetition_penalty = 0.01, 1, 5.0
    settings.do_sample, settings.min_new_tokens = False, 4
    drawn = [
        TransformersSampler(model, tiny_models.tokenizer()).sample([ask("1")], 9, SHORT, seed=0)
        for model in (plain, opinionated)
    ]
    assert drawn[0] == drawn[1]


def test_many_batches_give_each_row_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [ask("1" * length) for length in (3, 30, 1, 12, 12, 7)]
    whole = sampler().sample(prompts, 2, SHORT, seed=0, greedy=True)
    monkeypatch.setattr(decoding, "_MAX_ROWS", 3)
    assert sampler().sample(prompts, 2, SHORT, seed=0, greedy=True) == whole


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Sampling(top_p=1.0), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(top_p=0.65), [0.0, 4 / 7, 0.0, 3 / 7]),
        (Sampling(top_p=0.75), [0.0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(top_p=1.0, top_k=1), [0.0, 1.0, 0.0, 0.0]),
        (Sampling(top_p=0.5, top_k=3), [0.0, 4 / 7, 0.0, 3 / 7]),
        (Sampling(top_p=1.0, temperature=0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
    ],
)
def test_tokens_are_drawn_from_the_distribution_that_the_settings_say(
    settings: Sampling, expected: list[float]
) -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().expand(20_000, 4)
    drawn = decoding._draw(logits, settings, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx(expected, abs=0.015)


def test_a_model_that_has_diverged_is_an_error_and_no_endless_loop() -> None:
    model = tiny_models.model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(BadData, match="diverged"):
        TransformersSampler(model, tiny_models.tokenizer()).sample([ask("1")], 1, SHORT, seed=0)


def test_a_model_without_a_chat_template_is_asked_in_plain_words() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *ask("1+1")]
    bare = tiny_models.tokenizer(chat_template=None)
    assert sampling.render(bare, messages) == "system: Be brief.\nuser: 1+1"
    assert TransformersSampler(tiny_models.model(), bare).sample([messages], 1, SHORT, seed=0)


def test_a_chat_template_that_refuses_the_system_message_says_what_to_change() -> None:
    strict = tiny_models.tokenizer(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    with pytest.raises(BadConfiguration, match=r"prompts\.solver\.system"):
        sampling.render(strict, [{"role": "system", "content": "x"}, *ask("1")])


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadConfiguration, match=str(tmp_path)):
        open_sampler(SamplerBackend.TRANSFORMERS, tmp_path)


def test_a_model_without_weights_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    tiny_models.save(tmp_path / "model", context=64)
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(
        BadConfiguration, match=r"model\.safetensors.*; correct spec\.model"
    ) as error:
        open_sampler(SamplerBackend.TRANSFORMERS, tmp_path / "model")
    assert "\n" not in str(error.value)


def test_auto_is_transformers_on_a_machine_without_a_gpu() -> None:
    expected = SamplerBackend.VLLM if torch.cuda.is_available() else SamplerBackend.TRANSFORMERS
    assert sampling.resolve(SamplerBackend.AUTO) is expected


def test_vllm_that_is_not_installed_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadConfiguration, match=r"rzero\[vllm\]"):
        sampling.resolve(SamplerBackend.VLLM)
