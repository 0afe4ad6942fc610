"""The only source of time and randomness.

Programs get a `Clock` where they are put together and hand it down; tests and the simulation hand
down a `ManualClock`. Wall-clock times are whole microseconds since the Unix epoch, UTC, so that they
compare, add and store exactly on every database; durations are float seconds.
"""

import asyncio
import os
import secrets
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Protocol

MICROSECONDS = 1_000_000
_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
"""The two highest bits of this digit are those of RFC 9562; the two lowest stay random."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Time, identity and secrets, as a program sees them."""

    def now(self) -> int:
        """Wall-clock time in microseconds since the Unix epoch (it may jump)."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back, not comparable between processes."""
        ...

    def new_id(self) -> str:
        """A fresh UUID version 4 in its canonical form."""
        ...

    def new_secret(self) -> str:
        """256 fresh random bits as URL-safe text."""
        ...

    async def sleep(self, seconds: float) -> float:
        """Wait `seconds` of this clock's time; gives by how many it took longer than that.

        More than a moment of it is time in which this process stood still.
        """
        ...


class SystemClock:
    """The machine's own clock and random source."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self) -> str:
        # As `uuid.uuid4`, in a quarter of its time: a job's life takes ten of these.
        h = os.urandom(16).hex()
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:]}"

    def new_secret(self) -> str:
        return secrets.token_urlsafe(32)

    async def sleep(self, seconds: float) -> float:
        until = time.monotonic() + seconds
        await asyncio.sleep(seconds)
        return max(0.0, time.monotonic() - until)


class ManualClock:
    """A clock that moves only when told to; ids are random but reproducible from `seed`."""

    def __init__(self, start: int = 1_700_000_000 * MICROSECONDS, seed: int = 0) -> None:
        import random

        self._now = start
        self._monotonic = 0.0
        self._random = random.Random(seed)
        self._sleepers: list[tuple[float, asyncio.Future[float]]] = []

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def new_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def new_secret(self) -> str:
        return f"{self._random.getrandbits(256):064x}"

    async def sleep(self, seconds: float) -> float:
        if seconds <= 0:
            return 0.0
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic + seconds, future))
        return await future

    def advance(self, seconds: float, *, asleep: bool = False) -> None:
        """Move both clocks on and wake whoever slept until then.

        They wake in time, as if it had passed in small steps; late, if the process was `asleep`.
        """
        self._now += round(seconds * MICROSECONDS)
        self._monotonic += seconds
        due = [(at, f) for at, f in self._sleepers if at <= self._monotonic]
        self._sleepers = [(at, f) for at, f in self._sleepers if at > self._monotonic]
        for at, future in due:
            if not future.done():
                future.set_result(self._monotonic - at if asleep else 0.0)

    def jump(self, seconds: float) -> None:
        """Move the wall clock alone, as a time server or an administrator does."""
        self._now += round(seconds * MICROSECONDS)


def share_of(fresh_id: str) -> float:
    """Evenly from 0 to 1, from the random bits of a fresh id: for jitter."""
    return int(fresh_id[:8], 16) / 0xFFFFFFFF


def to_rfc3339(timestamp: int) -> str:
    """`2026-11-25T01:02:03.000004Z` for microseconds since the epoch."""
    moment = _EPOCH + timedelta(microseconds=timestamp)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_rfc3339(text: str) -> int:
    """Microseconds since the epoch; `ValueError` without a zone or outside years 1970 to 9999."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs its zone, for example 2026-11-25T12:00:00Z")
    if moment.year < 1970:
        raise ValueError("a time before 1970")
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
