"""Jobs: submitting, reading, waiting for, cancelling and retrying them."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gridx.bus.base import Bus, job_topic, user_topic
from gridx.clock import Clock
from gridx.coordinator.attempts import Changes, Outcome
from gridx.coordinator.idempotency import IdempotencyKey, once
from gridx.coordinator.watch import visible_job
from gridx.domain.attempt import Attempt
from gridx.domain.errors import (
    Conflict,
    Denied,
    Detail,
    GridError,
    NotFound,
    Unauthenticated,
    named_from,
)
from gridx.domain.job import (
    FINAL,
    Job,
    JobSpec,
    JobState,
    JobStatus,
    Limits,
    Next,
    without_past_times,
)
from gridx.domain.ledger import Kind, Movement, available, held
from gridx.domain.matching import Shape, shape_of
from gridx.domain.page import Page, number_of_cursor
from gridx.domain.policy import Policy, check_ceilings, check_deadline
from gridx.domain.pricing import Receipt, receipt_of, terms_of
from gridx.domain.user import Principal, Scope
from gridx.storage import attempts, events, jobs, ledger, users
from gridx.storage.database import Connection, Database
from gridx.storage.events import Happening
from gridx.storage.jobs import NewJob

SHOWN_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that was accepted: held credits and the limit of one attempt."""

    job_id: str
    status: JobStatus
    held: int
    limit_us: int


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """Jobs that were accepted together."""

    batch_id: str
    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which of a user's jobs to list."""

    status: JobStatus | None = None
    name: str | None = None
    tag: str | None = None
    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class WholeJob:
    """A job with its attempts, the first 64 KiB of each stream, and its receipt when final."""

    job: Job
    attempts: tuple[Attempt, ...]
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    receipt: Receipt | None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Where a job stands after a cancel."""

    job_id: str
    status: JobStatus
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class _Submission:
    """Jobs of one user to be accepted together, all or none."""

    user_id: str
    jobs: tuple[NewJob, ...]
    batch_id: str | None
    key: IdempotencyKey | None
    place: str = ""
    """Where in the request the spec of a batch's job stands, by `{index}`."""

    @property
    def hold(self) -> int:
        return sum(job.terms.hold for job in self.jobs)


@dataclass(frozen=True, slots=True)
class _Accepted:
    """What an accepted submission made, in plain values that an idempotency key can keep."""

    job_ids: tuple[str, ...]
    batch_id: str | None
    held: int
    limit_us: int


