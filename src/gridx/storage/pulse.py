"""Whether the database server answers, and an end for whoever waits on one that does not.

Theory of operation. A server that is frozen, or a peer that is gone without a word, leaves a thread
inside its statement for ever: nothing arrives, so nothing fails. A limit on statements would not tell
such a server from a slow one. So, while somebody has waited for a moment, the server is asked
something trivial on a connection of its own:

    no answer in time    it is away: every connection is shut down, which ends the statements that
                         wait on them, and what comes is refused at once, until it answers again
    an answer            it is well, and what is slow is left in peace; but a connection that waits
                         for the server while the server says it waits for us is dead, and shut down
    an error             it says itself what is wrong, also to everybody else

SQLite needs none of this: a file answers or fails by itself.
"""

import asyncio
import os
import socket
import threading
import weakref
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, bindparam, event, text
from sqlalchemy.exc import SQLAlchemyError

from gridx.clock import SystemClock
from gridx.telemetry import get_logger

_log = get_logger(__name__)
_LOOK_S = 0.25
_OVERDUE_S = 0.25
_PATIENCE_S = 1.25
_STUCK_S = 5.0
_STILL_S = 0.25

_WAITING_FOR_US = text(
    """
    SELECT pid FROM pg_stat_activity
    WHERE pid IN :pids AND state <> 'active' AND state_change < now() - interval '5 seconds'
    """
).bindparams(bindparam("pids", expanding=True))


class Pulse:
    """Watches the server of `engine`; `asking` is another engine of the same server."""

    def __init__(self, engine: Engine, asking: Engine) -> None:
        self.away = False
        self._asking = asking
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gridx-pulse")
        self._lock = threading.RLock()  # what is collected inside comes back to it
        self._open: dict[int, tuple[int, socket.socket]] = {}
        for each in (engine, asking):
            event.listen(each, "connect", self._opened, insert=True)  # before its first statement
            event.listen(each, "close", self._closed)

    async def watch(self, waiting_since: Callable[[], float | None]) -> None:
        """Look until cancelled; `waiting_since` is when (loop time) the oldest wait began."""
        loop = asyncio.get_running_loop()
        clock = SystemClock()  # a server's silence is in real time, whatever else is not
        await self._look(stuck=False)  # its connection is there before it is needed
        while True:
            await clock.sleep(_LOOK_S)
            since = waiting_since()
            waited_s = 0.0 if since is None else loop.time() - since
            if self.away or waited_s > _OVERDUE_S:
                await self._look(stuck=waited_s > _STUCK_S)

    async def close(self) -> None:
        """End the question that may be under way, and forget every connection."""
        self._shut_down(None)
        await asyncio.to_thread(self._thread.shutdown)
        self._asking.dispose()

    async def _look(self, *, stuck: bool) -> None:
        loop = asyncio.get_running_loop()
        question = loop.run_in_executor(self._thread, self._ask, stuck)
        answered = await _is_done_in_time(question)
        if answered is self.away:
            self.away = not answered
            _log.warning("database_silent" if self.away else "database_answers")
        if not answered:
            self._shut_down(None)
        dead = await question
        if dead:
            _log.warning("connections_dead", count=len(dead))
            self._shut_down(dead)

    def _ask(self, stuck: bool) -> Collection[int]:
        """Have an answer of the server; the backends that wait for us, if something is stuck."""
        try:
            with self._asking.connect() as connection:
                if not stuck:
                    connection.exec_driver_sql("SELECT 1")
                    return ()
                with self._lock:
                    pids = [pid for pid, _ in self._open.values()]
                return list(connection.execute(_WAITING_FOR_US, {"pids": pids}).scalars())
        except SQLAlchemyError:
            return ()  # whoever needs the server hears of it in the same way

    def _shut_down(self, pids: Collection[int] | None) -> None:
        """End the connections to these backends, or all."""
        with self._lock:
            for pid, connected in self._open.values():
                if pids is None or pid in pids:
                    with suppress(OSError):
                        connected.shutdown(socket.SHUT_RDWR)

    def _opened(self, connection: Any, _record: object) -> None:
        # A handle of our own: the driver may close its at any time, and the number be another's.
        handle = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self._open[id(connection)] = (connection.info.backend_pid, handle)
        # Of a connection whose first statements fail nobody says that it was closed.
        weakref.finalize(connection, self._forget, id(connection))

    def _closed(self, connection: Any, _record: object) -> None:
        self._forget(id(connection))

    def _forget(self, key: int) -> None:
        with self._lock:
            _, handle = self._open.pop(key, (0, None))
        if handle is not None:
            handle.close()


async def _is_done_in_time(question: asyncio.Future[Any]) -> bool:
    """Whether it is within the patience, of which no time counts in which this process stood still."""
    loop = asyncio.get_running_loop()
    while True:
        until = loop.time() + _PATIENCE_S
        done, _ = await asyncio.wait({question}, timeout=_PATIENCE_S)
        if done or loop.time() - until < _STILL_S:
            return bool(done)
