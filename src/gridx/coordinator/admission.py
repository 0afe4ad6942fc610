"""Letting workers in: enrolling them, and sorting the leases of one that comes (back).

Operations on a connection, run by `Workers` in its transactions; nothing here knows a session.
"""

from dataclasses import dataclass, replace

from gridx.clock import Clock
from gridx.coordinator.attempts import Changes, Outcome, acceptable
from gridx.coordinator.recorder import LeaseKey
from gridx.coordinator.sessions import Greeting, KeptLease
from gridx.coordinator.users import secret_hash
from gridx.domain.attempt import Attempt
from gridx.domain.errors import Conflict, Denied
from gridx.domain.job import JobState
from gridx.domain.policy import Policy
from gridx.domain.resources import Resources
from gridx.domain.user import Principal, TokenKind
from gridx.domain.worker import Capabilities, Standing, Worker
from gridx.storage import attempts, jobs, users, workers
from gridx.storage.database import Connection


@dataclass(slots=True)
class Entry:
    """What came of letting a worker in."""

    worker: Worker
    token: str | None
    keep: list[tuple[KeptLease, JobState, Attempt]]
    drop: list[LeaseKey]
    outcome: Outcome
    resources: dict[str, Resources]
    """What each job takes whose lease is kept."""


class Admission:
    """Who may be a worker, and what it may keep."""

    def __init__(self, clock: Clock, policy: Policy) -> None:
        self._clock = clock
        self._policy = policy

    def enter(
        self, connection: Connection, who: Principal, greeting: Greeting, session_id: str
    ) -> Entry:
        """The worker is connected: with its own token, or with a user's, which enrols it."""
        token = None
        if who.kind is TokenKind.WORKER:
            assert who.worker_id is not None
            worker = workers.lock_worker(connection, who.worker_id)
            if worker is None:
                raise Denied("This grid does not know the worker: remove its state folder to enrol")
            self._need_welcome(worker)
        else:
            worker = self.enrol(connection, who, greeting)
            token = self.new_token(connection, worker)
        now = self._clock.now()
        offer = self._capped(greeting.capabilities)
        until, why = worker.set_aside_until, worker.set_aside_why
        if until is not None and until <= now:
            until = why = None
        workers.update_worker(
            connection,
            worker.worker_id,
            {
                "session_id": session_id,
                "capabilities": offer,
                "name": greeting.name,
                "version": greeting.version,
                "seen_at": now,
                "draining": False,
                "set_aside_until": until,
                "set_aside_why": why,
            },
        )
        worker = replace(
            worker,
            capabilities=offer,
            name=greeting.name,
            version=greeting.version,
            seen_at=now,
            online=True,
            draining=False,
            set_aside_until=until,
            set_aside_why=why,
        )
        return self._sort_leases(connection, worker, token, greeting)

    def _sort_leases(
        self, connection: Connection, worker: Worker, token: str | None, greeting: Greeting
    ) -> Entry:
        """Which leases the worker keeps, which it must drop, and which it lost by not naming."""
        named = {key.lease: key for key in (*greeting.running, *greeting.unacknowledged)}
        running = {key.lease for key in greeting.running}
        held = attempts.live_leases_of_worker(connection, worker.worker_id)
        locked = attempts.lock_by_leases(connection, {*held, *named})
        changes = Changes(connection, self._clock.now(), self._clock.new_id)
        keep: list[tuple[KeptLease, JobState, Attempt]] = []
        drop: list[LeaseKey] = []
        for lease, key in named.items():
            job, attempt = locked.get(lease, (None, None))
            if (
                job is None
                or attempt is None
                or attempt.worker_id != worker.worker_id
                or (key.job_id, key.attempt) != (job.job_id, attempt.number)
            ):
                drop.append(key)
            elif attempt.usage is not None and lease not in running:
                keep.append((KeptLease(key, 0), job, attempt))  # it is acknowledged again
            elif acceptable(job, attempt) and (attempt.status.live or lease not in running):
                keep.append((KeptLease(key, 0), job, attempt))
            else:
                drop.append(key)
        for lease in held:
            if lease not in named and lease in locked:
                job, attempt = locked[lease]
                if acceptable(job, attempt):
                    changes.lose(job, attempt)
        stored = attempts.written_so_far(connection, [(j.number, a.number) for _, j, a in keep])
        kept = [
            (KeptLease(k.key, stored.get((j.number, a.number), (0, 0, 0))[0]), j, a)
            for k, j, a in keep
        ]
        taken = jobs.resources_of(connection, [j.job_id for _, j, _ in kept])
        return Entry(worker, token, kept, drop, changes.save(), taken)

    def enrol(self, connection: Connection, who: Principal, greeting: Greeting) -> Worker:
        """The caller's worker of this id, or a new one."""
        if not users.lock_active(connection, [who.user_id]):
            raise Denied(f"User {who.user_id} is suspended: ask an administrator")
        if greeting.worker_id is not None:
            known = workers.lock_worker(connection, greeting.worker_id)
            if known is not None:
                if known.owner_id != who.user_id:
                    raise Denied("This worker belongs to another user")
                self._need_welcome(known)
                return known
        if workers.count_of_owner(connection, who.user_id) >= self._policy.workers_per_user:
            raise Conflict(f"A user has at most {self._policy.workers_per_user} workers here")
        worker = Worker(
            worker_id=greeting.worker_id or self._clock.new_id(),
            owner_id=who.user_id,
            name=greeting.name,
            capabilities=self._capped(greeting.capabilities),
            version=greeting.version,
            created_at=self._clock.now(),
            seen_at=None,
            online=False,
            paused=False,
            draining=False,
            standing=Standing.GOOD,
            admitted=self._is_trusted(connection, who),
        )
        workers.insert_worker(connection, worker)
        return worker

    def _is_trusted(self, connection: Connection, who: Principal) -> bool:
        """Whether a new worker may run others' jobs at once: an invitation vouches for its owner."""
        return (
            self._policy.admission == "open"
            or who.is_admin
            or users.was_invited(connection, who.user_id)
        )

    def _need_welcome(self, worker: Worker) -> None:
        if worker.standing is Standing.BANNED:
            raise Denied(f"The worker {worker.name} is banned: ask an administrator")

    def _capped(self, offer: Capabilities) -> Capabilities:
        return replace(offer, resources=offer.resources.capped(self._policy.worker_cap))

    def new_token(self, connection: Connection, worker: Worker) -> str:
        """A fresh token of the worker's; the ones before it end."""
        secret = self._clock.new_secret()
        owner = users.find_user(connection, worker.owner_id)
        assert owner is not None
        users.delete_tokens_of_worker(connection, worker.worker_id)
        users.insert_token(
            connection,
            Principal(
                self._clock.new_id(), TokenKind.WORKER, owner.user_id, owner.role, frozenset(),
                None, worker.worker_id,
            ),
            secret_hash(secret),
            self._clock.now(),
            None,
        )  # fmt: skip
        return secret