class Jobs:
    """The use cases of submitters."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        policy: Policy,
        *,
        note: Callable[[str, Shape, int], None],
        put_off: Callable[[int], None],
        committed: Callable[[Outcome], None],
    ) -> None:
        """`note` hears of each queue that got work, `put_off` when a job that is held back is due,
        `committed` what cancels did.
        """
        self._database = database
        self._bus = bus
        self._clock = clock
        self._policy = policy
        self._note = note
        self._put_off = put_off
        self._committed = committed
        self._backlog = _Backlog(policy.queued_jobs_per_user)

    # -------------------------------------------------------------- submitting

    @property
    def usual_limits(self) -> Limits:
        """Those of a job that asks for none."""
        return self._policy.usual_limits

    async def submit(
        self,
        who: Principal,
        spec: JobSpec,
        user_id: str | None,
        key: IdempotencyKey | None,
        traceparent: str | None,
    ) -> Submitted:
        """Accept a job and take its hold, both or neither.

        Raises `InvalidInput`, `Denied` for another's name, `InsufficientCredits`.
        """
        new = self._new_job(who, spec, None, None, traceparent)
        submission = _Submission(who.user_id, (new,), None, key)
        self._may_submit(who, submission, [user_id])
        return _single(await self._accept(submission))

    async def submit_batch(
        self,
        who: Principal,
        specs: Sequence[JobSpec],
        key: IdempotencyKey | None,
        traceparent: str | None,
        *,
        user_ids: Sequence[str | None] = (),
        place: str = "jobs.{index}.",
    ) -> SubmittedBatch:
        """Accept all of these jobs or none.

        `user_ids` are those named by the specs of the request, and `place` where these stand in it.
        """
        batch_id = self._clock.new_id()
        new: list[NewJob] = []
        with named_from(lambda: place.format(index=len(new))):
            new.extend(self._new_job(who, spec, batch_id, None, traceparent) for spec in specs)
        submission = _Submission(who.user_id, tuple(new), batch_id, key, place)
        self._may_submit(who, submission, user_ids)
        accepted = await self._accept(submission)
        assert accepted.batch_id is not None
        return SubmittedBatch(accepted.batch_id, accepted.job_ids)

    async def retry(self, who: Principal, job_id: str, key: IdempotencyKey | None) -> Submitted:
        """Submit a final job's spec again, as a new job; times that have passed are left out."""
        who.need(Scope.JOBS)
        job = await self._find(who, job_id)
        if job.user_id != who.user_id:
            raise Denied("Only its submitter may retry a job: it is charged to them")
        if job.status not in FINAL:
            raise Conflict(f"The job is {job.status}: cancel it or wait for its end to retry it")
        spec = without_past_times(job.spec, self._clock.now())
        new = self._new_job(who, spec, None, job_id, None)
        return _single(await self._accept(_Submission(who.user_id, (new,), None, key)))

    def _may_submit(
        self, who: Principal, submission: _Submission, user_ids: Sequence[str | None]
    ) -> None:
        try:
            who.need(Scope.JOBS)
            for index, user_id in enumerate(user_ids):
                if user_id and user_id != who.user_id:
                    field = f"{submission.place.format(index=index)}user_id"
                    message = "jobs are submitted in one's own name"
                    raise Denied(f"{field}: {message}", [Detail(field, message)])
        except Denied:
            # What is wrong with a job is said first. Where nothing is denied it has time until the
            # transaction, which knows whether this request came before its deadline too.
            _need_future_deadlines(submission, self._clock.now())
            raise

    def _new_job(
        self,
        who: Principal,
        spec: JobSpec,
        batch_id: str | None,
        retry_of: str | None,
        traceparent: str | None,
    ) -> NewJob:
        check_ceilings(spec, self._policy)
        return NewJob(
            job_id=self._clock.new_id(),
            user_id=who.user_id,
            spec=spec,
            terms=terms_of(spec, self._policy.tariff),
            created_at=self._clock.now(),
            batch_id=batch_id,
            retry_of=retry_of,
            traceparent=traceparent,
        )

    async def _accept(self, submission: _Submission) -> _Accepted:
        accepted = await self._database.write_each(self._submit, submission)
        user_id, specs = submission.user_id, [job.spec for job in submission.jobs]
        for shape, priority in {shape_of(spec): spec.priority for spec in specs}.items():
            self._note(user_id, shape, priority)
        if held_back := [at for spec in specs if (at := spec.not_before) is not None]:
            self._put_off(min(held_back))
        self._bus.publish(user_topic(user_id))
        return accepted

    def _submit(
        self, connection: Connection, submissions: Sequence[_Submission]
    ) -> Sequence[_Accepted | GridError]:
        """Hold and insert for many submissions with a fixed number of statements."""
        user_ids = {s.user_id for s in submissions}
        book = ledger.open_book(connection, user_ids)
        active = users.lock_active(connection, user_ids)
        self._backlog.refresh(connection, user_ids, self._clock.monotonic())
        accepted: list[NewJob] = []
        now = self._clock.now()

        def accept(submission: _Submission) -> _Accepted:
            if submission.user_id not in active:
                raise Unauthenticated(f"User {submission.user_id} is suspended")
            _need_future_deadlines(submission, now)
            self._backlog.need(submission.user_id, len(submission.jobs))
            book.need(submission.user_id, submission.hold)
            source, target = available(submission.user_id), held(submission.user_id)
            for job in submission.jobs:
                book.move(
                    Movement(
                        self._clock.new_id(),
                        job.created_at,
                        Kind.HOLD,
                        source,
                        target,
                        job.terms.hold,
                        job.job_id,
                    )
                )
            accepted.extend(submission.jobs)
            first = submission.jobs[0].terms
            ids = tuple(job.job_id for job in submission.jobs)
            return _Accepted(ids, submission.batch_id, first.hold, first.limit_us)

        results: list[_Accepted | GridError] = []
        for submission in submissions:
            try:
                results.append(
                    once(
                        connection,
                        submission.key,
                        now,
                        _Accepted,
                        lambda submission=submission: accept(submission),
                    )
                )
            except GridError as refusal:
                results.append(refusal)
        if accepted:
            jobs.insert_jobs(connection, accepted)
            ledger.post(connection, book)
            events.append(
                connection,
                [Happening(j.user_id, j.created_at, j.job_id, JobStatus.QUEUED) for j in accepted],
            )
        return results

    # -------------------------------------------------------------- reading

    async def get(self, who: Principal, job_id: str) -> WholeJob:
        """A job with everything about it. Raises `NotFound`, `Denied` for another's.

        Of output that has aged out nothing is left: both streams are empty and truncated.
        """
        who.need(Scope.JOBS)
        whole = await self._database.read(lambda connection: _whole(connection, who, job_id))
        if self._policy.retention.output_is_gone(whole.job.finished_at, self._clock.now()):
            return dataclasses.replace(
                whole, stdout=b"", stderr=b"", stdout_truncated=True, stderr_truncated=True
            )
        return whole

    async def list_jobs(
        self, who: Principal, chosen: JobFilter, limit: int, cursor: str | None
    ) -> Page[Job]:
        """The caller's jobs, newest first."""
        before = number_of_cursor(cursor)
        who.need(Scope.JOBS)
        where = {
            "status": None if chosen.status is None else chosen.status.value,
            "name": chosen.name,
            "batch_id": chosen.batch_id,
        }
        found = await self._database.read(
            lambda c: jobs.list_jobs(
                c, who.user_id, where, tag=chosen.tag, limit=limit + 1, before=before
            )
        )
        more = len(found) > limit
        found = found[:limit]
        return Page(tuple(found), str(found[-1].number) if more else None)

    async def wait(self, who: Principal, job_id: str, timeout_s: float) -> WholeJob:
        """The job when it is final, or as it is after `timeout_s`."""
        who.need(Scope.JOBS)
        listener = self._bus.listen(job_topic(job_id))
        deadline = self._clock.monotonic() + timeout_s
        try:
            while True:
                job = await self._find(who, job_id)
                left = deadline - self._clock.monotonic()
                if job.status in FINAL or left <= 0:
                    return await self.get(who, job_id)
                await listener.wait(min(left, 2.0))
        finally:
            listener.close()

    async def _find(self, who: Principal, job_id: str) -> Job:
        return await self._database.read(lambda connection: visible_job(connection, who, job_id))

    # -------------------------------------------------------------- cancelling

    async def cancel(self, who: Principal, job_id: str) -> Cancelled:
        """End a job: at once and free while it waits, by its worker when it runs.

        Raises `Conflict` when it is final already.
        """
        who.need(Scope.JOBS)

        def operation(connection: Connection) -> tuple[JobState, Outcome]:
            visible_job(connection, who, job_id)
            state = jobs.lock_jobs(connection, [job_id])[job_id]
            if state.status in FINAL:
                raise Conflict(f"The job is {state.status} already")
            return self._cancel(connection, [state])

        state, outcome = await self._database.write(operation)
        self._committed(outcome)
        return Cancelled(job_id, state.status, state.cancel_requested)

    async def cancel_batch(self, who: Principal, batch_id: str) -> int:
        """Cancel all jobs of a batch that are not final; how many those were."""
        who.need(Scope.JOBS)
        owner = None if who.is_admin else who.user_id

        def operation(connection: Connection) -> tuple[int, Outcome]:
            if not jobs.batch_exists(connection, owner, batch_id):
                raise NotFound("There is no such batch")
            states = [
                state
                for state in jobs.lock_unfinished_of_batch(connection, owner, batch_id)
                if not state.cancel_requested
            ]
            if not states:
                return 0, Outcome()
            return len(states), self._cancel(connection, states)[1]

        count, outcome = await self._database.write(operation)
        self._committed(outcome)
        return count

    async def cancel_all_of(self, user_id: str) -> None:
        """Cancel what a suspended user has queued; what runs goes on."""
        more = True
        while more:

            def operation(connection: Connection) -> tuple[bool, Outcome]:
                states = jobs.lock_queued_of_user(connection, user_id, 1_000)
                if not states:
                    return False, Outcome()
                return len(states) == 1_000, self._cancel(connection, states)[1]

            more, outcome = await self._database.write(operation)
            self._committed(outcome)

    def _cancel(
        self, connection: Connection, states: Sequence[JobState]
    ) -> tuple[JobState, Outcome]:
        """Cancel locked jobs; the first of them as it is then, and what was done."""
        changes = Changes(connection, self._clock.now(), self._clock.new_id)
        leases = [s.lease for s in states if s.lease is not None and s.status is JobStatus.QUEUED]
        assigned = {
            state.number: attempt
            for state, attempt in attempts.lock_by_leases(connection, leases).values()
        }
        for state in states:
            if state.status is JobStatus.RUNNING:
                if not state.cancel_requested:
                    changes.request_cancel(state)
                continue
            waiting = state
            if (attempt := assigned.get(state.number)) is not None:
                changes.take_back(state, attempt)
                waiting = changes.job(state)
            changes.finish(waiting, Next(JobStatus.CANCELLED))
        outcome = changes.save()
        # Also those asked before: the worker may not have been told, if the database went away.
        outcome.cancelling = [changes.job(s) for s in states if s.status is JobStatus.RUNNING]
        return changes.job(states[0]), outcome


