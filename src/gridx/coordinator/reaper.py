"""The reaper: what must happen when nobody does anything.

Renews the leases of workers connected here, declares those of silent workers lost, expires jobs that
waited too long, forgets what has aged out. Every coordinator runs one; rows are shared by locks that
skip what is in use. After its own start, and after the wall clock jumped, a reaper waits a lease's
time before it trusts what the database says about silence.
"""

from collections.abc import Callable, Sequence

from gridx.clock import MICROSECONDS, Clock
from gridx.coordinator.attempts import Changes, Outcome
from gridx.coordinator.sessions import Session
from gridx.domain.attempt import Reason
from gridx.domain.errors import Unavailable
from gridx.domain.job import JobStatus, Next
from gridx.domain.policy import Policy
from gridx.storage import attempts, jobs, requests, workers
from gridx.storage.database import Connection, Database
from gridx.telemetry import get_logger

_log = get_logger(__name__)
_BATCH = 500
_JUMP_S = 2.0
_FORGET_EVERY_S = 60.0
_ANSWERS_KEPT_S = 86_400.0


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
        self._trusted_from_s = clock.monotonic() + policy.lease_s
        self._offset_s = self._offset()
        self._forgot_s = self._reconciled_s = clock.monotonic()

    async def run(self) -> None:
        """Tick until cancelled."""
        pause_s = min(self._policy.heartbeat_s / 2, 2.0)
        while True:
            try:
                await self.tick()
            except Exception as error:  # noqa: BLE001  (a bug is told, and does not end upkeep)
                if not isinstance(error, Unavailable):
                    _log.exception("upkeep_failed")
                # Workers could not renew either: their silence says nothing.
                self._trusted_from_s = self._clock.monotonic() + self._policy.lease_s
            await self._clock.sleep(pause_s)

    async def tick(self) -> None:
        """One look at everything."""
        self._notice_jump()
        await self._end_silent_sessions()
        await self._renew()
        if self._clock.monotonic() >= self._trusted_from_s:
            await self._until_done(self._reap)
            await self._reconcile()
        await self._until_done(self._expire)
        if self._clock.monotonic() - self._forgot_s >= _FORGET_EVERY_S:
            self._forgot_s = self._clock.monotonic()
            await self._database.write(self._forget)

    def _offset(self) -> float:
        return self._clock.now() / MICROSECONDS - self._clock.monotonic()

    def _notice_jump(self) -> None:
        offset = self._offset()
        if abs(offset - self._offset_s) > _JUMP_S:
            _log.warning("clock_jumped", by_s=round(offset - self._offset_s, 3))
            self._trusted_from_s = self._clock.monotonic() + self._policy.lease_s
        self._offset_s = offset

    async def _end_silent_sessions(self) -> None:
        limit = self._clock.monotonic() - self._policy.lease_s
        for session in list(self._sessions.values()):
            if session.heard_s < limit:
                await session.disconnect("Nothing was heard of it for a lease's time", retry=True)

    async def _renew(self) -> None:
        limit = self._clock.monotonic() - self._policy.heartbeat_s
        seen = {
            session.worker_id: session.session_id
            for session in self._sessions.values()
            if session.heard_s >= limit
        }

        def operation(connection: Connection) -> None:
            now = self._clock.now()
            workers.mark_seen(connection, seen, now)
            requests.mark_coordinator(connection, self._coordinator_id, now)

        await self._database.write(operation)

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
        holders = [
            worker_id
            for worker_id in attempts.workers_with_leases(connection)
            if worker_id not in self._sessions
        ]
        workers.end_silent_sessions(connection, before)
        if not holders:
            return False, Outcome()
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
        """Jobs that waited longer than the grid allows are failed, uncharged."""
        before = self._clock.now() - round(self._policy.queue_age_s * MICROSECONDS)
        changes = Changes(connection, self._clock.now(), self._clock.new_id)
        old = jobs.lock_waiting_since(connection, before, _BATCH)
        for job in old:
            changes.finish(job, Next(JobStatus.FAILED, Reason.EXPIRED))
        return len(old) == _BATCH, changes.save()

    def _forget(self, connection: Connection) -> None:
        now = self._clock.now()
        requests.forget_answers(connection, now - round(_ANSWERS_KEPT_S * MICROSECONDS), _BATCH)
        requests.forget_rates(connection, now)
