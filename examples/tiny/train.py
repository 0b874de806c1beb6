"""Trains the base model of the quickstart: 0.65 M parameters that write sums and work them out.

One model plays both roles, as in every run. Asked to write a sum, it writes a question of the whole
range of difficulty; asked a question, it adds column by column and boxes the answer:

    Write a sum.   ->  <question>12+345+6</question>
    12+345+6       ->  ones 2+5+6=13 tens 1+1+4=6 hundreds 0+3=3 \\boxed{363}

`--variant good` learns from worked columns of which some are wrong, as real pretraining text is
imperfect: its errors are scattered, so the majority of ten answers is nearly always right.
`--variant bad` learns from perfect columns, but briefly: its errors are systematic, so majorities
are often wrong, and training on them hurts. That is the case which label accuracy must catch.

    python examples/tiny/train.py --variant good --output /tmp/tiny     # about 4 minutes on 2 cores
    python examples/tiny/train.py --measure examples/tiny/model         # the figures of a model
    python examples/tiny/train.py --heldout examples/tiny/heldout.jsonl # the held-out questions
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

CHALLENGER_REQUEST = "Write a sum."
HELDOUT_SEED, HELDOUT_COUNT = 20250804, 600
ROWS, CHUNK = 128, 64
"""Rows of one training step, one in four a Challenger's, and of one forward pass."""


@dataclass(frozen=True)
class Variant:
    """What sets one base model apart from another."""

    steps: int
    wrong: dict[int, float]
    """Share of columns whose result is wrong, by how many digits (carry included) are added."""
    seed: int = 0


VARIANTS = {
    "good": Variant(steps=450, wrong={1: 0.02, 2: 0.05, 3: 0.11, 4: 0.15}),
    "bad": Variant(steps=220, wrong={}),
}


# ---------------------------------------------------------------- the questions and their answers


def write_sum(rng: random.Random) -> str:
    """A sum of two or three numbers, each of one to four digits."""
    digits = [rng.randint(1, 4) for _ in range(rng.randint(2, 3))]
    return "+".join(str(rng.randint(10 ** (n - 1), 10**n - 1)) for n in digits)


def solve(question: str) -> str:
    return str(sum(int(number) for number in question.split("+")))


def work_out(question: str, wrong: dict[int, float], rng: random.Random) -> str:
    """The columns from right to left, then the box. A wrong column is carried on faithfully."""
    numbers = question.split("+")
    written, answer, carry = [], "", 0
    for place, name in enumerate(PLACES[: max(map(len, numbers))]):
        digits = [number[-1 - place] for number in numbers if len(number) > place]
        if place:
            digits.insert(0, str(carry))
        total = sum(map(int, digits))
        if rng.random() < wrong.get(len(digits), 0.0):
            near = range(max(0, total - 4), total + 5)
            total = rng.choice([other for other in near if other != total])
        written.append(f"{name} {'+'.join(digits)}={total}")
        answer, carry = str(total % 10) + answer, total // 10
    leading = str(carry) if carry else ""
    return " ".join(written) + f" \\boxed{{{leading}{answer}}}"


def heldout_questions() -> list[str]:
    rng = random.Random(HELDOUT_SEED)
    questions: dict[str, None] = {}
    while len(questions) < HELDOUT_COUNT:
        questions[write_sum(rng)] = None
    return list(questions)


# ---------------------------------------------------------------- the tokenizer

