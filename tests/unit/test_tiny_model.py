"""The shipped models of examples/tiny: they load as any Hugging Face folder and do their job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TINY = Path(__file__).parents[2] / "examples" / "tiny"
FOLDERS = [TINY / "model", TINY / "model-bad"]


def say(folder: Path, asked: list[str], *, greedy: bool) -> list[str]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = [[{"role": "system", "content": ""}, {"role": "user", "content": a}] for a in asked]
    prompts = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    tokens = model.generate(**prompts, max_new_tokens=64, do_sample=not greedy)
    answered = tokens[:, prompts["input_ids"].shape[1] :]
    return list(tokenizer.batch_decode(answered, skip_special_tokens=True))


def heldout() -> list[dict[str, str]]:
    return [json.loads(line) for line in (TINY / "heldout.jsonl").read_text().splitlines()]


def test_the_heldout_questions_are_many_different_and_rightly_answered() -> None:
    rows = heldout()
    assert len({row["question"] for row in rows}) == len(rows) >= 500
    for row in rows:
        assert int(row["answer"]) == sum(int(number) for number in row["question"].split("+"))


def test_all_that_is_shipped_is_under_three_megabytes() -> None:
    shipped = [path for path in TINY.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in shipped) < 3_000_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_16_bit_weights_load_as_32_bit_ones(folder: Path) -> None:
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float32


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_tokenizer_keeps_every_printable_text_and_drops_only_the_markers(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "<question>12+345</question> ones 2+5=7 \\boxed{357}\n" + "".join(
        map(chr, range(32, 127))
    )
    tokens = tokenizer(f"<|user|>{text}<|assistant|>{text}<|end|>")["input_ids"]
    assert tokenizer.unk_token_id not in tokens
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text + text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_chat_template_marks_each_role_and_opens_the_answer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY / "model")
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "1+2"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == "<|system|><|user|>1+2<|assistant|>"


def test_the_good_model_answers_nearly_all_heldout_questions_when_greedy() -> None:
    rows = heldout()[:200]
    said = say(TINY / "model", [row["question"] for row in rows], greedy=True)
    right = sum(f"\\boxed{{{row['answer']}}}" in text for row, text in zip(rows, said, strict=True))
    assert right >= 0.88 * len(rows)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_model_writes_sums_when_asked_to(folder: Path) -> None:
    said = say(folder, ["Write a sum."] * 200, greedy=False)
    valid = [
        text for text in said if text.startswith("<question>") and text.endswith("</question>")
    ]
    assert len(valid) >= 0.9 * len(said)
    assert len(set(valid)) >= 0.9 * len(valid)
