"""What our part costs: shards of GenerateQuestions and LabelQuestions beside the bare sampler.

`python -m benchmarks.generation` prints one table; with --json, one object. Both draw from the same
prompts; a shard also parses, votes and publishes. They take turns. On a busy machine go by the
ratio of processor times: that of elapsed times is then mostly noise, as its lowest and highest
values show. One more pair is the decoding loop and Transformers' `generate`.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from rzero_core import answers, prompts
from rzero_core.records import Question, read_jsonl
from rzero_core.run import (
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
from rzero_core.task import (
    GenerateQuestionsTask,
    LabelQuestionsTask,
    RunRef,
    derive_seed,
    shard_prefix,
)
from rzero_stages import generate_questions, label_questions
from rzero_stages.sampler import Sampler
from rzero_stages.sampling import open_sampler, resolve

MODEL = Path(__file__).parent.parent / "examples" / "tiny" / "model"
TARGET = 0.9
REPEATS = 6
QUESTIONS = Questions(count=500, shards=1, sampling=Sampling(top_p=1.0, max_tokens=32))
POOL = QUESTIONS.model_copy(update={"count": 100})
LABELS = Labels(votes=10, sampling=Sampling(top_p=1.0, max_tokens=96))
PROMPTS = Prompts(challenger=Prompt(user="Write a sum."), solver=Prompt(user="{question}"))

Work = Callable[[], float]
"""Draws, and says how many tokens."""


class Bench:
    """One backend, with the stages' tasks in a store of their own for every repetition."""

    def __init__(self, sampler: Sampler, root: Path) -> None:
        self._sampler = sampler
        self._root = root
        self._pool = self._publish_pool()

    def pairs(self) -> dict[str, tuple[Work, Work]]:
        """The shard and the bare sampler, by stage."""
        return {
            "generateQuestions": (self._generate, self._generate_bare),
            "labelQuestions": (self._label, self._label_bare),
        }

    def _base(self, stage: Stage) -> dict[str, Any]:
        folder = tempfile.mkdtemp(dir=self._root)
        return {
            "run": RunRef(name="bench", uid="00000000"),
            "iteration": 1,
            "seed": 0,
            "storage": Storage(uri=folder),
            "prefix": f"{folder}/{stage}",
            "prompts": PROMPTS,
            "sampler": SamplerBackend.AUTO,
        }

    def _store(self) -> ArtifactStore:
        return ArtifactStore(Storage(uri=str(self._root)))

    def _generate_task(self, questions: Questions = QUESTIONS) -> GenerateQuestionsTask:
        base = self._base(Stage.GENERATE_QUESTIONS)
        return GenerateQuestionsTask(**base, challenger=str(MODEL), questions=questions)

    def _publish_pool(self) -> str:
        task = self._generate_task(POOL)
        generate_questions.run(task, self._store(), 0, self._sampler)
        return shard_prefix(task.prefix, 0)

    def _generate(self) -> float:
        task = self._generate_task()
        return generate_questions.run(task, self._store(), 0, self._sampler).metrics["tokens"]

    def _generate_bare(self) -> float:
        assert PROMPTS.challenger is not None
        messages = prompts.challenger_messages(PROMPTS.challenger)
        seed = derive_seed(0, 1, Stage.GENERATE_QUESTIONS, 1, 0)
        return self._draw([messages] * QUESTIONS.count, 1, QUESTIONS.sampling, seed)

    def _label(self) -> float:
        task = LabelQuestionsTask(
            **self._base(Stage.LABEL_QUESTIONS), solver=str(MODEL), pool=[self._pool], labels=LABELS
        )
        # Verdicts that an earlier repetition remembers would flatter this one.
        answers._verdicts.clear()
        return label_questions.run(task, self._store(), 0, self._sampler).metrics["tokens"]

    def _label_bare(self) -> float:
        assert PROMPTS.solver is not None
        path = self._store().local(self._pool) / "questions.jsonl"
        messages = [
            prompts.solver_messages(PROMPTS.solver, question.text)
            for question in read_jsonl(path, Question)
        ]
        return self._draw(messages, LABELS.votes, LABELS.sampling, 0)

    def _draw(self, messages: list[Any], n: int, sampling: Sampling, seed: int) -> float:
        drawn = self._sampler.sample(messages, n, sampling, seed)
        return float(sum(completion.tokens for row in drawn for completion in row))


