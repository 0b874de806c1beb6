"""Holds the keys of runs that want a look: each at most once, and by one worker at a time.

Watches, the resync and retries only add keys; what is to be done is found out by the reconciler.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

FIRST_RETRY = 0.5
"""Seconds before the first retry after an error; doubles with each further one."""
LONGEST_RETRY = 60.0
_MOST_DOUBLINGS = 16


class RunKey(NamedTuple):
    """Which run to look at."""

    namespace: str
    name: str


class WorkQueue:
    """Keys that are due, in the order in which they became due."""

    def __init__(self) -> None:
        self._due: dict[RunKey, float] = {}
        self._busy: set[RunKey] = set()
        self._again: dict[RunKey, float] = {}
        self._timers: dict[RunKey, asyncio.TimerHandle] = {}
        self._errors: Counter[RunKey] = Counter()
        self._changed = asyncio.Condition()
        self._wakers: set[asyncio.Task[None]] = set()

    def add(self, key: RunKey) -> None:
        """Make a key due now; a key that is being worked on becomes due again after that."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        now = asyncio.get_running_loop().time()
        if key in self._busy:
            self._again.setdefault(key, now)
        elif key not in self._due:
            self._due[key] = now
            self._wake()

    def add_after(self, key: RunKey, seconds: float) -> None:
        """Make a key due later, unless it is due earlier anyway."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    def retry(self, key: RunKey, least: float = 0.0) -> float:
        """Make a key due after a pause that grows with its errors. Returns the seconds.

        `least`: seconds that the server asked for, heeded up to the longest pause.
        """
        pause = min(FIRST_RETRY * 2.0 ** self._errors[key], LONGEST_RETRY)
        # No further, or after a day of errors the pause would be too large for a float.
        self._errors[key] = min(self._errors[key] + 1, _MOST_DOUBLINGS)
        # Runs that failed together do not come back together.
        pause = max(pause * random.uniform(0.5, 1.0), min(least, LONGEST_RETRY))
        self.add_after(key, pause)
        return pause

    def forget_errors(self, key: RunKey) -> None:
        """The key was worked on without an error."""
        self._errors.pop(key, None)

    @property
    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        return len(self._due)

    @property
    def oldest_age(self) -> float:
        """Seconds that the longest waiting key has been due, 0 when none waits."""
        waiting = [*self._due.values(), *self._again.values()]
        return asyncio.get_running_loop().time() - min(waiting) if waiting else 0.0

    async def work(self, handle: Callable[[RunKey], Awaitable[None]]) -> None:
        """One worker: handles keys for ever. `handle` must deal with its own errors."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._due))
                key = next(iter(self._due))
                del self._due[key]
                self._busy.add(key)
            try:
                await handle(key)
            finally:
                self._busy.discard(key)
                if key in self._again:
                    self._due[key] = self._again.pop(key)
                    self._wake()

    def _wake(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify()

        task = asyncio.get_running_loop().create_task(notify())
        # The loop alone would let an unreferenced task be collected.
        self._wakers.add(task)
        task.add_done_callback(self._wakers.discard)
