"""Workers: letting them in, what their sessions need done, and what owners and administrators do.

A worker's row says what it is and which connection speaks for it; the sessions of this coordinator
are in the dispatcher's `sessions`. Every change of a row is made in the database first.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from gridx.bus.base import QUEUES, Bus
from gridx.clock import MICROSECONDS, Clock, to_rfc3339
from gridx.coordinator.admission import Admission, Entry
from gridx.coordinator.attempts import Changes, Outcome
from gridx.coordinator.dispatcher import Dispatcher
from gridx.coordinator.recorder import LeaseKey, LeaseOrder, Recorder
from gridx.coordinator.sessions import ControlOrder, Greeting, Live, Session
from gridx.domain.attempt import AttemptStatus
from gridx.domain.conduct import Conduct, end_of
from gridx.domain.errors import Denied, NotFound, Unavailable
from gridx.domain.page import Page
from gridx.domain.policy import Policy
from gridx.domain.resources import NOTHING, Resources
from gridx.domain.sandbox import reaches
from gridx.domain.user import Principal, Scope, TokenKind
from gridx.domain.worker import Capabilities, Standing, Worker
from gridx.storage import attempts, users, workers
from gridx.storage.database import Connection, Database
from gridx.tasks import Tasks
from gridx.telemetry import get_logger

_log = get_logger(__name__)
SET_ASIDE_S = 900.0
"""So long a worker that does badly gets no work, unless its owner resumes it before."""
_LOOKED_AT: Mapping[str, object] = {"set_aside_until": None, "set_aside_why": None}
CANCEL_DEADLINE_S = 6.5
"""A worker that has not reported a cancelled job by then loses it (7 s are promised)."""
AWAY_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """A worker's id and the token that opens its socket."""

    worker_id: str
    worker_token: str


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker with what is free on it now, and whether it may run the jobs of others."""

    worker: Worker
    free: Resources
    running: int
    load: float | None
    serves_others: bool
    why: str | None = None
    """Why it gets less work than it offers, or none, for a person."""


class Workers:
    """The use cases around workers; also what their sessions call (`SessionEvents`)."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        policy: Policy,
        *,
        dispatcher: Dispatcher,
        recorder: Recorder,
        tasks: Tasks,
        committed: Callable[[Outcome], None],
    ) -> None:
        """`committed` hears what was done to jobs."""
        self._database = database
        self._bus = bus
        self._clock = clock
        self._policy = policy
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._tasks = tasks
        self._committed = committed
        self._admission = Admission(clock, policy)
        self._conduct = Conduct()
        self._entrances = WeakValueDictionary[str, asyncio.Lock]()

    # -------------------------------------------------------------- letting workers in

    async def register(
        self,
        who: Principal,
        name: str,
        capabilities: Capabilities,
        worker_id: str | None,
        owner_id: str | None,
    ) -> RegisteredWorker:
        """Make a worker of the caller's, or give a new token to one."""
        who.need(Scope.WORKERS)
        if owner_id and owner_id != who.user_id:
            raise Denied("owner_id is another user: a worker belongs to who registers it")
        greeting = Greeting(worker_id, name, "", capabilities, (), ())

        def operation(connection: Connection) -> RegisteredWorker:
            worker = self._admission.enrol(connection, who, greeting)
            return RegisteredWorker(worker.worker_id, self._admission.new_token(connection, worker))

        return await self._database.write(operation)

    async def connect(self, who: Principal, greeting: Greeting) -> Session:
        """Let a worker in: with its own token, or with a user's, which makes it one.

        Leases it does not name are lost at once; the session says which it keeps. Raises `Denied`
        when it will never be let in, `Unavailable` when trying again may help.
        """
        if who.kind is not TokenKind.WORKER:
            who.need(Scope.WORKERS)
        elif greeting.worker_id not in (None, who.worker_id):
            raise Denied("This token belongs to another worker: remove the state folder to enrol")
        session_id = self._clock.new_id()
        known = who.worker_id or greeting.worker_id or session_id
        # One at a time: the connection that stays must be the one that the row names.
        async with self._entrances.setdefault(known, asyncio.Lock()):
            entry = await self._database.write(
                lambda connection: self._admission.enter(connection, who, greeting, session_id)
            )
            session = Session(
                session_id=session_id,
                worker=entry.worker,
                recorder=self._recorder,
                clock=self._clock,
                events=self,
            )
            session.worker_token = entry.token
            session.keep = tuple(kept for kept, _, _ in entry.keep)
            session.drop = tuple(entry.drop)
            await self._seat(session, entry)
        self._committed(entry.outcome)
        _log.info(
            "worker_connected",
            worker=session.worker_id,
            owner=session.worker.owner_id,
            kept=len(session.keep),
            dropped=len(session.drop),
        )
        return session

    async def _seat(self, session: Session, entry: Entry) -> None:
        now = self._clock.monotonic()
        for kept, job, attempt in entry.keep:
            if attempt.status.live:
                age_s = max(0.0, (self._clock.now() - attempt.assigned_at) / 1e6)
                price = float(job.terms.price_per_second)
                session.hold(
                    Live(
                        kept.key,
                        job.user_id,
                        entry.resources[job.job_id],
                        price,
                        now - age_s,
                        job.terms.limit_us,
                    )
                )
        # Only now, when what it runs is counted, may the dispatcher see its room.
        old = self._dispatcher.sessions.get(session.worker_id)
        self._dispatcher.sessions[session.worker_id] = session
        if old is not None:
            await old.disconnect("replaced", retry=False)
            if session.closed:
                return  # ended as well in the meantime
        self._tell_set_aside(session)
        for kept, job, attempt in entry.keep:
            if job.cancel_requested and attempt.lease in session.live:
                self._send_cancel(session, kept.key)
        floor = self._policy.sandbox_at_least
        if not reaches(session.worker.capabilities.sandboxes, floor):
            session.order(
                ControlOrder(
                    "broadcast",
                    f"Others' jobs run in {floor} or stronger on this grid, which this worker does "
                    "not offer: it runs its owner's jobs only.",
                )
            )
        session.start()
        self._bus.publish(QUEUES)

    # -------------------------------------------------------------- what sessions need done

    async def ended(self, session: Session) -> None:
        """A connection is over; its leases live on until they run out."""
        current = self._dispatcher.sessions.get(session.worker_id)
        if current is session:
            del self._dispatcher.sessions[session.worker_id]
        for live in session.live.values():
            self._dispatcher.used(live)
        _log.info("worker_disconnected", worker=session.worker_id, live=len(session.live))
        silent_s = self._clock.monotonic() - session.heard_s
        heard_at = self._clock.now() - round(silent_s * MICROSECONDS)
        try:
            await self._database.write(
                lambda c: workers.end_session(c, session.worker_id, session.session_id, heard_at)
            )
        except Exception as error:  # noqa: BLE001  (the reaper ends it when the store is back)
            _log.warning("session_end_not_stored", worker=session.worker_id, error=str(error))

    async def paused(self, session: Session, paused: bool) -> None:
        """The owner paused or resumed at the machine."""
        values: Mapping[str, object] = {"paused": True}
        if not paused:
            self._conduct.forgive(session.worker_id)
            values = {"paused": False, **_LOOKED_AT}
        await self._update(session.worker_id, values)

    async def leaving(self, session: Session) -> None:
        """Its attempts are handed over; they do not count to `max_attempts`."""
        await self._lose_all(session.worker_id, counted=False)

    def released(self, session: Session, lease: str) -> None:
        """An attempt is over: its room is free."""
        live = session.release(lease)
        if live is not None:
            self._dispatcher.used(live)
            self._bus.publish(QUEUES)

    # -------------------------------------------------------------- ending attempts from here

    def after(self, outcome: Outcome) -> None:
        """Tell workers what a committed transaction means for the attempts they hold."""
        for attempt, _ in outcome.ended:
            session = self._dispatcher.sessions.get(attempt.worker_id)
            if session is None or attempt.lease not in session.live:
                continue
            if attempt.usage is not None:
                continue  # the worker's own report: it is acknowledged
            key = session.live[attempt.lease].key
            started = attempt.started_at is not None
            session.order(LeaseOrder("drop" if started else "take_back", key))
            self.released(session, attempt.lease)
        for job in outcome.cancelling:
            session = self._dispatcher.sessions.get(job.worker_id or "")
            if session is not None and job.lease is not None and job.lease in session.live:
                self._send_cancel(session, session.live[job.lease].key)
        self._judge_conduct(outcome)

    def _judge_conduct(self, outcome: Outcome) -> None:
        """Set workers aside whose latest attempts speak against them."""
        policy = self._policy
        instant_us = round((policy.lease_s + policy.heartbeat_s) * MICROSECONDS)
        ends = [end_of(attempt, job.user_id, instant_us) for attempt, job in outcome.ended]
        for worker_id, why in self._conduct.note(ends).items():
            self._tasks.start(f"set-aside-{worker_id}", self._set_aside(worker_id, why))

    async def _set_aside(self, worker_id: str, why: str) -> None:
        until = self._clock.now() + round(SET_ASIDE_S * MICROSECONDS)
        session = self._dispatcher.sessions.get(worker_id)
        if session is not None:  # at once: it has room for as many as it fails
            session.refresh(replace(session.worker, set_aside_until=until, set_aside_why=why))
        try:
            await self._update(worker_id, {"set_aside_until": until, "set_aside_why": why})
        except Unavailable:
            _log.warning("set_aside_not_stored", worker=worker_id)
        _log.warning("worker_set_aside", worker=worker_id, why=why)
        if session is not None:
            self._tell_set_aside(session)

    def _tell_set_aside(self, session: Session) -> None:
        """Tell whoever sits at the worker, if it is set aside."""
        its = session.worker
        if its.set_aside_until is not None:
            until = to_rfc3339(its.set_aside_until)
            text = f"This worker gets no work until {until} or until you resume it: "
            session.order(ControlOrder("broadcast", f"{text}{its.set_aside_why}."))

    def _send_cancel(self, session: Session, key: LeaseKey) -> None:
        if key.lease in session.told_to_cancel:
            return
        session.told_to_cancel.add(key.lease)
        session.order(LeaseOrder("cancel", key))
        if not self._tasks.closed:  # a coordinator that stops leaves the deadline to its next life
            self._tasks.start(f"cancel-{key.job_id}", self._cancel_deadline(session, key))

    async def _cancel_deadline(self, session: Session, key: LeaseKey) -> None:
        await self._clock.sleep(CANCEL_DEADLINE_S)
        while not session.closed and key.lease in session.live:
            try:
                await self._lose(session.worker_id, [key.lease])
            except Unavailable:
                await self._clock.sleep(AWAY_WAIT_S)
            else:
                return

    async def _lose(self, worker_id: str, leases: Sequence[str], *, counted: bool = True) -> None:
        """These leases of a worker are over."""

        def operation(connection: Connection) -> Outcome:
            changes = Changes(connection, self._clock.now(), self._clock.new_id)
            for job, attempt in attempts.lock_by_leases(connection, leases).values():
                live = attempt.status in (AttemptStatus.ASSIGNED, AttemptStatus.RUNNING)
                if live and attempt.worker_id == worker_id and job.lease == attempt.lease:
                    changes.lose(job, attempt, counted=counted)
            return changes.save()

        self._committed(await self._database.write(operation))

    async def _lose_all(self, worker_id: str, *, counted: bool) -> None:
        leases = await self._database.read(
            lambda connection: attempts.live_leases_of_worker(connection, worker_id)
        )
        if leases:
            await self._lose(worker_id, leases, counted=counted)

    # -------------------------------------------------------------- owners and administrators

    async def list_workers(
        self, who: Principal, limit: int, cursor: str | None
    ) -> Page[WorkerState]:
        """All workers, by id."""
        who.need(Scope.WORKERS)
        found = await self._database.read(
            lambda connection: workers.list_workers(connection, limit + 1, cursor)
        )
        more = len(found) > limit
        found = found[:limit]
        return Page(
            tuple(self._state(worker) for worker in found), found[-1].worker_id if more else None
        )

    async def get(self, who: Principal, worker_id: str) -> WorkerState:
        """One worker."""
        who.need(Scope.WORKERS)
        worker = await self._database.read(
            lambda connection: workers.find_worker(connection, worker_id)
        )
        if worker is None:
            raise NotFound("There is no such worker")
        return self._state(worker)

    def _state(self, worker: Worker) -> WorkerState:
        offer = worker.capabilities
        serves_others = worker.admitted and reaches(offer.sandboxes, self._policy.sandbox_at_least)
        session = self._dispatcher.sessions.get(worker.worker_id)
        if session is None:
            return WorkerState(
                worker, offer.resources, 0, None, serves_others, worker.set_aside_why
            )
        why = worker.set_aside_why or _why_withheld(session.withheld)
        return WorkerState(
            worker, session.free, len(session.live), session.load, serves_others, why
        )

    async def pause(self, who: Principal, worker_id: str) -> WorkerState:
        """Give it no more work until it is resumed."""
        return await self._control(who, worker_id, {"paused": True}, ControlOrder("pause"))

    async def resume(self, who: Principal, worker_id: str) -> WorkerState:
        """Give it work again, also where the grid had set it aside."""
        values = {"paused": False, **_LOOKED_AT}
        state = await self._control(who, worker_id, values, ControlOrder("resume"))
        self._conduct.forgive(worker_id)
        return state

    async def drain(self, who: Principal, worker_id: str) -> WorkerState:
        """Let it finish what it runs and leave."""
        return await self._control(who, worker_id, {"draining": True}, ControlOrder("drain"))

    async def suspend(self, who: Principal, worker_id: str) -> WorkerState:
        """Administrator: no more work; what runs there ends and is paid."""
        return await self._judge(who, worker_id, "suspend", Standing.SUSPENDED)

    async def unsuspend(self, who: Principal, worker_id: str) -> WorkerState:
        """Administrator: in good standing again, after a suspension, a ban, or set aside."""
        state = await self._judge(who, worker_id, "unsuspend", Standing.GOOD)
        self._conduct.forgive(worker_id)
        return state

    async def ban(self, who: Principal, worker_id: str) -> WorkerState:
        """Administrator: thrown out; what runs there is lost and unpaid."""
        state = await self._judge(who, worker_id, "ban", Standing.BANNED)
        # It is not heard any more when its attempts are lost: no result comes behind that.
        session = self._dispatcher.sessions.get(worker_id)
        if session is not None:
            await session.disconnect("This worker is banned: ask an administrator", retry=False)
        await self._lose_all(worker_id, counted=True)
        return replace(state, free=state.worker.capabilities.resources, running=0)

    async def disconnect(self, who: Principal, worker_id: str) -> WorkerState:
        """Administrator: end its connection; it may come back."""
        state = await self._audited(who, worker_id, "disconnect", {})
        session = self._dispatcher.sessions.get(worker_id)
        if session is not None:
            await session.disconnect("An administrator ended the connection", retry=True)
        return state

    async def admit(self, who: Principal, worker_id: str) -> WorkerState:
        """Administrator: it may run others' jobs."""
        return await self._audited(who, worker_id, "admit", {"admitted": True})

    async def broadcast(self, who: Principal, text: str) -> int:
        """Administrator: a word to everybody at a worker; to how many it went."""
        who.need(Scope.ADMIN)
        await self._database.write(
            lambda c: users.insert_audit(c, self._clock.now(), who.user_id, "broadcast", text)
        )
        sessions = list(self._dispatcher.sessions.values())
        for session in sessions:
            session.order(ControlOrder("broadcast", text))
        return len(sessions)

    async def _control(
        self, who: Principal, worker_id: str, values: Mapping[str, object], order: ControlOrder
    ) -> WorkerState:
        who.need(Scope.WORKERS)
        state = await self.get(who, worker_id)
        who.need_user(state.worker.owner_id)
        worker = await self._update(worker_id, values)
        session = self._dispatcher.sessions.get(worker_id)
        if session is not None:
            session.order(order)
        return self._state(worker)

    async def _judge(
        self, who: Principal, worker_id: str, action: str, standing: Standing
    ) -> WorkerState:
        values: Mapping[str, object] = {"standing": standing.value}
        if standing is Standing.GOOD:
            values = {**values, **_LOOKED_AT}
        return await self._audited(who, worker_id, action, values)

    async def _audited(
        self, who: Principal, worker_id: str, action: str, values: Mapping[str, object]
    ) -> WorkerState:
        who.need(Scope.ADMIN)

        def operation(connection: Connection) -> Worker:
            if workers.lock_worker(connection, worker_id) is None:
                raise NotFound("There is no such worker")
            if values:
                workers.update_worker(connection, worker_id, values)
            users.insert_audit(connection, self._clock.now(), who.user_id, action, worker_id)
            worker = workers.find_worker(connection, worker_id)
            assert worker is not None
            return worker

        worker = await self._database.write(operation)
        self._refresh(worker)
        return self._state(worker)

    async def _update(self, worker_id: str, values: Mapping[str, object]) -> Worker:
        def operation(connection: Connection) -> Worker:
            workers.update_worker(connection, worker_id, values)
            worker = workers.find_worker(connection, worker_id)
            assert worker is not None
            return worker

        worker = await self._database.write(operation)
        self._refresh(worker)
        return worker

    def _refresh(self, worker: Worker) -> None:
        session = self._dispatcher.sessions.get(worker.worker_id)
        if session is not None:
            session.refresh(worker)
            self._bus.publish(QUEUES)

    async def end_sessions_of(self, user_id: str) -> None:
        """A suspended user's workers are disconnected."""
        for session in list(self._dispatcher.sessions.values()):
            if session.worker.owner_id == user_id:
                await session.disconnect(
                    f"User {user_id} is suspended: ask an administrator", retry=False
                )


def _why_withheld(withheld: Resources) -> str | None:
    """What a worker's heartbeats say of room that it does not give out."""
    if withheld == NOTHING:
        return None
    return (
        f"it withholds {withheld.cpus:g} cpus, {withheld.memory_mb} MB of memory and "
        f"{withheld.disk_mb} MB of disk: its disk or spool is full, or programs that do not end "
        "hold them"
    )
