"""Operators that die at every write, one after the other, for tests."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from api_proxy import RESET, Answer, ApiProxy, Asked
from operator_process import OperatorProcess

MOST_INCARNATIONS = 120


def deaths_at(
    proxy: ApiProxy,
    start: Callable[[], AbstractContextManager[OperatorProcess]],
    moment: str,
    name: Callable[[Asked], str | None],
    last: str,
    is_over: Callable[[], bool],
) -> list[str]:
    """The names of the writes at which operators died, in their order.

    Each incarnation dies at the first write that none has died at yet: before the server sees it,
    or after the server answered (`moment`). `name` says what a write is, None for one that none
    dies at. The server shows a write before the operator is killed for it, so that `is_over` alone
    could be true before the death at the `last` one.
    """
    deaths: list[str] = []

    def is_done() -> bool:
        return last in deaths and is_over()

    for _ in range(MOST_INCARNATIONS):
        with start() as process, _killing(proxy, process, moment, deaths, name) as dead:
            while not (dead.wait(0.1) or is_done()):
                pass
        if is_done():
            break
    return deaths


@contextmanager
def _killing(
    proxy: ApiProxy,
    process: OperatorProcess,
    moment: str,
    deaths: list[str],
    name: Callable[[Asked], str | None],
) -> Iterator[threading.Event]:
    """Kill the operator at the first write whose name is not among `deaths`, and add that."""
    dead = threading.Event()

    def before(asked: Asked) -> Answer | None:
        if dead.is_set():
            return RESET if asked.is_write else None
        return die(asked) if moment == "before" else None

    def after(asked: Asked) -> Answer | None:
        return die(asked) if moment == "after" and not dead.is_set() else None

    def die(asked: Asked) -> Answer | None:
        death = name(asked)
        if death is None or death in deaths:
            return None
        deaths.append(death)
        process.process.kill()
        dead.set()
        return RESET

    proxy.before, proxy.after = before, after
    try:
        yield dead
    finally:
        proxy.before, proxy.after = lambda _: None, lambda _: None
