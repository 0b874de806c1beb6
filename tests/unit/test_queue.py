"""The work queue: each key once, one worker at a time, longer and longer pauses after errors."""

import asyncio
from collections.abc import Awaitable, Callable

from rzero_operator.queue import LONGEST_RETRY, RunKey, WorkQueue

ONE, TWO = RunKey("default", "one"), RunKey("default", "two")


async def work_until(queue: WorkQueue, handle: Callable[[RunKey], Awaitable[None]], n: int) -> None:
    """Let three workers handle `n` keys."""
    seen = 0
    enough = asyncio.Event()

    async def counted(key: RunKey) -> None:
        nonlocal seen
        await handle(key)
        seen += 1
        if seen == n:
            enough.set()

    workers = [asyncio.create_task(queue.work(counted)) for _ in range(3)]
    try:
        await asyncio.wait_for(enough.wait(), 5)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def test_a_key_that_is_added_often_is_handled_once_and_in_turn() -> None:
    handled: list[RunKey] = []

    async def scenario() -> None:
        queue = WorkQueue()
        for key in (ONE, ONE, TWO, ONE):
            queue.add(key)
        assert queue.depth == 2

        async def handle(key: RunKey) -> None:
            handled.append(key)

        await work_until(queue, handle, 2)
        assert queue.depth == 0 and queue.oldest_age == 0

    asyncio.run(scenario())
    assert handled == [ONE, TWO]


def test_a_key_added_while_it_is_handled_is_handled_again_after_that() -> None:
    async def scenario() -> None:
        queue, at_work, most = WorkQueue(), 0, 0
        queue.add(ONE)

        async def handle(key: RunKey) -> None:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            if queue.depth == 0 and most == 1:
                queue.add(key)
                queue.add(key)
            await asyncio.sleep(0.01)
            assert queue.depth == 0
            at_work -= 1
            most = 2 if most == 1 else most

        await work_until(queue, handle, 2)
        assert most == 2 and queue.depth == 0

    asyncio.run(scenario())


def test_a_later_time_does_not_put_off_an_earlier_one() -> None:
    async def scenario() -> list[RunKey]:
        queue, handled = WorkQueue(), []
        queue.add_after(ONE, 0.01)
        queue.add_after(ONE, 50.0)
        queue.add_after(TWO, 50.0)
        queue.add_after(TWO, 0.03)

        async def handle(key: RunKey) -> None:
            handled.append(key)

        await work_until(queue, handle, 2)
        return handled

    assert asyncio.run(scenario()) == [ONE, TWO]


def test_pauses_grow_with_errors_in_a_row_and_begin_anew_after_a_success() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        pauses = [queue.retry(ONE) for _ in range(12)]
        # Days of errors.
        assert all(queue.retry(ONE) <= LONGEST_RETRY for _ in range(3000))
        for number, pause in enumerate(pauses):
            longest = min(0.5 * 2**number, LONGEST_RETRY)
            assert longest / 2 <= pause <= longest
        assert queue.retry(TWO) <= 0.5
        queue.forget_errors(ONE)
        assert queue.retry(ONE) <= 0.5

    asyncio.run(scenario())


def test_a_pause_that_the_server_asks_for_is_kept_but_not_for_ever() -> None:
    async def scenario() -> None:
        assert WorkQueue().retry(ONE, 3.0) == 3.0
        assert WorkQueue().retry(ONE, 86_400.0) == LONGEST_RETRY

    asyncio.run(scenario())


def test_a_key_that_waits_for_a_worker_grows_old() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add(ONE)
        await asyncio.sleep(0.02)
        queue.add(TWO)
        assert queue.oldest_age >= 0.02

    asyncio.run(scenario())
