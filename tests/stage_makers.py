"""Tasks, stores and samplers for tests of stages that write rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rzero_core.records import Row, read_jsonl
from rzero_core.run import Prompts, SamplerBackend, Sampling, Stage, Storage
from rzero_core.store import ArtifactStore
from rzero_core.task import RunRef, StageResult, stage_prefix
from rzero_stages.sampler import Completion, Messages

RUN = RunRef(name="demo", uid="11111111-2222")


def store(root: Path) -> ArtifactStore:
    return ArtifactStore(Storage(uri=str(root)))


def base(root: Path, stage: Stage, round: int = 1, run: RunRef = RUN) -> dict[str, Any]:
    """What all tasks of iteration 1 say."""
    return {
        "run": run,
        "iteration": 1,
        "round": round,
        "seed": 0,
        "storage": Storage(uri=str(root)),
        "prefix": stage_prefix(str(root), run, 1, stage, round),
        "prompts": Prompts(),
        "sampler": SamplerBackend.TRANSFORMERS,
    }


def rows(result: StageResult, output: str, row: type[Row]) -> list[Row]:
    """The rows of a published artifact."""
    return list(read_jsonl(Path(result.outputs[output]) / f"{output}.jsonl", row))


class Scripted:
    """A sampler that writes what `text(question, place)` says; place counts its answers."""

    def __init__(self, text: Callable[[str, int], str]) -> None:
        self._text = text
        self._places: dict[str, int] = {}
        self.asked: list[tuple[int, int]] = []
        """Prompts and completions of each, by call."""
        self.seeds: list[int] = []

    def sample(
        self,
        prompts: Sequence[Messages],
        n: int,
        sampling: Sampling,
        seed: int,
        greedy: bool = False,
    ) -> list[list[Completion]]:
        self.asked.append((len(prompts), n))
        self.seeds.append(seed)
        return [[self._next(prompt[-1]["content"]) for _ in range(n)] for prompt in prompts]

    def _next(self, question: str) -> Completion:
        place = self._places.get(question, 0)
        self._places[question] = place + 1
        return Completion(self._text(question, place), tokens=5, finished=True)
