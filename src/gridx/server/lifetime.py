"""What requests share: the end of the server, and how much of it they may take at once."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

from gridx.domain.errors import Unavailable


class Closing:
    """Says that the server is about to end: streams and sockets end, waits are given up."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._deadlines: set[asyncio.Timeout] = set()

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        """Tell everybody; may be called more than once."""
        self._begun.set()
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            deadline.reschedule(now)

    async def wait(self) -> None:
        """Return once the server is about to end."""
        await self._begun.wait()

    @asynccontextmanager
    async def interrupting(self) -> AsyncGenerator[None]:
        """What is awaited inside is given up at the end: raises `Unavailable` then."""
        if self.begun:
            raise Unavailable("The coordinator is shutting down: try again in a moment")
        deadline = asyncio.timeout(None)
        try:
            async with deadline:
                self._deadlines.add(deadline)
                yield
        except TimeoutError:
            if not deadline.expired():
                raise
            raise Unavailable("The coordinator is shutting down: try again in a moment") from None
        finally:
            self._deadlines.discard(deadline)


class Slots:
    """At most `limit` of one kind of connection at a time."""

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self._limit = limit
        self.taken = 0
        self._none = asyncio.Event()
        self._none.set()

    async def none_taken(self) -> None:
        """Return once no slot is taken."""
        await self._none.wait()

    @contextmanager
    def take(self) -> Generator[None]:
        """Hold a slot while inside; raises `Unavailable` when all are taken."""
        if self.taken >= self._limit:
            raise Unavailable(
                f"{self._limit} {self._what} are open, which is the most there may be: "
                "try again when some have ended"
            )
        self.taken += 1
        self._none.clear()
        try:
            yield
        finally:
            self.taken -= 1
            if not self.taken:
                self._none.set()


class Room:
    """At most `bytes_max` taken by everybody together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.taken_bytes = 0

    @contextmanager
    def share(self) -> Generator[Callable[[int], None]]:
        """What is inside takes bytes by calling what it is given, and gives them back at its end.

        Taking raises `Unavailable` when there is no room.
        """
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self.taken_bytes + count > self._bytes_max:
                raise Unavailable("Too much is being sent at once: try again in a moment")
            mine += count
            self.taken_bytes += count

        try:
            yield take
        finally:
            self.taken_bytes -= mine