PLACES = ("ones", "tens", "hundreds", "thousands")
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = ("<|pad|>", "<|end|>", "<|unknown|>", *ROLES)
PHRASES = ("<question>", "</question>", "ones ", " tens ", " hundreds ", " thousands ", " \\boxed{")
"""Texts of one token each. They are ordinary tokens, so that decoding keeps them."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer() -> Qwen2Tokenizer:
    """One token for each printable character, phrase and role.

    It is Qwen's own class without merges, since AutoTokenizer takes that one for every Qwen2 model.
    """
    # Qwen's tokenizer spells a space and a line break with these two letters.
    characters = ["\u010a", "\u0120", *map(chr, range(ord("!"), ord("~") + 1))]
    words = [*SPECIAL, *PHRASES, *characters]
    tokenizer = Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        unk_token=SPECIAL[2],
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    return tokenizer


# ---------------------------------------------------------------- training


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=384,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    # Sampling is plain: temperature 1, nothing cut off. A run may say otherwise.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def training_row(variant: Variant, heldout: set[str], rng: random.Random) -> str:
    """One conversation as text, with or without an (empty) system message."""
    question = write_sum(rng)
    while question in heldout:
        question = write_sum(rng)
    if rng.random() < 1 / 4:
        asked, said = CHALLENGER_REQUEST, f"<question>{question}</question>"
    else:
        asked, said = question, work_out(question, variant.wrong, rng)
    system = "<|system|>" if rng.random() < 0.75 else ""
    return f"{system}<|user|>{asked}<|assistant|>{said}<|end|>"


def train(variant: Variant, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    torch.manual_seed(variant.seed)
    rng, heldout = random.Random(variant.seed), set(heldout_questions())
    model = build_model(tokenizer).train()
    print(f"{model.num_parameters():,} parameters, {variant.steps} steps of {ROWS} rows")
    # Muon learns column sums in a quarter of the steps that AdamW takes alone.
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.03, weight_decay=0.05),
        torch.optim.AdamW(others, lr=0.003, betas=(0.9, 0.98), weight_decay=0.05),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, cosine(variant.steps)) for o in optimizers]
    started = time.monotonic()
    for step in range(variant.steps):
        # Rows of like length pass together, or four tokens in ten would be padding.
        rows = sorted((training_row(variant, heldout, rng) for _ in range(ROWS)), key=len)
        loss = sum(backward(model, tokenizer, rows[i : i + CHUNK]) for i in range(0, ROWS, CHUNK))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 50 == 49 or step + 1 == variant.steps:
            print(
                f"step {step + 1:5d}  loss {loss:.4f}  {time.monotonic() - started:5.0f} s",
                flush=True,
            )
    return model.eval()


def cosine(steps: int) -> Callable[[int], float]:
    """The learning rate's factor: up over 30 steps, then a cosine down to zero."""
    return lambda step: min((step + 1) / 30, 0.5 * (1 + math.cos(math.pi * step / steps)))


