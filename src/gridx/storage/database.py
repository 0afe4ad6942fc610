"""Group commit: operations of many callers, one transaction, one fsync.

Theory of operation. An operation is a synchronous function on a connection, run in a thread of the
loop's executors. `read` runs it in its own read-only transaction. `write` leaves it to a writer,
which takes all operations that wait at that moment, runs them in one transaction, commits once, and
only then answers each caller; it goes on until nothing waits. `write_each` does the same for
operations that know how to serve many callers at once: all waiting items of one operation become
one call with multi-row statements.

    callers ──► waiting ──► writer: BEGIN · op(items…) · op … · COMMIT ──► answers

An operation refuses (raises or returns a `GridError`) before its first write, so a refusal does not
spoil the others. If anything else is raised, the transaction is rolled back and each operation of
it is run again alone, so that only the culprit fails. SQLite has one writer, PostgreSQL several:
operations lock what they read, in one order (jobs, balances, users).

What is promised while the database is away. `Unavailable` comes within about two seconds, from the
database's own error or from the pulse that ends a silent connection. With `AWAY` nothing was done and
nothing will be: what still waits for a thread is refused, never run later. With `UNKNOWN` the commit
was sent and its answer did not come: it may be done, at once or when the server wakes up. Such a
transaction is never run again from here. Who sends it again does so at no risk if what it does is
kept under a key in the same transaction: a request's `Idempotency-Key`, a report's lease and frame
number. A second transaction with the key of one that is still open waits for that one's end.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gridx.domain.errors import GridError, Unavailable
from gridx.storage.dialect import (
    is_away,
    is_contention,
    is_rolled_back,
    is_sqlite,
    make_engine,
    reading,
    refuses_writes,
    was_overtaken,
)
from gridx.storage.pulse import Pulse
from gridx.tasks import Tasks
from gridx.telemetry import get_logger

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741

_log = get_logger(__name__)
_CONTENTION_TRIES = 5

AWAY = "The grid's database cannot be reached right now, nothing was changed; try again shortly"
UNKNOWN = (
    "The grid's database went away while it stored this, and may have stored it: send it again with "
    "the same Idempotency-Key, or look first whether it is there"
)
CLOSED = "This coordinator stops; try again at another one, or shortly"


@dataclass(slots=True, eq=False)
class _Waiting(Generic[T]):
    """One caller: its operation, its item (for `write_each`), and where the answer goes."""

    operation: Callable[..., Any]
    item: Any
    each: bool
    answer: asyncio.Future[T]
    result: Any = None


class Database:
    """The store of one grid, for one program. `open` before use, `close` after."""

    def __init__(
        self,
        url: str,
        *,
        readers: int,
        writers: int,
        group_size_max: int,
        on_commit: Callable[[int], None] = lambda size: None,
    ) -> None:
        """`on_commit` hears from a writer thread how many operations each transaction had."""
        self._url = url
        self._readers = readers
        self._writers = writers
        self._group_size_max = group_size_max
        self._on_commit = on_commit
        self._waiting: deque[_Waiting[Any]] = deque()
        self._writing: set[asyncio.Future[None]] = set()
        self._engine: Engine | None = None
        self._read_pool: ThreadPoolExecutor | None = None
        self._write_pool: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pulse: Pulse | None = None
        self._tasks = Tasks()
        self._waits: dict[object, float] = {}
        self._closed = False
        self.takes_writes = True
        """Whether the database did not refuse the newest write transaction, as a full disk does."""

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "the database is not open"
        return self._engine

    async def open(self) -> None:
        """Get ready; the database itself is first reached by the first operation."""
        self._loop = asyncio.get_running_loop()
        self._engine = make_engine(self._url, self._readers + self._writers)
        if is_sqlite(self._engine):
            self._writers = 1
        else:
            self._pulse = Pulse(self._engine, make_engine(self._url, 1))
            self._tasks.start("pulse", self._pulse.watch(self._waiting_since))
        self._read_pool = ThreadPoolExecutor(self._readers, thread_name_prefix="gridx-read")
        self._write_pool = ThreadPoolExecutor(self._writers, thread_name_prefix="gridx-write")

    async def close(self) -> None:
        """Finish what was handed over, then close every connection; what comes now is refused."""
        if self._read_pool is None or self._write_pool is None or self._closed:
            return
        self._closed = True
        while self._writing:
            await asyncio.wait(self._writing)
        for pool in (self._write_pool, self._read_pool):
            await asyncio.to_thread(pool.shutdown)
        await self._tasks.close()
        if self._pulse is not None:
            await self._pulse.close()
        self.engine.dispose()

    async def read(self, operation: Callable[[Connection], T]) -> T:
        """Run `operation` in a read-only transaction of its own.

        Raises `Unavailable` while the database cannot be reached.
        """
        assert self._read_pool is not None and self._loop is not None, "the database is not open"
        with self._waited_for():
            return await self._loop.run_in_executor(self._read_pool, self._read, operation)

    def _read(self, operation: Callable[[Connection], T]) -> T:
        if self._is_away:
            raise Unavailable(AWAY)
        try:
            with reading(self.engine) as connection:
                return operation(connection)
        except (DBAPIError, PoolTimeout) as error:
            raise _translated(error) from error

    async def write(self, operation: Callable[[Connection], T]) -> T:
        """Run `operation` in a transaction it may share; the answer comes after the commit.

        Raises what the operation refused, or `Unavailable`.
        """
        return await self._submit(operation, None, each=False)

    async def write_each(
        self, operation: Callable[[Connection, Sequence[I]], Sequence[O | GridError]], item: I
    ) -> O:
        """Run `operation` for `item` together with the items of other callers of it.

        `operation` answers every item with a result or the `GridError` it refuses it with.
        """
        return await self._submit(operation, item, each=True)

    async def _submit(self, operation: Callable[..., Any], item: Any, *, each: bool) -> Any:
        assert self._loop is not None, "the database is not open"
        with self._waited_for():
            waiting: _Waiting[Any] = _Waiting(operation, item, each, self._loop.create_future())
            self._waiting.append(waiting)
            self._engage()
            return await waiting.answer

    @contextmanager
    def _waited_for(self) -> Generator[None]:
        """Somebody waits for the database while inside; refused when there is no use in it."""
        if self._closed:  # no thread takes it any more, and nobody would answer
            raise Unavailable(CLOSED)
        if self._is_away:
            raise Unavailable(AWAY)
        assert self._loop is not None
        mark = object()
        self._waits[mark] = self._loop.time()
        try:
            yield
        finally:
            del self._waits[mark]

    def _waiting_since(self) -> float | None:
        return next(iter(self._waits.values()), None)

    @property
    def _is_away(self) -> bool:
        return self._pulse is not None and self._pulse.away

    def _engage(self) -> None:
        """Start a writer for what waits, unless all are at work: then one of them takes it."""
        if self._waiting and len(self._writing) < self._writers:
            assert self._loop is not None
            writing = self._loop.run_in_executor(self._write_pool, self._serve_waiting)
            self._writing.add(writing)
            writing.add_done_callback(self._disengaged)

    def _disengaged(self, writing: "asyncio.Future[None]") -> None:
        self._writing.discard(writing)
        self._engage()  # what came after the writer had looked for the last time

    # -------------------------------------------------------------- in a writer's thread

    def _serve_waiting(self) -> None:
        while group := self._take():
            self._serve(group)

    def _take(self) -> list[_Waiting[Any]]:
        group: list[_Waiting[Any]] = []
        with suppress(IndexError):  # nothing waits any more
            while len(group) < self._group_size_max:
                group.append(self._waiting.popleft())
        return group

    def _serve(self, group: list[_Waiting[Any]]) -> None:
        failure = self._commit(group)
        if failure is not None and len(group) > 1 and not isinstance(failure, Unavailable):
            for waiting in group:
                waiting.result = self._commit([waiting]) or waiting.result
        elif failure is not None:
            for waiting in group:
                waiting.result = failure
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_deliver, group)
        except RuntimeError:
            # The loop is closed: the program ends and nobody waits for the answers.
            _log.warning("answers_not_delivered", count=len(group))

    def _commit(self, group: list[_Waiting[Any]]) -> BaseException | None:
        """Run the group in one transaction; None when it is committed, else why not."""
        for attempt in range(_CONTENTION_TRIES):
            if self._is_away:
                return Unavailable(AWAY)
            committing = False
            try:
                with self.engine.connect() as connection, connection.begin():
                    _run(connection, group)
                    committing = True
                self.takes_writes = True
                self._on_commit(len(group))
                return None
            except (DBAPIError, PoolTimeout) as error:
                again = isinstance(error, DBAPIError) and (
                    is_contention(error) or was_overtaken(error)
                )
                if not again or attempt == _CONTENTION_TRIES - 1:
                    known = isinstance(error, PoolTimeout) or is_rolled_back(error)
                    failure = _translated(error, UNKNOWN if committing and not known else AWAY)
                    if isinstance(failure, Unavailable) and not isinstance(error, PoolTimeout):
                        self.takes_writes = not refuses_writes(error)
                    return failure
            except Exception as error:  # noqa: BLE001  (it is the caller's to raise)
                return error
        return None


def _run(connection: Connection, group: Sequence[_Waiting[Any]]) -> None:
    merged: dict[Callable[..., Any], list[_Waiting[Any]]] = {}
    for waiting in group:
        if waiting.each:
            merged.setdefault(waiting.operation, []).append(waiting)
        else:
            try:
                waiting.result = waiting.operation(connection)
            except GridError as refusal:
                waiting.result = refusal
    for operation, members in merged.items():
        results = operation(connection, [waiting.item for waiting in members])
        assert len(results) == len(members), f"{operation} answers every item"
        for waiting, result in zip(members, results, strict=True):
            waiting.result = result


def _deliver(group: Sequence[_Waiting[Any]]) -> None:
    for waiting in group:
        if waiting.answer.done():
            continue  # the caller was cancelled
        if isinstance(waiting.result, BaseException):
            waiting.answer.set_exception(waiting.result)
        else:
            waiting.answer.set_result(waiting.result)


def _translated(error: DBAPIError | PoolTimeout, meaning: str = AWAY) -> BaseException:
    if isinstance(error, PoolTimeout) or is_away(error) or is_contention(error):
        _log.warning("database_away", error=type(error.__cause__ or error).__name__)
        return Unavailable(meaning)
    return error
