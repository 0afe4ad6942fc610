"""Sessions: the coordinator's end of each worker's connection.

Theory of operation. The socket's reader calls `report`, which only queues; the session's own loop
takes what is queued in bounded batches, has it recorded in one shared transaction (`Recorder`), and
puts the answers into `outgoing`, which the socket's writer sends. While the database is away the loop
keeps its batch and tries again, so nothing a worker said is lost; the reader waits when too much is
queued. What a worker says about a lease that is not its own changes nothing and is answered `drop`.

    socket reader ─ report ─► inbox ─► loop ─► Recorder (one transaction for many sessions)
    socket writer ◄─ outgoing ◄─ orders ◄─ answers, assignments, cancels, controls
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from msgspec import Struct

from gridx.clock import MICROSECONDS, Clock
from gridx.coordinator.recorder import (
    FinishedReport,
    LeaseKey,
    LeaseOrder,
    LeaseReport,
    LogReport,
    Observed,
    Recorder,
    StartedReport,
)
from gridx.domain.errors import Unavailable
from gridx.domain.job import JobSpec
from gridx.domain.resources import NOTHING, Resources
from gridx.domain.sandbox import Backend
from gridx.domain.worker import Capabilities, Worker
from gridx.tasks import Tasks
from gridx.telemetry import get_logger

__all__ = [
    "AssignOrder", "AssignedAttempt", "ControlOrder", "DisconnectOrder", "FinishedReport",
    "Greeting", "HeartbeatReport", "KeptLease", "LeaseKey", "LeaseOrder", "LeavingReport",
    "LogReport", "Order", "Report", "Session", "StartedReport", "StateReport",
]  # fmt: skip

_log = get_logger(__name__)
_INBOX_MAX = 2_048
_BATCH_MAX = 512
_AWAY_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a worker says first."""

    worker_id: str | None
    name: str
    version: str
    capabilities: Capabilities
    running: tuple[LeaseKey, ...]
    unacknowledged: tuple[LeaseKey, ...]


@dataclass(frozen=True, slots=True)
class HeartbeatReport:
    """The worker lives, and these attempts on it."""

    free: Resources
    load: float
    running: tuple[LeaseKey, ...]


@dataclass(frozen=True, slots=True)
class StateReport:
    """The owner paused or resumed it."""

    paused: bool


@dataclass(frozen=True, slots=True)
class LeavingReport:
    """The worker hands its attempts over and goes."""


Report = LeaseReport | HeartbeatReport | StateReport | LeavingReport


@dataclass(frozen=True, slots=True)
class KeptLease:
    """A lease the worker keeps, with how many of its log frames are stored."""

    key: LeaseKey
    log_frames: int


class AssignedAttempt(Struct, frozen=True):
    """One attempt to run, with its limit in microseconds and the weakest sandbox that will do."""

    key: LeaseKey
    spec: JobSpec
    limit_us: int
    traceparent: str | None
    sandbox_at_least: Backend


class AssignOrder(Struct, frozen=True):
    """Run these."""

    attempts: tuple[AssignedAttempt, ...]


@dataclass(frozen=True, slots=True)
class ControlOrder:
    """Something that concerns the worker as a whole."""

    kind: Literal["pause", "resume", "drain", "broadcast"]
    text: str | None = None


@dataclass(frozen=True, slots=True)
class DisconnectOrder:
    """The connection ends after this."""

    reason: str
    retry: bool


Order = AssignOrder | LeaseOrder | ControlOrder | DisconnectOrder


class Live(Struct, frozen=True):
    """An attempt placed on a worker: what it takes, who pays how much a second, since when."""

    key: LeaseKey
    user_id: str
    resources: Resources
    price: float
    since_s: float


class SessionEvents(Protocol):
    """What a session needs done; `Workers` does it."""

    async def ended(self, session: "Session") -> None: ...

    async def paused(self, session: "Session", paused: bool) -> None: ...

    async def leaving(self, session: "Session") -> None: ...

    async def unlisted(self, session: "Session", since_s: Mapping[str, float]) -> None: ...

    def released(self, session: "Session", lease: str) -> None: ...


