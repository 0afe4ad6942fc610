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
from collections.abc import Iterable, Sequence
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
from gridx.domain.resources import NOTHING, Resources, total
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
_ORDERS_MAX = 2_048
_BATCH_MAX = 512
_AWAY_WAIT_S = 0.5
OVERDUE_S = 15.0
"""So long after its limit, and a lease besides, a worker is waited for to have ended an attempt: TERM,
KILL, and what a busy machine takes to begin and to tell.
"""


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
    """The worker lives, and these attempts on it; `free` is None where it does not say."""

    free: Resources | None
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
    """An attempt placed on a worker: what it takes, who pays how much a second, since when.

    `limit_us` is how long it may run, in microseconds.
    """

    key: LeaseKey
    user_id: str
    resources: Resources
    price: float
    since_s: float
    limit_us: int


class SessionEvents(Protocol):
    """What a session needs done; `Workers` does it."""

    async def ended(self, session: "Session") -> None: ...

    async def paused(self, session: "Session", paused: bool) -> None: ...

    async def leaving(self, session: "Session") -> None: ...

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
        self.told_to_cancel: set[str] = set()
        self._taken = NOTHING
        self.withheld = NOTHING
        self.load: float | None = None
        self.heard_s = clock.monotonic()
        self.closed = False
        self._leaving = False
        self._ended = False
        self._gone = False
        self._recorder = recorder
        self._clock = clock
        self._on = events
        self._inbox: deque[tuple[Report, float]] = deque()
        self._orders: deque[Order] = deque()
        self._named_s: dict[str, float] = {}
        self._known: set[str] = set()
        self._ended_leases: set[str] = set()
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._ordered = asyncio.Event()
        self._fetched = asyncio.Event()
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
        if isinstance(report, HeartbeatReport):
            self._heartbeat(report)
        elif isinstance(report, StartedReport | LogReport):
            self._name([report.key])
        elif isinstance(report, FinishedReport) and self._is_live(report.key):
            self._ended_leases.add(report.key.lease)
        self._inbox.append((report, self.heard_s))
        self._idle.clear()
        self._came.set()
        while len(self._inbox) > _INBOX_MAX and not self.closed:
            self._room.clear()
            await self._room.wait()

    def _heartbeat(self, heartbeat: HeartbeatReport) -> None:
        """Note what the worker says of itself, before anything that it says later counts.

        What it has less than the attempts it knows of leave it, it withholds: its disk is full, or
        something that nobody waits for any more still holds it.
        """
        self.load = heartbeat.load
        self._name(heartbeat.running)
        if heartbeat.free is None or any(k.lease not in self.live for k in heartbeat.running):
            return  # it has yet to hear that some of it is over
        idle = self.worker.capabilities.resources
        expected = idle.minus(total(self.live[lease].resources for lease in self._known))
        self.withheld = expected.minus(heartbeat.free.capped(expected))

    def _is_live(self, key: LeaseKey) -> bool:
        live = self.live.get(key.lease)
        return live is not None and live.key == key

    def _name(self, keys: Iterable[LeaseKey]) -> None:
        """The worker says that these attempts live."""
        for lease in (key.lease for key in keys):
            if lease in self.live:
                self._named_s[lease] = self.heard_s
                self._known.add(lease)

    async def outgoing(self) -> Sequence[Order]:
        """Wait for orders to send; an empty answer says that the session is over."""
        while not self._orders:
            if self.closed:
                return ()
            self._ordered.clear()
            await self._ordered.wait()
        orders = list(self._orders)
        self._orders.clear()
        self._fetched.set()
        return orders

    async def close(self) -> None:
        """The socket is gone: record what was queued, unless the database is away, and end."""
        self._gone = True
        self._fetched.set()
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
        """What is neither taken by attempts placed here nor withheld by the worker."""
        return self.worker.capabilities.resources.minus(self._taken).minus(self.withheld)

    def hold(self, live: Live) -> None:
        """An attempt is on the worker: its room is taken."""
        self.live[live.key.lease] = live
        self._named_s[live.key.lease] = self._clock.monotonic()
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
        self._named_s.pop(lease, None)
        self._known.discard(lease)
        self._ended_leases.discard(lease)
        self.told_to_cancel.discard(lease)
        live = self.live.pop(lease, None)
        if live is not None:
            self._taken = self._taken.minus(live.resources)
        return live

    def give_up(self, lease: str) -> None:
        """An attempt here is not waited for any more."""
        if (live := self.live.get(lease)) is not None:
            self.order(LeaseOrder("drop", live.key))
            self._on.released(self, lease)

    def lapsed(self, lease_s: float) -> list[str]:
        """The leases that ran out though the worker is heard of.

        Its heartbeats have not named them for a lease's time, or they name them long after the
        attempt's limit: either way its end is not to be waited for. An end that was told and only
        waits to be recorded has come in time.
        """
        now = self._clock.monotonic()
        return [
            lease
            for lease, live in self.live.items()
            if lease not in self._ended_leases
            if now - self._named_s[lease] > lease_s
            or now - live.since_s > live.limit_us / MICROSECONDS + OVERDUE_S + lease_s
        ]

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
        self._fetched.set()
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
                await self._until_fetched()

    async def _until_fetched(self) -> None:
        """Who does not take what it is told is not listened to either, and so loses its lease."""
        while len(self._orders) > _ORDERS_MAX and not (self.closed or self._gone):
            self._fetched.clear()
            await self._fetched.wait()

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
            # A drop of what was never its own (another job's or attempt's name) frees no room.
            if order.kind in ("ack", "drop") and self._is_live(order.key):
                self._on.released(self, order.key.lease)
            self.order(order)
