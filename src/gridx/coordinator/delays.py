"""Delays: jobs that are put off (by backoff, by `not_before`) go into their queues when they are due.

Theory of operation. The store says when the first of them is due; this sleeps until then and moves
all that are due with two statements, however many. Whoever puts a job off here says so (`note`), so
that an earlier time cuts the sleep short; a slow poll finds what another coordinator left behind.
"""

import asyncio
from collections.abc import Callable

from gridx.clock import MICROSECONDS, Clock
from gridx.domain.errors import Unavailable
from gridx.storage import queues
from gridx.storage.database import Database
from gridx.tasks import Tasks
from gridx.telemetry import get_logger

_log = get_logger(__name__)
POLL_S = 10.0
_TRY_AGAIN_S = 0.5
_BATCH = 1_000


class Delays:
    """One coordinator's watch over what is put off; `queued` hears when jobs came into queues."""

    def __init__(self, database: Database, clock: Clock, queued: Callable[[], None]) -> None:
        self._database = database
        self._clock = clock
        self._queued = queued
        self._sleep: asyncio.Task[None] | None = None
        self._noted: int | None = None
        self._wakes_at = 0

    def note(self, due_at: int) -> None:
        """A job was put off until then."""
        self._noted = due_at if self._noted is None else min(self._noted, due_at)
        if self._sleep is not None and due_at < self._wakes_at:
            self._sleep.cancel()

    async def run(self) -> None:
        """Move jobs until cancelled."""
        tasks = Tasks()
        try:
            while True:
                try:
                    self._wakes_at = await self._move_due()
                except Exception as error:  # noqa: BLE001  (a bug is told, and not the last round)
                    if not isinstance(error, Unavailable):
                        _log.exception("delays_failed")
                    self._wakes_at = self._in(_TRY_AGAIN_S)
                self._sleep = tasks.start("until a job is due", self._until(self._wakes_at))
                await asyncio.wait({self._sleep})
                self._sleep = None
        finally:
            await tasks.close()

    async def _move_due(self) -> int:
        """Move what is due; when to look again."""
        self._noted = None
        earliest = await self._database.read(queues.earliest_due)
        now = self._clock.now()
        if earliest is not None and earliest <= now:
            moved = await self._database.write(lambda c: queues.queue_due(c, now, _BATCH))
            self._queued()
            return now if moved else self._in(_TRY_AGAIN_S)  # another has it locked, and moves it
        due = [at for at in (earliest, self._noted) if at is not None]
        return min([*due, self._in(POLL_S)])

    def _in(self, seconds: float) -> int:
        return self._clock.now() + round(seconds * MICROSECONDS)

    async def _until(self, at: int) -> None:
        left_us = at - self._clock.now()
        if left_us > 0:
            await self._clock.sleep(left_us / MICROSECONDS)
