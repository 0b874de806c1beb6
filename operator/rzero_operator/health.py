"""Tells whether the operator still does its work, not only whether its process exists.

A watch can die without a word. Then what the resync lists is newer than what the watch delivered,
and stays so: that is the proof, and it needs no object of our own to change.
"""

import time
from collections.abc import Callable

WATCH_LAG = 120.0
"""Seconds after which a listed change must have come through the watch too; at least two resyncs,
for a list may be older than what the watch delivered, which the next one shows."""
LONGEST_WAIT = 600.0
"""Seconds that a key may wait in the queue."""
MISSED_RESYNCS = 3


class Health:
    """Collects signs of life; `problem` draws the conclusion."""

    def __init__(
        self,
        resync_seconds: float,
        oldest_age: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._oldest_age = oldest_age
        self._resync_seconds = resync_seconds
        self._longest_lag = max(WATCH_LAG, 2 * resync_seconds)
        self._ticked_at = clock()
        self._delivered: dict[str, str] = {}
        self._lagging: dict[str, float] = {}

    def delivered(self, uid: str, version: str) -> None:
        """The watch delivered a version of an object."""
        self._delivered[uid] = version
        self._lagging.pop(uid, None)

    def deleted(self, uid: str) -> None:
        """The watch told of a deletion, or nothing of that UID is there any more."""
        self._delivered.pop(uid, None)
        self._lagging.pop(uid, None)

    def listed(self, uid: str, version: str) -> None:
        """The resync saw a version of an object."""
        if self._delivered.get(uid) == version:
            self._lagging.pop(uid, None)
        else:
            self._lagging.setdefault(uid, self._clock())

    @property
    def known(self) -> set[str]:
        """UIDs of all objects that were delivered or listed, and not deleted."""
        return self._delivered.keys() | self._lagging.keys()

    def ticked(self) -> None:
        """The resync was tried. An API server that is away is no reason to restart the operator."""
        self._ticked_at = self._clock()

    def resynced(self, uids: set[str], known_before: set[str]) -> None:
        """The resync listed all objects: these are there.

        What is not among them is gone, if it was known before the list was asked for.
        """
        for uid in known_before - uids:
            self.deleted(uid)

    def problem(self) -> str | None:
        """What is wrong, None while all is well."""
        now = self._clock()
        lag = now - min(self._lagging.values(), default=now)
        if lag > self._longest_lag:
            return f"the watch is dead: a change is {lag:.0f} s old and was not delivered"
        if now - self._ticked_at > (MISSED_RESYNCS + 1) * self._resync_seconds:
            return f"no resync for {now - self._ticked_at:.0f} s"
        if (age := self._oldest_age()) > LONGEST_WAIT:
            return f"a run has waited {age:.0f} s in the queue"
        return None
