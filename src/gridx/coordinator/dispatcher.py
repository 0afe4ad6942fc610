"""The dispatcher: puts waiting jobs on connected workers.

Theory of operation. In memory are only the queues (owner and shape) that may hold work and the seats
of the workers connected here; the backlog is never loaded. A hint or a slow poll starts rounds: plan
places by fair share (`domain.placement`), claim that many jobs of each queue in one transaction, send
them. A claim that comes back short empties the queue's entry; a rescan finds every queue again by
skipping through the index. The cost of a job does not depend on how many wait behind it.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from gridx.bus.base import QUEUES, Bus
from gridx.clock import Clock
from gridx.coordinator.attempts import Changes, Outcome
from gridx.coordinator.recorder import LeaseKey
from gridx.coordinator.sessions import AssignedAttempt, Live, Session
from gridx.domain.attempt import Attempt, AttemptStatus
from gridx.domain.errors import GridError, Unavailable
from gridx.domain.job import JobSpec, JobState
from gridx.domain.matching import Shape, shape_key
from gridx.domain.placement import Place, Queue, Seat, Share, plan, standing
from gridx.domain.policy import Policy
from gridx.domain.pricing import price_per_second
from gridx.domain.sandbox import floor_for
from gridx.storage import attempts, jobs, queues
from gridx.storage.database import Connection, Database
from gridx.telemetry import get_logger

_log = get_logger(__name__)
POLL_S = 2.0
ROUND_MAX = 512
HALF_LIFE_S = 3_600.0


class _Claimed(Struct, frozen=True):
    """A job that was claimed from a queue for a worker."""

    queue: tuple[str, str]
    worker_id: str
    job: JobState
    attempt: Attempt
    spec: JobSpec
    traceparent: str | None


class Dispatcher:
    """Matches queues with the sessions of this coordinator."""

    def __init__(self, database: Database, bus: Bus, clock: Clock, policy: Policy) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._policy = policy
        self._queues: dict[tuple[str, str], Queue] = {}
        self._noted: dict[tuple[str, str], int] = {}
        self._notes = 0
        self._rescan = True
        self._shares: dict[str, Share] = {}
        self._keys: dict[Shape, str] = {}
        self.sessions: dict[str, Session] = {}

    def note(self, user_id: str, shape: Shape, priority: int) -> None:
        """A queue may hold work."""
        key = self._keys.get(shape)
        if key is None:
            if len(self._keys) > 10_000:
                self._keys.clear()
            key = self._keys[shape] = shape_key(shape)
        at = (user_id, key)
        self._notes += 1
        self._noted[at] = self._notes
        known = self._queues.get(at)
        if known is None or known.priority < priority:
            price = float(price_per_second(shape.resources, self._policy.tariff))
            self._queues[at] = Queue(user_id, shape, key, priority, price)
        self._bus.publish(QUEUES)

    def look_again(self) -> None:
        """Jobs went back to queues that are not known here."""
        self._rescan = True
        self._bus.publish(QUEUES)

    def used(self, live: Live) -> None:
        """An attempt is over: count what its owner had of the grid."""
        now = self._clock.monotonic()
        share = self._shares.get(live.user_id, Share(0.0, now))
        self._shares[live.user_id] = share.plus((now - live.since_s) * live.price, now, HALF_LIFE_S)

    async def run(self) -> None:
        """Place work until cancelled."""
        listener = self._bus.listen(QUEUES)
        try:
            while True:
                try:
                    while await self._round():
                        pass
                except Exception as error:  # noqa: BLE001  (a bug is told, and not the last round)
                    if not isinstance(error, Unavailable):
                        _log.exception("round_failed")
                    self._rescan = True
                    await self._clock.sleep(0.5)
                    continue
                if not await listener.wait(POLL_S):
                    self._rescan = True
        finally:
            listener.close()

    async def _round(self) -> bool:
        """One plan, claim and send; whether another may find more."""
        if self._rescan:
            self._rescan = False
            for head in await self._database.read(queues.find_queues):
                self.note(head.user_id, head.shape, head.priority)
        seats = [
            Seat(session.worker, session.free, session.withheld)
            for session in self.sessions.values()
            if session.takes_work
        ]
        if not seats or not self._queues:
            return False
        places = plan(
            list(self._queues.values()),
            seats,
            self._standings(),
            ROUND_MAX,
            self._policy.sandbox_at_least,
        )
        if not places:
            return False
        noted = self._notes
        claimed = await self._database.write(lambda connection: self._claim(connection, places))
        emptied = self._forget_empty(places, claimed, noted)
        await self._send(claimed)
        return bool(claimed) or emptied

    def _standings(self) -> Mapping[str, float]:
        """Decayed use and, for an hour ahead, what each owner has running."""
        now = self._clock.monotonic()
        running: dict[str, float] = {}
        for session in self.sessions.values():
            for live in session.live.values():
                running[live.user_id] = running.get(live.user_id, 0.0) + live.price
        owners = {queue.owner for queue in self._queues.values()}
        return {
            owner: standing(
                self._shares.get(owner, Share()).at(now, HALF_LIFE_S),
                running.get(owner, 0.0),
                1.0,
            )
            for owner in owners
        }

    def _claim(self, connection: Connection, places: Sequence[Place]) -> list[_Claimed]:
        """Assign the first jobs of each queue to the places planned for it."""
        now = self._clock.now()
        by_queue: dict[tuple[str, str], list[Place]] = {}
        for place in places:
            by_queue.setdefault((place.queue.owner, place.queue.key), []).append(place)
        claimed: list[_Claimed] = []
        changes: list[tuple[JobState, JobState]] = []
        for (owner, key), wanted in sorted(by_queue.items(), key=lambda item: item[0]):
            count = sum(place.count for place in wanted)
            found = iter(queues.claim(connection, owner, key, count, now))
            for place in wanted:
                session = self.sessions.get(place.worker_id)
                if session is None:
                    continue
                for _, (job, spec, traceparent) in zip(range(place.count), found, strict=False):
                    attempt = self._new_attempt(job, spec, session, now)
                    after = replace(job, attempt=attempt.number, lease=attempt.lease)
                    changes.append((job, after))
                    claimed.append(
                        _Claimed((owner, key), place.worker_id, after, attempt, spec, traceparent)
                    )
        jobs.save_jobs(connection, changes)
        attempts.insert_attempts(connection, [(c.job.number, c.attempt) for c in claimed])
        return claimed

    def _new_attempt(self, job: JobState, spec: JobSpec, session: Session, now: int) -> Attempt:
        return Attempt(
            job_id=job.job_id,
            number=job.attempt + 1,
            lease=self._clock.new_id(),
            worker_id=session.worker_id,
            owner_id=session.worker.owner_id,
            status=AttemptStatus.ASSIGNED,
            reason=None,
            exit_code=None,
            counted=False,
            assigned_at=now,
            started_at=None,
            finished_at=None,
            usage=None,
            billed_us=0,
            sandbox=spec.require.get("sandbox"),
        )

    def _forget_empty(
        self, places: Sequence[Place], claimed: Sequence[_Claimed], noted: int
    ) -> bool:
        """Drop queues whose claim came back short, unless work was noted since; whether any was."""
        wanted: dict[tuple[str, str], int] = {}
        for place in places:
            at = (place.queue.owner, place.queue.key)
            wanted[at] = wanted.get(at, 0) + place.count
        for c in claimed:
            wanted[c.queue] -= 1
        empty = [at for at, n in wanted.items() if n > 0 and self._noted.get(at, 0) <= noted]
        for at in empty:
            self._queues.pop(at, None)
            self._noted.pop(at, None)
        return bool(empty)

    async def _send(self, claimed: Sequence[_Claimed]) -> None:
        """Send what was claimed; take back what was meant for a worker that is gone by now."""
        now = self._clock.monotonic()
        by_worker: dict[str, list[_Claimed]] = {}
        for c in claimed:
            by_worker.setdefault(c.worker_id, []).append(c)
        for worker_id, mine in by_worker.items():
            session = self.sessions.get(worker_id)
            if session is None or not session.takes_work:
                await self.take_back([c.attempt.lease for c in mine])
                continue
            session.place([self._placed(c, now) for c in mine])

    def _placed(self, c: _Claimed, now_s: float) -> tuple[AssignedAttempt, Live]:
        key = LeaseKey(c.job.job_id, c.attempt.number, c.attempt.lease)
        price = float(c.job.terms.price_per_second)
        floor = floor_for(c.job.user_id, c.attempt.owner_id, self._policy.sandbox_at_least)
        return (
            AssignedAttempt(key, c.spec, c.job.terms.limit_us, c.traceparent, floor),
            Live(key, c.job.user_id, c.spec.resources, price, now_s, c.job.terms.limit_us),
        )

    async def take_back(self, leases: Sequence[str]) -> None:
        """Revoke attempts that have not started; their jobs wait again."""

        def operation(connection: Connection) -> Outcome:
            changes = Changes(connection, self._clock.now(), self._clock.new_id)
            for job, attempt in attempts.lock_by_leases(connection, leases).values():
                if attempt.status is AttemptStatus.ASSIGNED and job.lease == attempt.lease:
                    changes.take_back(job, attempt)
            return changes.save()

        try:
            (await self._database.write(operation)).publish(self._bus)
        except GridError as error:
            _log.warning("take_back_failed", error=error.code)
        self.look_again()
