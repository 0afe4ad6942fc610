"""The only place that starts background tasks.

A `TaskGroup`-like owner that lives as long as its program: every task it starts is tracked by name,
a task that fails is logged with its story, and `close` cancels and awaits all of them. Nothing else
in Grid-X may call `create_task`.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from gridx.telemetry import get_logger

_log = get_logger(__name__)
T = TypeVar("T")


class Tasks:
    """Owns the background tasks of one program (or of one connection)."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    @property
    def closed(self) -> bool:
        """Whether nothing can be started any more."""
        return self._closed

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in the background until it ends or `close` is called."""
        if self._closed:
            work.close()
            raise RuntimeError(f"cannot start {name}: its owner is closed")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel every task and wait until each has ended."""
        self._closed = True
        current = asyncio.current_task()
        while waiting := [task for task in self._running if task is not current]:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("task_failed", task=task.get_name(), exc_info=failure)
