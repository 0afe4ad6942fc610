"""The coordinator put together: the store, the bus, the use cases, and the loops.

A server makes one `Grid`, opens it, calls its use cases, and closes it.
"""

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from gridx.bus.local import make_bus
from gridx.clock import MICROSECONDS, Clock
from gridx.coordinator.accounts import Accounts
from gridx.coordinator.attempts import Outcome
from gridx.coordinator.delays import Delays
from gridx.coordinator.dispatcher import Dispatcher
from gridx.coordinator.jobs import Jobs
from gridx.coordinator.metrics import Metrics
from gridx.coordinator.reaper import Reaper
from gridx.coordinator.recorder import Recorder
from gridx.coordinator.retention import RetentionLoop
from gridx.coordinator.users import Users
from gridx.coordinator.watch import Watch
from gridx.coordinator.workers import Workers
from gridx.domain.attempt import Reason
from gridx.domain.errors import InvalidInput
from gridx.domain.ledger import Verification
from gridx.domain.policy import Policy
from gridx.storage import archive, dialect, jobs, ledger, requests, users, workers
from gridx.storage.archive import Examined, Progress, Restored
from gridx.storage.database import Connection, Database
from gridx.storage.dialect import make_engine, parse_url, reading
from gridx.storage.schema import migrate as migrate_schema
from gridx.storage.schema import need_current
from gridx.tasks import Tasks
from gridx.telemetry import get_logger

__all__ = [
    "Examined", "Grid", "GridStatus", "Progress", "Restored", "back_up_store", "initialise",
    "issue_local_token", "migrate", "restore_store", "verify_store",
]  # fmt: skip

_log = get_logger(__name__)
_HEALTH_TIMEOUT_S = 2.0
_STATUS_AGE_S = 1.0


@dataclass(frozen=True, slots=True)
class GridStatus:
    """The grid at a glance."""

    workers_total: int
    workers_active: int
    queue_size: int
    running: int
    coordinators: int
    uptime_s: float


class Grid:
    """One coordinator. `open` before use, `close` after."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        """Raises `InvalidInput` for a store or a bus this version does not have."""
        self._policy = policy
        self._clock = clock
        self._tasks = Tasks()
        self._bus = make_bus(policy.bus_url)
        self._coordinator_id = clock.new_id()
        self._started_s = clock.monotonic()
        self._status: tuple[float, GridStatus] | None = None
        self._database = Database(
            policy.storage_url,
            readers=policy.readers,
            writers=policy.writers,
            group_size_max=policy.group_size_max,
            on_commit=self._count_commit,
        )
        self._dispatcher = Dispatcher(self._database, self._bus, clock, policy)
        self._delays = Delays(self._database, clock, self._dispatcher.look_again)
        self.metrics = Metrics(lambda: self._database, clock, self._dispatcher.sessions)
        recorder = Recorder(self._database, clock, policy, self._committed)
        self.workers = Workers(
            self._database,
            self._bus,
            clock,
            policy,
            dispatcher=self._dispatcher,
            recorder=recorder,
            tasks=self._tasks,
            committed=self._committed,
        )
        self.sessions = self.workers
        self.jobs = Jobs(
            self._database,
            self._bus,
            clock,
            policy,
            note=self._dispatcher.note,
            put_off=self._delays.note,
            committed=self._committed,
        )
        self.users = Users(self._database, clock, policy, suspended=self._after_suspension)
        self.accounts = Accounts(self._database, clock)
        self.watch = Watch(self._database, self._bus, clock, policy.retention)
        self._reaper = Reaper(
            self._database,
            clock,
            policy,
            coordinator_id=self._coordinator_id,
            sessions=self._dispatcher.sessions,
            committed=self._committed,
        )
        self._retention = RetentionLoop(self._database, clock, policy.retention)

    async def open(self) -> None:
        """Migrate the store and start the loops.

        Raises `InvalidInput` for a foreign or damaged database, `Unavailable` when it is away.
        """
        await asyncio.to_thread(migrate, self._policy)
        await self._database.open()
        self._tasks.start("dispatcher", self._dispatcher.run())
        self._tasks.start("delays", self._delays.run())
        self._tasks.start("reaper", self._reaper.run())
        self._tasks.start("retention", self._retention.run())

    async def close(self) -> None:
        """End sessions and loops, finish what was handed to the store, close it."""
        for session in list(self._dispatcher.sessions.values()):
            await session.disconnect("The coordinator stops", retry=True)
        await self._tasks.close()
        self.users.close()
        await self._database.close()

    def _count_commit(self, operations: int) -> None:
        self.metrics.count_commit(operations)

    def _committed(self, outcome: Outcome) -> None:
        """Tell everybody what a transaction did."""
        self.metrics.count_outcome(outcome)
        for attempt, job in outcome.ended:
            if attempt.reason in (Reason.LOST, Reason.SANDBOX_ERROR):
                _log.warning(
                    "attempt_ended",
                    job=job.job_id,
                    attempt=attempt.number,
                    worker=attempt.worker_id,
                    status=attempt.status.value,
                    reason=attempt.reason,
                )
        self.workers.after(outcome)
        outcome.publish(self._bus)
        if outcome.requeued:
            self._dispatcher.look_again()
        if outcome.due_at is not None:
            self._delays.note(outcome.due_at)

    async def _after_suspension(self, user_id: str) -> None:
        await self.workers.end_sessions_of(user_id)
        await self.jobs.cancel_all_of(user_id)

    async def healthy(self) -> bool:
        """Whether the store answers within two seconds, and takes what is written.

        The reaper writes all the time, so that what it last said of writing is of this moment.
        """
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                await self._database.read(users.any_user)
        except Exception:  # noqa: BLE001  (whatever it is, it is not healthy)
            return False
        return self._database.takes_writes

    async def status(self) -> GridStatus:
        """Counts, at most a second old."""
        now_s = self._clock.monotonic()
        if self._status is not None and now_s - self._status[0] < _STATUS_AGE_S:
            return self._status[1]

        def operation(connection: Connection) -> tuple[dict[str, int], tuple[int, int], int]:
            since = self._clock.now() - round(3 * self._policy.heartbeat_s * MICROSECONDS)
            return (
                jobs.count_by_status(connection),
                workers.count_workers(connection),
                requests.count_coordinators(connection, since),
            )

        counts, (total, active), coordinators = await self._database.read(operation)
        status = GridStatus(
            workers_total=total,
            workers_active=active,
            queue_size=counts.get("queued", 0) + counts.get("blocked", 0),
            running=counts.get("running", 0),
            coordinators=max(1, coordinators),
            uptime_s=now_s - self._started_s,
        )
        self._status = (now_s, status)
        return status


def migrate(policy: Policy) -> None:
    """Bring the store to this version's schema."""
    engine = make_engine(policy.storage_url, 1)
    try:
        migrate_schema(engine)
    finally:
        engine.dispose()


