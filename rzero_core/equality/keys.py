"""What an answer means, as a hashable value."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from rzero_core.equality.expressions import Tree


@dataclass(frozen=True)
class Key:
    """What an answer means. Keys are equal when kind and value are; `text` is the cleaned LaTeX for
    the grader, empty where no computer algebra system should see it.
    """

    kind: str
    value: Hashable
    text: str = field(compare=False, default="")
    tree: Tree | None = field(compare=False, default=None, repr=False)
    """Of expressions, for their sample values."""

    @property
    def parts(self) -> Any:
        """The keys inside a tuple, set, interval, matrix, assignment or quantity."""
        return self.value