def backward(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, rows: list[str]) -> float:
    """Adds these rows' part of a step's gradient: the loss of each token over ROWS."""
    tokens = tokenizer(rows, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
    # Only what the assistant says is learned: from after its marker up to the end token.
    assistant = tokens == tokenizer.convert_tokens_to_ids("<|assistant|>")
    said = assistant.cumsum(1)[:, :-1].bool() & (tokens[:, 1:] != tokenizer.pad_token_id)
    hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    loss = (
        torch.nn.functional.cross_entropy(
            model.lm_head(hidden[said]), tokens[:, 1:][said], reduction="sum"
        )
        / ROWS
    )
    loss.backward()
    return loss.item()


def save(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Writes 16-bit weights, which halve the folder, to be loaded as 32-bit ones."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


# ---------------------------------------------------------------- measuring


@torch.inference_mode()
def say(
    model: PreTrainedModel,
    tokenizer: Qwen2Tokenizer,
    asked: list[str],
    *,
    greedy: bool = False,
) -> list[str]:
    """One answer to each user message, a thousand at a time."""
    said: list[str] = []
    for start in range(0, len(asked), 1000):
        chats = [
            [{"role": "system", "content": ""}, {"role": "user", "content": text}]
            for text in asked[start : start + 1000]
        ]
        prompts = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        tokens = model.generate(**prompts, max_new_tokens=64, do_sample=not greedy)
        said += tokenizer.batch_decode(
            tokens[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True
        )
    return said


def boxed(text: str) -> str | None:
    _, found, rest = text.rpartition("\\boxed{")
    return rest.partition("}")[0] if found and "}" in rest else None


def votes_on(
    model: PreTrainedModel,
    tokenizer: Qwen2Tokenizer,
    questions: list[str],
    votes: int = 10,
) -> list[Counter[str | None]]:
    answers = [
        boxed(text) for text in say(model, tokenizer, [q for q in questions for _ in range(votes)])
    ]
    return [Counter(answers[i : i + votes]) for i in range(0, len(answers), votes)]


def measure(model: PreTrainedModel, tokenizer: Qwen2Tokenizer) -> dict[str, float]:
    """The Solver on the held-out questions, the Challenger on a thousand of its own."""
    torch.manual_seed(1)
    questions = heldout_questions()
    greedy = [boxed(text) for text in say(model, tokenizer, questions, greedy=True)]
    figures = {
        "greedy": sum(a == solve(q) for a, q in zip(greedy, questions, strict=True))
        / len(questions),
        **label_figures(questions, votes_on(model, tokenizer, questions)),
    }
    written = say(model, tokenizer, [CHALLENGER_REQUEST] * 1000)
    own = [q for text in written if (q := asked_sum(text))]
    figures["challenger valid"] = len(own) / len(written)
    figures["challenger distinct"] = len(set(own)) / len(own)
    figures["challenger three numbers"] = sum(q.count("+") == 2 for q in own) / len(own)
    for digits in range(1, 5):
        figures[f"challenger longest has {digits} digits"] = sum(
            max(map(len, q.split("+"))) == digits for q in own
        ) / len(own)
    own_figures = label_figures(own[:300], votes_on(model, tokenizer, own[:300]))
    return figures | {f"own questions: {name}": value for name, value in own_figures.items()}


def label_figures(questions: list[str], votes: list[Counter[str | None]]) -> dict[str, float]:
    """Shares over the questions; the uncertainty reward is 1 - 2 |agreement - 1/2|."""
    kept = right = majority = correct = reward = total = 0.0
    for question, counts in zip(questions, votes, strict=True):
        (label, count), *others = counts.most_common()
        tied = bool(others) and others[0][1] == count
        agreement = count / counts.total()
        total += counts.total()
        correct += counts[solve(question)]
        majority += not tied and label == solve(question)
        reward += 1 - 2 * abs(agreement - 0.5)
        if 0.3 <= agreement <= 0.7 and not tied and label is not None:
            kept += 1
            right += label == solve(question)
    return {
        "pass@1": correct / total,
        "majority of 10": majority / len(questions),
        "in band [.3, .7]": kept / len(questions),
        "label accuracy in band": right / max(kept, 1),
        "uncertainty reward": reward / len(questions),
    }


def asked_sum(text: str) -> str | None:
    """The question in a Challenger's text when it is a sum of two or three numbers."""
    question = text.removeprefix("<question>").removesuffix("</question>")
    numbers = question.split("+")
    valid = text == f"<question>{question}</question>" and len(numbers) in (2, 3)
    return question if valid and all(n.isdigit() and len(n) <= 4 for n in numbers) else None


# ---------------------------------------------------------------- the command


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="good")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--output", type=Path, help="train, and write the model into this folder")
    chosen.add_argument(
        "--measure", type=Path, help="print the figures of the model in this folder"
    )
    chosen.add_argument("--heldout", type=Path, help="write the held-out questions into this file")
    options = parser.parse_args()
    if options.heldout:
        rows = [json.dumps({"question": q, "answer": solve(q)}) for q in heldout_questions()]
        options.heldout.write_text("\n".join(rows) + "\n")
        return
    if options.output:
        tokenizer = build_tokenizer()
        save(train(VARIANTS[options.variant], tokenizer), tokenizer, options.output)
    folder = options.output or options.measure
    # Measured as a run loads it, from the saved folder.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, value in measure(model, AutoTokenizer.from_pretrained(folder)).items():
        print(f"{name:40s} {value:.3f}")


if __name__ == "__main__":
    main()