async def initialise(policy: Policy, clock: Clock, admin_id: str, admin_password: str) -> bool:
    """Migrate, and make the first administrator unless the grid has users; whether it was made."""

    async def nothing_follows(user_id: str) -> None:
        raise AssertionError(f"{user_id} cannot be suspended here")

    await asyncio.to_thread(migrate, policy)
    database = Database(policy.storage_url, readers=1, writers=1, group_size_max=1)
    await database.open()
    people = Users(database, clock, policy, suspended=nothing_follows)
    try:
        return await people.initialise(admin_id, admin_password)
    finally:
        people.close()
        await database.close()


async def issue_local_token(grid: Grid, user_id: str) -> str:
    """A log-in token for a program that the administrator started on this machine."""
    return (await grid.users.issue(user_id)).token


def served_alone(policy: Policy) -> AbstractContextManager[None]:
    """Keep other programs from serving a store that one coordinator has to itself: on SQLite.

    Raises `Conflict` while another serves it.
    """
    return dialect.served_alone(policy.storage_url)


def verify_store(policy: Policy) -> Verification:
    """Recompute the ledger of a store, also while a grid runs on it.

    Raises `InvalidInput` when it is not a grid's, or not at this version's schema.
    """
    engine = make_engine(policy.storage_url, 1)
    try:
        need_current(engine)
        with reading(engine) as connection:
            return ledger.verify(connection)
    finally:
        engine.dispose()


def back_up_store(
    policy: Policy, file: Path, now: int, *, force: bool, progress: Progress
) -> Examined:
    """Copy a SQLite store to `file`, also while a grid runs on it; see `archive.back_up`."""
    return archive.back_up(_file_of(policy), file, now, force=force, progress=progress)


def restore_store(policy: Policy, file: Path, stamp: str, progress: Progress) -> Restored:
    """Put a backup in the place of a SQLite store on which nothing runs; see `archive.restore`."""
    return archive.restore(file, _file_of(policy), stamp, progress)


def _file_of(policy: Policy) -> Path:
    url = parse_url(policy.storage_url)
    if url.get_backend_name() != "sqlite":
        raise InvalidInput(
            "This grid is on PostgreSQL, which has its own tools: pg_dump and pg_restore, as "
            "docs/guides/administrator.md says"
        )
    return Path(url.database or "")
