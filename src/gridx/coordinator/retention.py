"""Retention: what is over and old enough is removed, a little at a time.

Every coordinator sweeps: it walks from the oldest job on in small transactions, with a pause after
each, so that whoever waits for the store does not notice. Jobs that another coordinator holds are
skipped. The ledger stays: transfers are for ever, and `ledger verify` proves of a job that is gone
that its hold was resolved to the last micro-credit.

A wall clock that jumped may be wrong, and what it has removed is gone: after a jump nothing is removed
for an hour, in which somebody may mend it.
"""

import math
from collections.abc import Callable

from gridx.clock import MICROSECONDS, Clock
from gridx.domain.errors import Unavailable
from gridx.domain.policy import Retention
from gridx.storage import requests, retention, users
from gridx.storage.database import Connection, Database
from gridx.telemetry import get_logger

_log = get_logger(__name__)
_BATCH = 50
_PAUSE_S = 0.05
_SWEEP_EVERY_S = 60.0
_JUMP_S = 60.0
_GRACE_S = 3_600.0
_EXPIRED_LOGINS_S = 86_400.0
"""So long who comes with one is told that it has expired, and not that it is unknown."""

Step = Callable[[Connection, int, int, int], int | None]
"""Removes what is older than a time behind a number; the number it came to, None at the end."""


class RetentionLoop:
    """One coordinator's sweeps."""

    def __init__(self, database: Database, clock: Clock, ages: Retention) -> None:
        self._database = database
        self._clock = clock
        self._ages = ages
        self._offset_s = self._offset()
        self._trusted_from_s = clock.monotonic()

    async def run(self) -> None:
        """Sweep until cancelled, in time for the shortest age."""
        ages = self._ages
        shortest_s = min(ages.jobs_s, ages.output_s, ages.answers_s)
        pause_s = min(_SWEEP_EVERY_S, shortest_s / 2)
        while True:
            await self._clock.sleep(pause_s)
            if not self._trusts_the_clock():
                continue
            try:
                await self.sweep()
            except Unavailable:
                pass  # what is old does not run away
            except Exception:  # noqa: BLE001  (a bug is told, and is not the last sweep)
                _log.exception("sweep_failed")

    async def sweep(self) -> None:
        """One look at everything that may have aged out."""
        await self._walk(retention.remove_jobs, self._ages.jobs_s)
        await self._walk(retention.remove_output, self._ages.output_s)
        await self._walk(_anew(requests.forget_answers), self._ages.answers_s)
        await self._walk(_anew(users.forget_logins), _EXPIRED_LOGINS_S)
        await self._database.write(lambda c: requests.forget_rates(c, self._clock.now()))

    def _offset(self) -> float:
        return self._clock.now() / MICROSECONDS - self._clock.monotonic()

    def _trusts_the_clock(self) -> bool:
        offset_s = self._offset()
        if abs(offset_s - self._offset_s) > _JUMP_S:
            _log.warning("nothing_is_removed_after_a_clock_jump", for_s=_GRACE_S)
            self._trusted_from_s = self._clock.monotonic() + _GRACE_S
        self._offset_s = offset_s
        return self._clock.monotonic() >= self._trusted_from_s

    async def _walk(self, step: Step, age_s: float) -> None:
        if math.isinf(age_s):
            return
        before = self._clock.now() - round(age_s * MICROSECONDS)
        at: int | None = 0
        while (
            at := await self._database.write(
                lambda connection, after=at: step(connection, after, before, _BATCH)
            )
        ) is not None:
            await self._clock.sleep(_PAUSE_S)


def _anew(forget: Callable[[Connection, int, int], int]) -> Step:
    """A step that begins anew each time: what it forgets lies in the order of no number."""

    def step(connection: Connection, _after: int, before: int, limit: int) -> int | None:
        return 0 if forget(connection, before, limit) == limit else None

    return step