class _Backlog:
    """How many jobs of each user wait, counted now and then and estimated in between."""

    _AGE_S = 30.0

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[str, tuple[int, float]] = {}

    def refresh(self, connection: Connection, user_ids: set[str], now_s: float) -> None:
        """Count again for those whose count is old."""
        old = {
            u for u in user_ids if u not in self._counts or now_s - self._counts[u][1] > self._AGE_S
        }
        if old:
            found = jobs.count_waiting(connection, old)
            for user_id in old:
                self._counts[user_id] = (found.get(user_id, 0), now_s)

    def need(self, user_id: str, count: int) -> None:
        """Raises `Conflict` when `count` more would be too many; else counts them."""
        have, at = self._counts[user_id]
        if have + count > self._limit:
            self._counts.pop(user_id)
            raise Conflict(
                f"At most {self._limit:,} jobs may wait at a time: wait for some of them to end"
            )
        self._counts[user_id] = (have + count, at)


def _single(accepted: _Accepted) -> Submitted:
    return Submitted(accepted.job_ids[0], JobStatus.QUEUED, accepted.held, accepted.limit_us)


def _need_future_deadlines(submission: _Submission, now: int) -> None:
    """Raises `InvalidInput` for a deadline that has passed; an answer that is kept is no matter."""
    for index, job in enumerate(submission.jobs):
        if job.spec.deadline is not None:
            with named_from(partial(submission.place.format, index=index)):
                check_deadline(job.spec.deadline, now)


def _whole(connection: Connection, who: Principal, job_id: str) -> WholeJob:
    job = visible_job(connection, who, job_id)
    tried = attempts.attempts_of(connection, job.number, job_id)
    shown: list[tuple[bytes, bool]] = [(b"", False), (b"", False)]
    newest = attempts.newest_attempt_with_output(connection, job.number) if tried else None
    if newest is not None:
        shown = [
            attempts.read_first_bytes(connection, job.number, newest, stream, SHOWN_BYTES)
            for stream in ("stdout", "stderr")
        ]
    (stdout, more_out), (stderr, more_err) = shown
    return WholeJob(job, tried, stdout, stderr, more_out, more_err, receipt_of(job, tried))
