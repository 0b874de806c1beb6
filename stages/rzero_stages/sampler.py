"""What stages ask texts of: the contract that every sampler of `rzero_stages.sampling` keeps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rzero_core.run import Sampling

Messages = list[dict[str, str]]
"""A conversation: role and content of each message."""

OnCompletions = Callable[[int], None]
"""Told how many completions more are finished, for progress."""


@dataclass(frozen=True)
class Completion:
    """One text drawn for one prompt."""

    text: str
    tokens: int
    """Tokens drawn, the end token included."""
    finished: bool
    """False: cut at `max_tokens` or at the end of the model's context."""


UNANSWERABLE = Completion("", 0, False)
"""Of a prompt that fills the model's context, so that no token can follow."""


class Sampler(Protocol):
    """What draws texts."""

    def sample(
        self,
        prompts: Sequence[Messages],
        n: int,
        sampling: Sampling,
        seed: int,
        greedy: bool = False,
    ) -> list[list[Completion]]:
        """`n` completions of each prompt, in the order of the prompts.

        `greedy` takes the likeliest token and leaves `sampling.max_tokens` as the only setting.
        The same arguments give the same texts on the same machine, as far as its arithmetic allows.
        """
        ...
