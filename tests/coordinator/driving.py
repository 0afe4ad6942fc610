"""A grid without a server, and workers that do exactly what a test says."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from gridx.clock import ManualClock
from gridx.coordinator.grid import Grid, verify_store
from gridx.coordinator.jobs import Submitted, WholeJob
from gridx.coordinator.recorder import FinishedReport, LeaseKey, LeaseOrder, LogReport
from gridx.coordinator.sessions import (
    AssignedAttempt,
    AssignOrder,
    ControlOrder,
    DisconnectOrder,
    Greeting,
    HeartbeatReport,
    Report,
    Session,
    StartedReport,
)
from gridx.domain.attempt import Reason
from gridx.domain.job import JobSpec, JobStatus
from gridx.domain.ledger import Balance
from gridx.domain.policy import Policy
from gridx.domain.resources import Resources
from gridx.domain.user import Principal, Role, User
from gridx.domain.worker import Capabilities
from gridx.storage.database import Connection

SLOT = Resources(1.0, 256, 0, 256)
GRANT = 100_000_000
HOLD = 637_500
PASSWORD_HASH = "nobody logs in with this"
PATIENCE_S = 20.0
BACKOFF_S = 5.0
"""Longer than a job waits after its first or second failure."""

Told = AssignedAttempt | LeaseOrder | ControlOrder | DisconnectOrder


class Hand:
    """A worker's end of a session: hears what it is told, reports what the test says."""

    def __init__(self, session: Session, clock: ManualClock) -> None:
        self.session = session
        self._clock = clock
        self._told: deque[Told] = deque()

    @property
    def worker_id(self) -> str:
        return self.session.worker_id

    async def next(self) -> Told:
        """The next thing the worker is told, each attempt by itself."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._told:
                orders = await self.session.outgoing()
                assert orders, "the session is over"
                for order in orders:
                    self._told.extend(order.attempts if isinstance(order, AssignOrder) else [order])
        return self._told.popleft()

    async def attempt(self) -> AssignedAttempt:
        """The next attempt it is given."""
        told = await self.next()
        assert isinstance(told, AssignedAttempt), told
        return told

    async def attempts(self, count: int) -> list[AssignedAttempt]:
        return [await self.attempt() for _ in range(count)]

    async def told(self, kind: str, key: LeaseKey) -> None:
        """The next thing it is told is this."""
        assert await self.next() == LeaseOrder(kind, key)  # type: ignore[arg-type]

    async def over(self) -> DisconnectOrder:
        """The last thing it is told."""
        last = await self.next()
        assert isinstance(last, DisconnectOrder), last
        assert await self.session.outgoing() == ()
        return last

    async def last(self) -> DisconnectOrder:
        """The last thing it is told, whatever comes before."""
        while not isinstance(told := await self.next(), DisconnectOrder):
            pass
        return told

    async def settled(self) -> None:
        """Wait until all that was reported is recorded."""
        async with asyncio.timeout(PATIENCE_S):
            await self.session._idle.wait()

    def nothing_told(self) -> bool:
        return not self._told and not self.session._orders

    async def report(self, *reports: Report) -> None:
        for report in reports:
            await self.session.report(report)

    async def start(self, attempt: AssignedAttempt) -> None:
        """Say that it runs; back when that is committed."""
        await self.report(StartedReport(attempt.key, "bubblewrap"))
        await self.settled()

    async def run(
        self,
        attempt: AssignedAttempt,
        *,
        wall_s: float = 1.0,
        reports_s: float | None = None,
        reason: Reason | None = None,
        exit_code: int | None = 0,
        output: bytes = b"",
    ) -> None:
        """Run an attempt for `wall_s` and report it (as `reports_s`), until it is acknowledged."""
        await self.start(attempt)
        self._clock.advance(wall_s)
        if output:
            await self.report(LogReport(attempt.key, 0, "stdout", output))
        reported = wall_s if reports_s is None else reports_s
        await self.report(finished(attempt.key, reported, reason=reason, exit_code=exit_code))
        await self.told("ack", attempt.key)

    async def heartbeat(self, *running: LeaseKey) -> None:
        """Say what runs, and that nothing of the rest is withheld."""
        await self.report(HeartbeatReport(None, 0.5, running))
        await self.settled()

    async def gone(self) -> None:
        """Its socket is gone."""
        await self.session.close()


def finished(
    key: LeaseKey,
    wall_s: float = 1.0,
    *,
    reason: Reason | None = None,
    exit_code: int | None = 0,
) -> FinishedReport:
    return FinishedReport(key, exit_code, reason, wall_s, wall_s / 2, 12.0, None)


def _grid(policy: Policy, clock: ManualClock) -> Grid:
    """A grid whose reaper never looks twice at once, as its own loop never does.

    A test that has it look would else get between a look's transaction and what is told of it.
    """
    grid = Grid(policy, clock)
    tick, one_at_a_time = grid._reaper.tick, asyncio.Lock()

    async def alone() -> None:
        async with one_at_a_time:
            await tick()

    grid._reaper.tick = alone  # type: ignore[method-assign]
    return grid


async def given(driver: "Driver", who: Principal, hand: Hand, **spec: object) -> LeaseKey:
    """A job that this worker is given."""
    await driver.submit(who, JobSpec(code="x", **spec))  # type: ignore[arg-type]
    return (await hand.attempt()).key


async def started(driver: "Driver", who: Principal, hand: Hand, **spec: object) -> LeaseKey:
    """A job that runs on this worker."""
    await driver.submit(who, JobSpec(code="x", **spec))  # type: ignore[arg-type]
    attempt = await hand.attempt()
    await hand.start(attempt)
    return attempt.key


class Driver:
    """One grid on one store; it may be stopped and started again."""

    def __init__(self, policy: Policy, clock: ManualClock) -> None:
        self.policy = policy
        self.clock = clock
        self.grid = _grid(policy, clock)

    async def open(self, **changes: object) -> None:
        self.policy = replace(self.policy, **changes)  # type: ignore[arg-type]
        self.grid = _grid(self.policy, self.clock)
        await self.grid.open()

    async def restart(self, **changes: object) -> None:
        """Stop the coordinator and start another on the same store."""
        await self.grid.close()
        await self.open(**changes)

    async def finish(self) -> None:
        """Stop, and see that the ledger is exact."""
        await self.grid.close()
        verified = await asyncio.to_thread(verify_store, self.policy)
        assert verified.differences == ()

    # -------------------------------------------------------------- people

    async def user(self, user_id: str, grant: int = GRANT, *, role: Role = Role.USER) -> Principal:
        """A new user, logged in, without the cost of hashing a password."""
        user = User(user_id, role, suspended=False, created_at=self.clock.now())

        def operation(connection: Connection) -> None:
            self.grid.users._insert(connection, user, PASSWORD_HASH, grant)

        await self.grid._database.write(operation)
        return await self.login(user_id)

    async def admin(self) -> Principal:
        return await self.user("admin", role=Role.ADMIN)

    async def login(self, user_id: str) -> Principal:
        return await self.grid.users.authenticate((await self.grid.users.issue(user_id)).token)

    async def balance(self, who: Principal) -> Balance:
        return await self.grid.accounts.balance(who, who.user_id)

    async def available(self, who: Principal) -> int:
        return (await self.balance(who)).available

    # -------------------------------------------------------------- workers

    async def worker(
        self,
        who: Principal,
        slots: int = 1,
        *,
        worker_id: str | None = None,
        running: Sequence[LeaseKey] = (),
        unacknowledged: Sequence[LeaseKey] = (),
        offer: Capabilities | None = None,
    ) -> Hand:
        """A worker of `who` (or with its own token) that connects."""
        offer = offer or Capabilities(SLOT.times(slots))
        greeting = Greeting(worker_id, "w", "1", offer, tuple(running), tuple(unacknowledged))
        return Hand(await self.grid.sessions.connect(who, greeting), self.clock)

    async def token_of(self, hand: Hand) -> Principal:
        """The principal of the token that a worker was given when it enrolled."""
        token = hand.session.worker_token
        assert token is not None
        return await self.grid.users.authenticate(token)

    # -------------------------------------------------------------- jobs

    async def submit(self, who: Principal, spec: JobSpec | None = None) -> Submitted:
        return await self.grid.jobs.submit(who, spec or JobSpec(code="x"), None, None, None)

    async def job(self, who: Principal, job_id: str) -> WholeJob:
        return await self.grid.jobs.get(who, job_id)

    async def final(self, who: Principal, job_id: str) -> WholeJob:
        """The job when it is final."""
        async with asyncio.timeout(PATIENCE_S):
            whole = await self.grid.jobs.wait(who, job_id, 60)
        assert whole.job.status.final, whole.job.status
        return whole

    async def until(self, who: Principal, job_id: str, *statuses: JobStatus) -> None:
        """Wait until the job has gone through these states, in this order."""
        wanted = deque(statuses)
        async with asyncio.timeout(PATIENCE_S):
            async for event in self.grid.watch.follow_events(who, job_id, None):
                if event.status is wanted[0]:
                    wanted.popleft()
                if not wanted:
                    return
        raise AssertionError(f"the job never became {wanted[0]}")
