"""The reaper: what must happen when nobody does anything.

Renews the leases of workers connected here, declares those of silent workers lost and those that were
let go of or overrun, gives workers that were set aside another chance, expires jobs that waited too
long. Every coordinator runs one; rows are shared by locks that skip what is in use. After its own
start, after the wall clock jumped, and after its process stood still, a reaper waits a lease's time
before it trusts what the database says about silence.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

from gridx.clock import MICROSECONDS, Clock
from gridx.coordinator.attempts import Changes, Outcome
from gridx.coordinator.sessions import Session
from gridx.domain.attempt import Reason
from gridx.domain.errors import Unavailable
from gridx.domain.job import BACKOFF_MAX_S, JobStatus, Next
from gridx.domain.policy import Policy
from gridx.storage import attempts, jobs, queues, requests, workers
from gridx.storage.database import Connection, Database
from gridx.telemetry import get_logger

_log = get_logger(__name__)
_BATCH = 500
_JUMP_S = 2.0
_STILL_S = 2.0
_PAUSE_MIN_S = 0.05


class Reaper:
    """One coordinator's upkeep of leases and ages."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        policy: Policy,
        *,
        coordinator_id: str,
        sessions: dict[str, Session],
        committed: Callable[[Outcome], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._policy = policy
        self._coordinator_id = coordinator_id
        self._sessions = sessions
        self._committed = committed
        self._awake_since_s = -inf
        """Just before that this process stood still, and heard nobody."""
        self._trusted_from_s = clock.monotonic() + policy.lease_s
        self._offset_s = self._offset()
        self._reconciled_s = clock.monotonic()
        self._runs_out_s = inf
        """When the next lease does of a worker that is not connected here."""

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            try:
                await self.tick()
            except Exception as error:  # noqa: BLE001  (a bug is told, and does not end upkeep)
                if not isinstance(error, Unavailable):
                    _log.exception("upkeep_failed")
                self._doubt()  # workers could not renew either: their silence says nothing
            await self._rest()

    async def _rest(self) -> None:
        """Until the next look; longer where this process stood still.

        What came meanwhile has to be read first, and workers that went have to come back.
        """
        while (late_s := await self._clock.sleep(self._pause_s())) > _STILL_S:
            _log.warning("stood_still", for_s=round(late_s, 3))
            self._awake_since_s = self._clock.monotonic()
            self._doubt()

    def _doubt(self) -> None:
        """Give everybody a lease's time before what the database says about silence counts."""
        self._trusted_from_s = self._clock.monotonic() + self._policy.lease_s

    def _pause_s(self) -> float:
        """Until the next look, which does not wait once a lease has run out."""
        now_s = self._clock.monotonic()
        heard_s = min(map(self._heard_s, self._sessions.values()), default=inf)
        trusted_s = self._trusted_from_s if self._trusted_from_s > now_s else inf
        due_s = min(heard_s + self._policy.lease_s, self._runs_out_s, trusted_s) - now_s
        return min(max(due_s, _PAUSE_MIN_S), self._policy.heartbeat_s / 2, 2.0)

    async def tick(self) -> None:
        """One look at everything."""
        self._notice_jump()
        await self._end_silent_sessions()
        await self._end_lapsed()
        await self._renew()
        if self._clock.monotonic() >= self._trusted_from_s:
            await self._until_done(self._reap)
            await self._reconcile()
        await self._until_done(self._expire)

    def _offset(self) -> float:
        return self._clock.now() / MICROSECONDS - self._clock.monotonic()

    def _notice_jump(self) -> None:
        offset = self._offset()
        if abs(offset - self._offset_s) > _JUMP_S:
            _log.warning("clock_jumped", by_s=round(offset - self._offset_s, 3))
            self._doubt()
        self._offset_s = offset

    async def _end_silent_sessions(self) -> None:
        limit = self._clock.monotonic() - self._policy.lease_s
        for session in list(self._sessions.values()):
            if self._heard_s(session) < limit:
                await session.disconnect("Nothing was heard of it for a lease's time", retry=True)

    def _heard_s(self, session: Session) -> float:
        return max(session.heard_s, self._awake_since_s)

    async def _end_lapsed(self) -> None:
        """Attempts that workers connected here have let go of, or hang on to for too long."""
        lapsed = [(s, s.lapsed(self._policy.lease_s)) for s in self._sessions.values()]
        leases = [lease for _, mine in lapsed for lease in mine]
        if leases:
            self._committed(await self._database.write(lambda c: self._lose(c, leases)))
        for session, mine in lapsed:
            for lease in mine:
                session.give_up(lease)

    async def _renew(self) -> None:
        limit = self._clock.monotonic() - self._policy.heartbeat_s
        seen = {
            session.worker_id: session.session_id
            for session in self._sessions.values()
            if session.heard_s >= limit
        }
        now = self._clock.now()
        over = [
            session
            for session in self._sessions.values()
            if (until := session.worker.set_aside_until) is not None and until <= now
        ]

        def operation(connection: Connection) -> None:
            workers.mark_seen(connection, seen, now)
            workers.give_another_chance(connection, [session.worker_id for session in over], now)
            requests.mark_coordinator(connection, self._coordinator_id, now)

        await self._database.write(operation)
        for session in over:
            its = replace(session.worker, set_aside_until=None, set_aside_why=None)
            session.refresh(its)

    async def _until_done(self, step: Callable[[Connection], tuple[bool, Outcome]]) -> None:
        more = True
        while more:
            more, outcome = await self._database.write(step)
            self._committed(outcome)

    def _reap(self, connection: Connection) -> tuple[bool, Outcome]:
        """The leases of workers nobody has heard of are lost."""
        now, lease_us = self._clock.now(), round(self._policy.lease_s * MICROSECONDS)
        before = now - lease_us
        workers.forget_future(connection, now, now + lease_us)
        queues.forget_future(connection, now, now + round(BACKOFF_MAX_S * MICROSECONDS))
        holders = [
            worker_id
            for worker_id in attempts.workers_with_leases(connection)
            if worker_id not in self._sessions
        ]
        workers.end_silent_sessions(connection, before)
        self._runs_out_s = inf
        if not holders:
            return False, Outcome()
        if (seen := workers.first_seen(connection, holders, before)) is not None:
            self._runs_out_s = self._clock.monotonic() + (seen - before) / MICROSECONDS
        leases: list[str] = []
        for worker in workers.lock_silent(connection, holders, before):
            leases += attempts.live_leases_of_worker(connection, worker.worker_id)
        more = len(leases) > _BATCH
        return more, self._lose(connection, leases[:_BATCH])

    async def _reconcile(self) -> None:
        """Attempts of workers connected here that no session knows were never sent: they are lost.

        So it is with a claim whose commit was confirmed to nobody, because the store went away.
        """
        now_s = self._clock.monotonic()
        if now_s - self._reconciled_s < self._policy.lease_s:
            return
        self._reconciled_s = now_s
        now, lease_us = self._clock.now(), round(self._policy.lease_s * MICROSECONDS)
        connected = list(self._sessions)
        # One assigned in the future is old: the clock was ahead and went back.
        found = await self._database.read(
            lambda c: attempts.leases_assigned_outside(c, connected, now - lease_us, now + lease_us)
        )
        unknown = [
            lease
            for worker_id, lease in found
            if (session := self._sessions.get(worker_id)) is not None and lease not in session.live
        ]
        if unknown:
            self._committed(
                await self._database.write(lambda connection: self._lose(connection, unknown))
            )

    def _lose(self, connection: Connection, leases: Sequence[str]) -> Outcome:
        changes = Changes(connection, self._clock.now(), self._clock.new_id)
        for job, attempt in attempts.lock_by_leases(connection, leases).values():
            if attempt.status.live and job.lease == attempt.lease:
                changes.lose(job, attempt)
        return changes.save()

    def _expire(self, connection: Connection) -> tuple[bool, Outcome]:
        """Jobs that waited past their deadline or longer than the grid allows are failed."""
        now = self._clock.now()
        before = now - round(self._policy.queue_age_s * MICROSECONDS)
        changes = Changes(connection, now, self._clock.new_id)
        late = jobs.lock_past_deadline(connection, now, _BATCH)
        old = jobs.lock_waiting_since(connection, before, _BATCH)
        leases = [job.lease for job in late if job.lease is not None]
        for job, attempt in attempts.lock_by_leases(connection, leases).values():
            changes.take_back(job, attempt)
        for job in {job.number: changes.job(job) for job in (*late, *old)}.values():
            changes.finish(job, Next(JobStatus.FAILED, Reason.EXPIRED))
        return _BATCH in (len(late), len(old)), changes.save()
