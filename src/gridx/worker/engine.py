"""Does what the session says: sockets, programs and the spool behind one `handle`.

The engine is the only one that talks to the session. Every event goes in through `handle`, and the
actions that come out are performed at once and in order; nothing here waits while it does so. Frames
go to an outbox that one task per connection empties; a frame of output that would make the outbox
too large is left in the spool and read again when its turn comes.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import assert_never

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from gridx.clock import Clock
from gridx.domain.errors import GridError, InvalidInput, Unavailable
from gridx.domain.sandbox import Backend
from gridx.protocol.frames import (
    CLOSE_POLICY,
    SUBPROTOCOL,
    Assignment,
    Codec,
    Finished,
    Frame,
    Log,
)
from gridx.tasks import Tasks
from gridx.telemetry import bound, get_logger
from gridx.worker.events import (
    Accepted,
    Closed,
    DiskRoom,
    End,
    Ended,
    Event,
    Forget,
    HangUp,
    HeartbeatDue,
    LeaseKey,
    Opened,
    Output,
    Received,
    Record,
    Run,
    Send,
    SendLogs,
    Stop,
    Tell,
)
from gridx.worker.executor import execute
from gridx.worker.sandbox.base import Sandbox
from gridx.worker.session import Session
from gridx.worker.spool import Kept, Spool

OUTBOX_LOG_BYTES_MAX = 8 * 1024 * 1024
SYNC_AFTER_S = 0.2
HEARTBEAT_S_MIN = 0.05
FLUSH_S = 1.0
_log = get_logger(__name__)


class Engine:
    """Runs one session; `ended` is done with its failure, or None, once the session says so."""

    def __init__(
        self,
        session: Session,
        sandboxes: Mapping[Backend, Sandbox],
        spool: Spool,
        clock: Clock,
        *,
        accepted: Callable[[Accepted], None],
        tell: Callable[[str], None],
    ) -> None:
        self.session = session
        self.ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._sandboxes = sandboxes
        self._spool = spool
        self._clock = clock
        self._accepted = accepted
        self._tell = tell
        self._tasks = Tasks()
        self._cancels: dict[LeaseKey, asyncio.Event] = {}
        self._unkept: set[LeaseKey] = set()
        self._outbox: deque[Frame | SendLogs] = deque()
        self._outbox_log_bytes = 0
        self._outbox_filled = asyncio.Event()
        self._outbox_empty = asyncio.Event()
        self._outbox_empty.set()
        self._syncing = False
        self._hang_up = asyncio.Event()
        self._over: GridError = Unavailable("")
        self._heartbeat_s = 10.0
        self._welcomed = asyncio.Event()

    # ------------------------------------------------------------------------ events, actions

    def handle(self, event: Event) -> None:
        """Feed the session and do what it says."""
        for action in self.session.handle(event):
            match action:
                case Send(frame):
                    self._send(frame)
                case SendLogs():
                    self._post(action)
                case Record(frame):
                    self._record(frame)
                case Forget(key):
                    self._forget(key)
                case Run(assignment, sandbox):
                    self._run(assignment, self._sandboxes[sandbox])
                case Stop(key):
                    self._cancels[key].set()
                case Accepted():
                    self._heartbeat_s = max(HEARTBEAT_S_MIN, action.heartbeat_s)
                    self._accepted(action)
                    self._welcomed.set()
                case Tell(text):
                    self._tell(text)
                case HangUp(reason):
                    self._over = Unavailable(reason)
                    self._hang_up.set()
                case End(failure):
                    self.ended.set_result(failure)
                case _:
                    assert_never(action)

    def _send(self, frame: Frame) -> None:
        if isinstance(frame, Log):
            if self._outbox_log_bytes > OUTBOX_LOG_BYTES_MAX:
                self._post_spooled(LeaseKey.of(frame), frame.number)
                return
            self._outbox_log_bytes += len(frame.data)
        self._post(frame)

    def _post_spooled(self, key: LeaseKey, number: int) -> None:
        last = self._outbox[-1] if self._outbox else None
        if isinstance(last, SendLogs) and last.key == key and last.end == number:
            self._outbox.pop()
            self._post(SendLogs(key, last.first, number + 1))
        else:
            self._post(SendLogs(key, number, number + 1))

    def _post(self, item: Frame | SendLogs) -> None:
        self._outbox.append(item)
        self._outbox_empty.clear()
        self._outbox_filled.set()

    def _record(self, frame: Kept) -> None:
        try:
            self._spool.record(frame)
        except OSError as error:
            self._cannot_keep(LeaseKey.of(frame), error)
        if isinstance(frame, Finished):
            self._sync_soon()

    def _cannot_keep(self, key: LeaseKey, error: OSError) -> None:
        """The disk is full or broken: this attempt is to run elsewhere, and no other starts."""
        _log.error("spool_failed", job=key.job_id, attempt=key.attempt, why=error.strerror)
        self._unkept.add(key)
        if key in self._cancels:
            self._cancels[key].set()
        asyncio.get_running_loop().call_soon(self.handle, DiskRoom(enough=False))

    def _forget(self, key: LeaseKey) -> None:
        try:
            self._spool.forget(key)
        except OSError as error:
            _log.error("spool_failed", job=key.job_id, attempt=key.attempt, why=error.strerror)

    # ------------------------------------------------------------------------------- programs

    def _run(self, assignment: Assignment, sandbox: Sandbox) -> None:
        key = LeaseKey.of(assignment)
        self._cancels[key] = asyncio.Event()
        self._tasks.start(f"attempt {key.job_id}", self._attempt(key, assignment, sandbox))

    async def _attempt(self, key: LeaseKey, assignment: Assignment, sandbox: Sandbox) -> None:
        worker = self.session.worker_id or ""
        with bound(worker=worker, job=key.job_id, attempt=key.attempt):
            _log.debug("attempt_started", sandbox=sandbox.name)
            finished = await execute(
                sandbox,
                assignment,
                lambda stream, data: self.handle(Output(key, stream, data)),
                self._cancels[key],
            )
            _log.debug("attempt_ended", reason=finished.reason, wall_s=finished.usage.wall_s)
        del self._cancels[key]
        if key in self._unkept:
            self._unkept.discard(key)
            detail = "The worker's disk did not take the attempt's output."
            finished = Finished(*key, reason="sandbox_error", detail=detail)
        self.handle(Ended(finished))

    def _sync_soon(self) -> None:
        """Results that are still here a little later go to the platter, off the event loop."""
        if not self._syncing:
            self._syncing = True
            self._tasks.start("spool sync", self._sync())

    async def _sync(self) -> None:
        try:
            while young := self._spool.unsynced:
                await self._clock.sleep(SYNC_AFTER_S)
                await self._spool.sync(young)
        except OSError as error:
            _log.error("spool_failed", why=error.strerror)
        finally:
            self._syncing = False

    # ---------------------------------------------------------------------------- connections

    async def serve(self, socket: ClientConnection) -> GridError:
        """Live on this socket until it is gone; says why it went."""
        self._hang_up.clear()
        self._welcomed.clear()
        self._over = Unavailable("The connection to the coordinator was lost.")
        codec = Codec(SUBPROTOCOL)
        tasks = Tasks()
        try:
            self.handle(Opened())
            tasks.start("worker outbox", self._empty_outbox(socket, codec))
            tasks.start("worker heartbeat", self._beat())
            reading = tasks.start("worker inbox", self._read(socket, codec))
            hanging_up = tasks.start("worker hang-up", self._hang_up.wait())
            await asyncio.wait((reading, hanging_up), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await tasks.close()
            self._outbox.clear()
            self._outbox_log_bytes = 0
            self._outbox_empty.set()
            self.handle(Closed())
            await socket.close()
        return self._over

    async def flush(self) -> None:
        """Wait until all that is to be sent is sent, or a second has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._outbox_empty.wait()

    async def close(self) -> None:
        """Give up on whatever still runs."""
        await self._tasks.close()

    async def _read(self, socket: ClientConnection, codec: Codec) -> None:
        try:
            while True:
                self.handle(Received(codec.from_coordinator(await socket.recv())))
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.reason:
                why = f"The coordinator closed the connection: {closed.rcvd.reason}"
                policy = closed.rcvd.code == CLOSE_POLICY
                self._over = InvalidInput(why) if policy else Unavailable(why)
        except ValueError as error:
            self._over = InvalidInput(
                f"The coordinator sends what this version of Grid-X does not know ({error}): "
                "update the older of the two."
            )
            await socket.close(CLOSE_POLICY, "not a frame of this protocol")

    async def _beat(self) -> None:
        await self._welcomed.wait()
        while True:
            self.handle(DiskRoom(self._spool.has_room()))
            self.handle(HeartbeatDue(os.getloadavg()[0]))
            await self._clock.sleep(self._heartbeat_s)

    async def _empty_outbox(self, socket: ClientConnection, codec: Codec) -> None:
        with suppress(ConnectionClosed):  # the inbox sees it too
            while True:
                await self._outbox_filled.wait()
                self._outbox_filled.clear()
                while self._outbox:
                    await self._send_next(self._outbox.popleft(), socket, codec)
                self._outbox_empty.set()

    async def _send_next(
        self, item: Frame | SendLogs, socket: ClientConnection, codec: Codec
    ) -> None:
        if isinstance(item, SendLogs):
            for log in self._spool.logs(item.key, item.first, item.end):
                await socket.send(codec.encode(log))
            return
        if isinstance(item, Log):
            self._outbox_log_bytes -= len(item.data)
        await socket.send(codec.encode(item))
