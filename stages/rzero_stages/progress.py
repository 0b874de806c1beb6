"""Tells whoever started a stage how far it is: JSON lines on standard output, one object a line."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

_SECONDS_BETWEEN_LINES = 0.5

Listener = Callable[[int, int, Mapping[str, float]], None]
"""Told of each line: done, total and the figures so far."""
_listeners: list[Listener] = []


def report(done: int, total: int, unit: str, **metrics: float) -> None:
    """Print one line: `done` of `total` `unit` (a plural, such as steps) and the figures so far."""
    line = {"event": "progress", "done": done, "total": total, "unit": unit, "metrics": metrics}
    print(json.dumps(line), file=sys.stdout, flush=True)
    for listener in _listeners:
        listener(done, total, metrics)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Tell `listener`, too, of every line within."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Counter:
    """Counts finished items of a known total, and reports at most twice a second."""

    def __init__(self, total: int, unit: str) -> None:
        self._done = 0
        self._total = total
        self._unit = unit
        self._last_line = 0.0

    def advance(self, items: int) -> None:
        """Count `items` more."""
        self._done += items
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES or self._done >= self._total:
            self._last_line = now
            report(self._done, self._total, self._unit)
