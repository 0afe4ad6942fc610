"""Waiting for what nothing announces."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
WITHIN_S = 60.0
"""Longer than anything takes on a loaded machine: a test whose subject is time says its own."""
POLL_S = 0.03


def until(
    condition: Callable[[], T | None],
    what: str,
    within_s: float = WITHIN_S,
    *,
    every_s: float = POLL_S,
) -> T:
    """Ask again and again until `condition` gives something true; fail when it is late.

    It blocks the calling thread; a coroutine uses `asyncio.to_thread(until, ...)`.
    """
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        pause.wait(every_s)
    return found