class Session:
    """One worker's connection. Made by `Workers.connect`; used from the loop's thread only."""

    def __init__(
        self,
        *,
        session_id: str,
        worker: Worker,
        recorder: Recorder,
        clock: Clock,
        events: SessionEvents,
    ) -> None:
        self.session_id = session_id
        self.worker = worker
        self.worker_id = worker.worker_id
        self.worker_token: str | None = None
        self.keep: tuple[KeptLease, ...] = ()
        self.drop: tuple[LeaseKey, ...] = ()
        self.live: dict[str, Live] = {}
        self._taken = NOTHING
        self.load: float | None = None
        self.heard_s = clock.monotonic()
        self.closed = False
        self._leaving = False
        self._ended = False
        self._recorder = recorder
        self._clock = clock
        self._on = events
        self._inbox: deque[tuple[Report, float]] = deque()
        self._orders: deque[Order] = deque()
        self._unlisted: dict[str, float] = {}
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._ordered = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks = Tasks()

    # -------------------------------------------------------------- for the socket

    @property
    def paused(self) -> bool:
        return self.worker.paused

    @property
    def draining(self) -> bool:
        return self.worker.draining

    async def report(self, report: Report) -> None:
        """Queue what the worker said, in order; waits while too much is queued."""
        self.heard_s = self._clock.monotonic()
        if isinstance(report, LeavingReport):
            self._leaving = True  # at once: what it hands over must not come back to it
        self._inbox.append((report, self.heard_s))
        self._idle.clear()
        self._came.set()
        while len(self._inbox) > _INBOX_MAX and not self.closed:
            self._room.clear()
            await self._room.wait()

    async def outgoing(self) -> Sequence[Order]:
        """Wait for orders to send; an empty answer says that the session is over."""
        while not self._orders:
            if self.closed:
                return ()
            self._ordered.clear()
            await self._ordered.wait()
        orders = list(self._orders)
        self._orders.clear()
        return orders

    async def close(self) -> None:
        """The socket is gone: record what was queued, unless the database is away, and end."""
        if not self.closed:
            await self._idle.wait()
        await self._end()

    # -------------------------------------------------------------- for the coordinator

    def start(self) -> None:
        """Begin to take reports."""
        self._tasks.start(f"session-{self.worker_id}", self._loop())

    @property
    def takes_work(self) -> bool:
        """Whether attempts may be placed here: it neither ended nor said that it leaves."""
        return not (self.closed or self._leaving)

    @property
    def free(self) -> Resources:
        """What is not taken by attempts placed here."""
        return self.worker.capabilities.resources.minus(self._taken)

    def hold(self, live: Live) -> None:
        """An attempt is on the worker: its room is taken."""
        self.live[live.key.lease] = live
        self._taken = self._taken.plus(live.resources)

    def order(self, order: Order) -> None:
        """Have this sent to the worker."""
        if not self.closed:
            self._orders.append(order)
            self._ordered.set()

    def place(self, attempts: Sequence[tuple[AssignedAttempt, Live]]) -> None:
        """Give the worker these attempts."""
        for _, live in attempts:
            self.hold(live)
        self.order(AssignOrder(tuple(attempt for attempt, _ in attempts)))

    def release(self, lease: str) -> Live | None:
        """The attempt of this lease is over: its room is free again."""
        self._unlisted.pop(lease, None)
        live = self.live.pop(lease, None)
        if live is not None:
            self._taken = self._taken.minus(live.resources)
        return live

    def refresh(self, worker: Worker) -> None:
        """Its row changed."""
        self.worker = replace(worker, online=True)

    async def disconnect(self, reason: str, *, retry: bool) -> None:
        """End the connection from this side."""
        self.order(DisconnectOrder(reason, retry))
        await self._end()

    async def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._over()
        await self._tasks.close()
        await self._on.ended(self)

    def _over(self) -> None:
        """Nothing more is taken or sent but what is ordered already."""
        self.closed = True
        self._room.set()
        self._ordered.set()
        self._idle.set()

    # -------------------------------------------------------------- the session's loop

    async def _loop(self) -> None:
        while True:
            if not self._inbox:
                self._idle.set()
                self._came.clear()
                await self._came.wait()
            self._idle.clear()
            batch = [self._inbox[i] for i in range(min(len(self._inbox), _BATCH_MAX))]
            try:
                taken = await self._take(batch)
            except Exception:
                # A bug of ours: the worker keeps its results and comes back with them.
                self.order(DisconnectOrder("The coordinator failed to record a report", retry=True))
                self._over()
                raise
            if taken:
                for _ in batch:
                    self._inbox.popleft()
                self._room.set()

    async def _take(self, batch: Sequence[tuple[Report, float]]) -> bool:
        """Act on a batch; False when the database was away and it is to be tried again."""
        leases = [
            (report, heard)
            for report, heard in batch
            if isinstance(report, StartedReport | LogReport | FinishedReport)
        ]
        try:
            if leases:
                await self._record(leases)
            for report, _ in batch:
                match report:
                    case HeartbeatReport():
                        await self._heartbeat(report)
                    case StateReport(paused):
                        await self._on.paused(self, paused)
                    case LeavingReport():
                        await self._on.leaving(self)
                    case _:
                        pass
        except Unavailable:
            self._idle.set()  # whoever closes does not wait for the database
            await self._clock.sleep(_AWAY_WAIT_S)
            return False
        return True

    async def _record(self, reports: Sequence[tuple[LeaseReport, float]]) -> None:
        now, now_s = self._clock.now(), self._clock.monotonic()
        observed = tuple(
            Observed(
                report,
                now - round((now_s - heard_s) * MICROSECONDS),
                heard_s - live.since_s if (live := self.live.get(report.key.lease)) else None,
            )
            for report, heard_s in reports
        )
        for order in await self._recorder.record(self.worker_id, observed):
            live = self.live.get(order.key.lease)
            # A drop of what was never its own (another job's or attempt's name) frees no room.
            if order.kind in ("ack", "drop") and live is not None and live.key == order.key:
                self._on.released(self, order.key.lease)
            self.order(order)

    async def _heartbeat(self, heartbeat: HeartbeatReport) -> None:
        """Note the load; an attempt the worker no longer lists is lost after a lease's time."""
        self.load = heartbeat.load
        listed = {key.lease for key in heartbeat.running}
        now = self._clock.monotonic()
        self._unlisted = {
            lease: self._unlisted.get(lease, now) for lease in self.live if lease not in listed
        }
        await self._on.unlisted(self, self._unlisted)
