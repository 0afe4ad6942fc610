"""Attempts: every change of a job that has been placed, its billing included, in one transaction.

`Changes` collects what a transaction does to locked jobs and attempts and saves it with a fixed
number of statements: jobs, attempts, transfers, balances, events. All that ends jobs goes through it
(reports of workers, cancels, lost leases, expiry), so that a hold is resolved in one place only.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from gridx.bus.base import QUEUES, Bus, job_topic, user_topic
from gridx.clock import share_of
from gridx.domain.attempt import LOST, TAKEN_BACK, Attempt, AttemptStatus, Ending, Usage
from gridx.domain.job import (
    FINAL,
    JobState,
    JobStatus,
    Next,
    RetryRule,
    after_attempt,
    backoff_s,
    with_failure,
    without_loss,
)
from gridx.domain.ledger import FEES, Book, Kind, Movement, available, held
from gridx.domain.matching import shunning
from gridx.domain.pricing import Bill, Settlement, billed_us, ended_by_itself, settle
from gridx.storage import attempts as stored_attempts
from gridx.storage import events, jobs, ledger
from gridx.storage.database import Connection
from gridx.storage.events import Happening

SECOND_US = 1_000_000


@dataclass(slots=True)
class Outcome:
    """What a committed transaction did, for those who must be told."""

    user_ids: set[str] = field(default_factory=set[str])
    job_ids: set[str] = field(default_factory=set[str])
    ended: list[tuple[Attempt, JobState]] = field(default_factory=list[tuple[Attempt, JobState]])
    started: list[JobState] = field(default_factory=list[JobState])
    final: list[JobState] = field(default_factory=list[JobState])
    cancelling: list[JobState] = field(default_factory=list[JobState])
    requeued: bool = False
    due_at: int | None = None
    """When the first of the jobs is due that were put off."""
    told: bool = False
    """Whether it was told already, where several callers share a transaction."""

    def publish(self, bus: Bus) -> None:
        """Hint at those who wait for these jobs."""
        for user_id in self.user_ids:
            bus.publish(user_topic(user_id))
        for job_id in self.job_ids:
            bus.publish(job_topic(job_id))
        if self.requeued:
            bus.publish(QUEUES)


def acceptable(job: JobState, attempt: Attempt) -> bool:
    """Whether a report of this attempt still counts.

    It does while its lease is the job's, and, for an attempt that was lost, while its job waits and
    has no newer attempt.
    """
    if attempt.status.live:
        return job.lease == attempt.lease
    return (
        attempt.status is AttemptStatus.LOST
        and job.unassigned
        and not job.cancel_requested
        and job.attempt == attempt.number
    )


class Changes:
    """What one transaction does to jobs and attempts it has locked. `save` comes last."""

    def __init__(self, connection: Connection, now: int, new_id: Callable[[], str]) -> None:
        self._connection = connection
        self._now = now
        self._new_id = new_id
        self._jobs: dict[int, tuple[JobState, JobState]] = {}
        self._attempts: dict[str, tuple[Attempt, Attempt]] = {}
        self._happenings: list[Happening] = []
        self.outcome = Outcome()

    def job(self, locked: JobState) -> JobState:
        """The job as this transaction has left it so far."""
        return self._jobs.get(locked.number, (locked, locked))[1]

    def attempt(self, locked: Attempt) -> Attempt:
        """The attempt as this transaction has left it so far."""
        return self._attempts.get(locked.lease, (locked, locked))[1]

    def start(self, job: JobState, attempt: Attempt, sandbox: str | None, at: int) -> None:
        """The attempt's program runs since `at`."""
        assert attempt.status is AttemptStatus.ASSIGNED and job.lease == attempt.lease
        running = replace(attempt, status=AttemptStatus.RUNNING, started_at=at, sandbox=sandbox)
        self._set_attempt(attempt, running)
        after = replace(job, status=JobStatus.RUNNING, started_at=at, worker_id=attempt.worker_id)
        self._set_job(job, after)
        self.outcome.started.append(after)
        self._happened(after, attempt.number)

    def end(
        self,
        job: JobState,
        attempt: Attempt,
        ending: Ending,
        *,
        usage: Usage | None = None,
        observed_us: int = 0,
        counted: bool = True,
    ) -> None:
        """The attempt ended; its job becomes final or waits again."""
        billed = 0
        if usage is not None:
            if ending.status is AttemptStatus.CANCELLED:
                observed_us = min(observed_us, self._until_cancel_us(job, attempt))
            billed = billed_us(
                ending.status,
                ending.reason,
                own_worker=attempt.owner_id == job.user_id,
                reported_us=round(usage.wall_s * SECOND_US),
                limit_us=job.terms.limit_us,
                observed_us=observed_us,
            )
        late = attempt.status is AttemptStatus.LOST
        if attempt.started_at is None and usage is not None:
            if ended_by_itself(ending.status, ending.reason):
                # Its `started` was lost with the connection.
                attempt = replace(attempt, started_at=attempt.assigned_at)
        ended = replace(
            attempt,
            status=ending.status,
            reason=ending.reason,
            exit_code=ending.exit_code,
            counted=counted,
            finished_at=self._now,
            usage=usage,
            billed_us=billed,
        )
        self._set_attempt(attempt, ended)
        # A late result of an attempt that was counted when it was lost is not counted twice.
        counts = job.attempts_counted + (1 if counted and not (late and attempt.counted) else 0)
        free = replace(job, attempts_counted=counts, lease=None)
        if late:
            free = replace(free, failures=without_loss(free.failures, attempt.worker_id))
        if counted:
            free = _blaming(free, attempt.worker_id, ending)
        self._set_job(job, free)
        self.outcome.ended.append((ended, free))
        lost_on = sum(failure.lost for failure in free.failures)
        rule = RetryRule(job.max_attempts, job.retry_on_failure, counts, lost_on)
        step = after_attempt(ending, rule, job.cancel_requested)
        if step.status is JobStatus.QUEUED and counted:
            free = self._put_off(free, ending)
        self._go(free, step, attempt, ending.exit_code)

    def lose(self, job: JobState, attempt: Attempt, *, counted: bool = True) -> None:
        """The attempt's lease is over, unbilled."""
        self.end(job, attempt, LOST, counted=counted)

    def take_back(self, job: JobState, attempt: Attempt) -> None:
        """The attempt is revoked before it started, uncounted."""
        self.end(job, attempt, TAKEN_BACK, counted=False)

    def finish(self, job: JobState, step: Next) -> None:
        """A job that no worker holds becomes final."""
        assert job.lease is None and step.status in FINAL
        self._go(job, step, None, None)

    def request_cancel(self, job: JobState) -> None:
        """A running job is to be cancelled; its worker is told afterwards."""
        assert job.status is JobStatus.RUNNING
        after = replace(job, cancel_requested=True)
        self._set_job(job, after)
        self._happened(after, job.attempt)

    def save(self) -> Outcome:
        """Resolve the holds of final jobs and store everything."""
        final = [after for _, after in self._jobs.values() if after.status in FINAL]
        settled = self._settle(final) if final else {}
        changes = [
            (before, settled.get(number, after)) for number, (before, after) in self._jobs.items()
        ]
        self.outcome.final = list(settled.values())
        jobs.save_jobs(self._connection, changes)
        stored_attempts.save_attempts(self._connection, list(self._attempts.values()))
        if self._book is not None:
            ledger.post(self._connection, self._book)
        events.append(self._connection, self._happenings)
        self.outcome.user_ids |= {h.user_id for h in self._happenings}
        self.outcome.job_ids |= {h.job_id for h in self._happenings}
        return self.outcome

    # -------------------------------------------------------------- below: how it is done

    def _until_cancel_us(self, job: JobState, attempt: Attempt) -> int:
        """How long the attempt had when its cancel was asked for: the grace is nobody's to bill."""
        asked_at = events.cancel_asked_at(self._connection, job.job_id) or self._now
        return max(0, asked_at - attempt.assigned_at)

    _book: Book | None = None

    def _go(
        self, job: JobState, step: Next, attempt: Attempt | None, exit_code: int | None
    ) -> None:
        if step.status is JobStatus.QUEUED:
            again = job.status is JobStatus.RUNNING
            after = replace(
                job,
                status=JobStatus.QUEUED,
                worker_id=None,
                started_at=None,
                queued_at=self._now if again else job.queued_at,
            )
            self._set_job(job, after)
            self.outcome.requeued = self.outcome.requeued or after.waiting
            if again:
                self._happened(after, job.attempt)
            return
        after = replace(
            job,
            status=step.status,
            reason=step.reason,
            exit_code=exit_code,
            lease=None,
            due_at=None,
            finished_at=self._now,
            worker_id=job.worker_id if attempt is None else attempt.worker_id,
            started_at=job.started_at if attempt is None else attempt.started_at,
        )
        self._set_job(job, after)
        self._happened(after, attempt.number if attempt is not None else None)

    def _put_off(self, job: JobState, ending: Ending) -> JobState:
        """The job with the time before which it is not tried again."""
        share = share_of(self._new_id())
        wait_us = round(backoff_s(ending, job.attempts_counted, share) * SECOND_US)
        if not wait_us:
            return job
        due_at = self._now + wait_us
        self.outcome.due_at = min(due_at, self.outcome.due_at or due_at)
        return replace(job, due_at=due_at)

    def _set_job(self, job: JobState, after: JobState) -> None:
        before, _ = self._jobs.get(job.number, (job, job))
        self._jobs[job.number] = (before, after)

    def _set_attempt(self, attempt: Attempt, after: Attempt) -> None:
        before, _ = self._attempts.get(attempt.lease, (attempt, attempt))
        self._attempts[attempt.lease] = (before, after)

    def _happened(self, job: JobState, attempt: int | None) -> None:
        self._happenings.append(
            Happening(
                job.user_id,
                self._now,
                job.job_id,
                job.status,
                job.reason,
                attempt,
                job.cancel_requested,
            )
        )

    def _settle(self, final: Collection[JobState]) -> dict[int, JobState]:
        """Resolve the hold of each of these jobs, each once: it was not final before."""
        history = self._history(final)
        settlements = {
            job.number: settle(job.terms, _bills(job, history.get(job.number, ()))) for job in final
        }
        owners = {owner for s in settlements.values() for owner, _ in s.rewards}
        book = ledger.open_book(self._connection, owners | {job.user_id for job in final})
        settled: dict[int, JobState] = {}
        for job in final:
            settlement = settlements[job.number]
            for movement in self._movements(job, settlement):
                book.move(movement)
            settled[job.number] = replace(
                job,
                billed_us=settlement.billed_us,
                cost=settlement.cost,
                reward=settlement.reward,
            )
        self._book = book
        return settled

    def _history(self, final: Collection[JobState]) -> dict[int, list[Attempt]]:
        """The attempts of these jobs as this transaction leaves them."""
        changed: dict[int, dict[int, Attempt]] = {}
        numbers = {job.job_id: job.number for job in final}
        for _, after in self._attempts.values():
            if after.job_id in numbers:
                changed.setdefault(numbers[after.job_id], {})[after.number] = after
        missing = [job for job in final if len(changed.get(job.number, {})) < job.attempt]
        if missing:
            for number, found in stored_attempts.attempts_of_jobs(
                self._connection, missing
            ).items():
                mine = changed.setdefault(number, {})
                for attempt in found:
                    mine.setdefault(attempt.number, attempt)
        return {number: list(found.values()) for number, found in changed.items()}

    def _movements(self, job: JobState, settlement: Settlement) -> Iterable[Movement]:
        parts = [(Kind.REWARD, available(owner), amount) for owner, amount in settlement.rewards]
        parts.append((Kind.FEE, FEES, settlement.fee))
        parts.append((Kind.RELEASE, available(job.user_id), settlement.released))
        for kind, target, amount in parts:
            if amount:
                yield Movement(
                    self._new_id(), self._now, kind, held(job.user_id), target, amount, job.job_id
                )


def _blaming(job: JobState, worker_id: str, ending: Ending) -> JobState:
    """The job with what `ending` says of the worker; it then shuns it."""
    failures = with_failure(job.failures, worker_id, ending)
    if len(failures) == len(job.failures):
        return replace(job, failures=failures)
    return replace(job, failures=failures, shape=shunning(job.shape, worker_id))


def _bills(job: JobState, history: Iterable[Attempt]) -> list[Bill]:
    return [
        Bill(a.owner_id, a.owner_id == job.user_id, a.billed_us)
        for a in history
        if a.started_at is not None and ended_by_itself(a.status, a.reason)
    ]