def compare(ours: Work, bare: Work) -> dict[str, float]:
    """Medians over pairs, which change order each time; the first pair warms up.

    `stage` and `sampler` are tokens per second, `ratio` is that of a pair. `processorRatio` is the
    same for processor time: what to go by where other work shares the machine.
    """
    pairs = []
    for number in range(REPEATS + 1):
        if number % 2:
            theirs, mine = _speed(bare), _speed(ours)
        else:
            mine, theirs = _speed(ours), _speed(bare)
        pairs.append((mine, theirs))
    ratios = [(mine[0] / theirs[0], mine[1] / theirs[1]) for mine, theirs in pairs[1:]]
    return {
        "stage": round(statistics.median(mine[0] for mine, _ in pairs[1:])),
        "sampler": round(statistics.median(theirs[0] for _, theirs in pairs[1:])),
        "ratio": round(statistics.median(wall for wall, _ in ratios), 3),
        "lowestRatio": round(min(wall for wall, _ in ratios), 3),
        "highestRatio": round(max(wall for wall, _ in ratios), 3),
        "processorRatio": round(statistics.median(processor for _, processor in ratios), 3),
    }


def compare_with_generate() -> dict[str, float]:
    """Our decoding loop beside `generate` in batches of the same size: tokens per second."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rzero_stages.sampling import TransformersSampler

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model: Any = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    sampler = TransformersSampler(model, tokenizer)
    questions = [f"{7 * i}+{13 * i * i % 9999}" for i in range(100)]
    chats = [[{"role": "user", "content": question}] for question in questions]

    def ours() -> float:
        drawn = sampler.sample(chats, LABELS.votes, LABELS.sampling, 0)
        return float(sum(completion.tokens for row in drawn for completion in row))

    def theirs() -> float:
        inputs: Any = tokenizer.apply_chat_template(
            [chat for chat in chats for _ in range(LABELS.votes)],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        drawn = model.generate(
            **inputs, max_new_tokens=LABELS.sampling.max_tokens, do_sample=True, top_k=0, top_p=1.0
        )[:, inputs["input_ids"].shape[1] :]
        # After its end token a row is padded.
        return float((drawn != tokenizer.pad_token_id).sum())

    return compare(ours, theirs)


def measure(backends: list[SamplerBackend]) -> dict[str, Any]:
    """The figures of each backend and stage, and of the decoding loop."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root, redirect_stdout(sys.stderr):
        if SamplerBackend.TRANSFORMERS in backends:
            # Before vLLM, which binds this process to its threads.
            found["Transformers.generate"] = compare_with_generate()
        for backend in backends:
            bench = Bench(open_sampler(backend, MODEL), Path(root))
            for stage, (ours, bare) in bench.pairs().items():
                found[f"{backend}.{stage}"] = compare(ours, bare)
                print(f"{backend}.{stage}", found[f"{backend}.{stage}"], flush=True)
    return found


def _speed(work: Work) -> tuple[float, float]:
    """Tokens per second, and per second of processor time of this process and its graders."""
    wall, processor = time.perf_counter(), _processor_seconds()
    tokens = work()
    return (
        tokens / (time.perf_counter() - wall),
        tokens / (_processor_seconds() - processor),
    )


def _processor_seconds() -> float:
    workers = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.process_time() + float(sum(times.user + times.system for times in workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--backend",
        choices=[SamplerBackend.TRANSFORMERS, SamplerBackend.VLLM],
        help="only this one; default: both",
    )
    options = parser.parse_args()
    logging.getLogger("rzero_stages").setLevel(logging.ERROR)
    backends = [SamplerBackend.TRANSFORMERS, SamplerBackend.VLLM]
    chosen = [resolve(SamplerBackend(options.backend))] if options.backend else backends
    found = measure(chosen)
    if options.json:
        print(json.dumps(found))
        return
    print(f"tokens per second, medians of {REPEATS} interleaved pairs; target ratio {TARGET}\n")
    print(
        f"{'':30}{'stage':>9}{'sampler':>9}{'ratio':>7}{'lowest':>8}{'highest':>9}{'processor':>11}"
    )
    for name, figures in found.items():
        label = "our loop / generate" if name == "Transformers.generate" else name
        print(
            f"{label:30}{figures['stage']:9.0f}{figures['sampler']:9.0f}{figures['ratio']:7.2f}"
            f"{figures['lowestRatio']:8.2f}{figures['highestRatio']:9.2f}"
            f"{figures['processorRatio']:11.2f}"
        )


if __name__ == "__main__":
    main()
