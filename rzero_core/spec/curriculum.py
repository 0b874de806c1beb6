"""The pool of questions, and how votes make a curriculum of it."""

from typing import ClassVar

from pydantic import Field

from rzero_core.spec.rules import Rule, Ruled
from rzero_core.spec.sampling import Sampling


class Questions(Ruled):
    """The pool of questions that the Challenger writes."""

    count: int = Field(8000, ge=1, le=10_000_000)
    """Questions drawn in an iteration, before any is dropped."""
    shards: int = Field(8, ge=1, le=1000)
    """Parts of the pool that are generated and labelled independently."""
    max_characters: int = Field(4096, ge=1)
    """Longer questions are dropped (and counted)."""
    near_duplicate: float = Field(0.9, gt=0.0, le=1.0)
    """BLEU from which the later of two questions is dropped; 1 keeps all but exact duplicates."""
    top_ups: int = Field(2, ge=0, le=20)
    """Further rounds of the same size when the curriculum is smaller than one Solver batch."""
    sampling: Sampling = Sampling()
    """How questions are drawn."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="shards",
            message="shards must not exceed count: each shard draws at least one question",
            cel="self.shards <= self.count",
            holds=lambda questions: questions.shards <= questions.count,
        ),
    )


class Labels(Ruled):
    """How the Solver's votes become labels and a curriculum."""

    votes: int = Field(10, ge=1, le=1000)
    """Answers sampled for each question."""
    min_agreement: float = Field(0.25, ge=0.0, le=1.0)
    """Questions with less agreement are too hard."""
    max_agreement: float = Field(0.75, ge=0.0, le=1.0)
    """Questions with more agreement are too easy."""
    sampling: Sampling = Sampling()
    """How votes are drawn."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="minAgreement",
            message="minAgreement must be less than maxAgreement; write for example 0.25 and 0.75",
            cel="self.minAgreement < self.maxAgreement",
            holds=lambda labels: labels.min_agreement < labels.max_agreement,
        ),
    )
