"""Held-out scores: on which questions, and how answers are drawn."""

from typing import ClassVar

from pydantic import Field

from rzero_core.spec.rules import Rule, Ruled, file_uri, written_as
from rzero_core.spec.sampling import Sampling


class Dataset(Ruled):
    """Held-out questions with known answers, one JSON object {question, answer} a line."""

    name: str = Field(max_length=63)
    """Name in results and metrics."""
    uri: str = Field(min_length=1, max_length=1024)
    """A path, `file://` or `s3://` URI of a JSONL file."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        written_as(
            "name",
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
            "write lower-case letters, digits and '-', with a letter or digit at both ends",
        ),
        file_uri("uri"),
    )


class Evaluation(Ruled):
    """Held-out scores of the base model and of every Solver."""

    datasets: list[Dataset] = Field([], max_length=32)
    """Evaluated in this order; none: no evaluation."""
    samples: int = Field(8, ge=1, le=1024)
    """Answers sampled for each question: the k of mean@k and maj@k."""
    sampling: Sampling = Sampling()
    """How answers are drawn; greedy decoding stands beside it."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="datasets",
            message="two datasets have the same name; names must differ",
            cel="self.datasets.all(a, self.datasets.exists_one(b, b.name == a.name))",
            holds=lambda evaluation: (
                len({dataset.name for dataset in evaluation.datasets}) == len(evaluation.datasets)
            ),
        ),
    )
