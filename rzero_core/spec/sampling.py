"""The prompts of the two roles, and how tokens are drawn."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from rzero_core.spec.rules import Rule, Ruled
from rzero_core.wire import Wire


class SamplerBackend(StrEnum):
    """What turns prompts into texts."""

    AUTO = "Auto"
    """vLLM where the stage sees a GPU, Transformers elsewhere."""
    TRANSFORMERS = "Transformers"
    VLLM = "Vllm"


class Prompt(Wire):
    """A chat prompt. `{question}` in `user` stands for the question; nothing else is replaced."""

    system: str = Field("", max_length=8192)
    """System message; left out of the conversation when empty."""
    user: str = Field(max_length=8192, min_length=1)
    """User message."""


class Prompts(Ruled):
    """Prompts of the two roles, for models and subjects that the built-in ones do not suit."""

    challenger: Prompt | None = None
    """Asks for one new question. Default: a competition-mathematics question."""
    solver: Prompt | None = None
    """Asks for an answer in \\boxed{}; its user message must contain {question}."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="solver.user",
            message="user must contain {question}, which stands for the question",
            cel="!has(self.solver) || self.solver.user.contains('{question}')",
            holds=lambda prompts: prompts.solver is None or "{question}" in prompts.solver.user,
        ),
    )


class Sampling(Wire):
    """How tokens are drawn."""

    temperature: float = Field(1.0, gt=0.0, le=4.0)
    """Softmax temperature."""
    top_p: float = Field(0.99, gt=0.0, le=1.0)
    """Nucleus: the smallest set of tokens with this much probability."""
    top_k: int = Field(0, ge=0)
    """Only the k likeliest tokens; 0 for no limit."""
    max_tokens: int = Field(2048, ge=1, le=131072)
    """Longest completion, in tokens."""
