"""Records what workers report: starts, output and ends of attempts, many sessions at once.

Each report is decided against the attempt's row, locked with its job; what is not the reporting
worker's, not its newest lease, or of an attempt that is over, changes nothing and is answered `drop`.
An end is acknowledged only by what comes back here, after the commit; the same end twice is
acknowledged twice, since a worker whose `ack` was lost must be able to forget it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct

from gridx.clock import Clock
from gridx.coordinator.attempts import Changes, Outcome, acceptable
from gridx.domain.attempt import Attempt, AttemptStatus, Ending, Reason, Usage, ending_of_report
from gridx.domain.job import JobState
from gridx.domain.policy import Policy
from gridx.domain.sandbox import floor_for, may_run_in
from gridx.storage import attempts
from gridx.storage.database import Connection, Database
from gridx.telemetry import get_logger

_log = get_logger(__name__)
SECOND_US = 1_000_000
_BROKEN = Ending(AttemptStatus.FAILED, Reason.SANDBOX_ERROR)


class LeaseKey(Struct, frozen=True):
    """Which attempt of which job, under which lease."""

    job_id: str
    attempt: int
    lease: str


class StartedReport(Struct, frozen=True):
    """The attempt's program runs."""

    key: LeaseKey
    sandbox: str | None


class LogReport(Struct, frozen=True):
    """The `number`-th piece of what the attempt wrote."""

    key: LeaseKey
    number: int
    stream: str
    data: bytes


class FinishedReport(Struct, frozen=True):
    """The attempt ended, with what it used in seconds and mebibytes."""

    key: LeaseKey
    exit_code: int | None
    reason: Reason | None
    wall_s: float
    cpu_s: float
    peak_memory_mb: float
    detail: str | None


LeaseReport = StartedReport | LogReport | FinishedReport


class LeaseOrder(Struct, frozen=True):
    """What a worker is to do about one lease."""

    kind: Literal["ack", "drop", "take_back", "cancel"]
    key: LeaseKey


class Observed(Struct, frozen=True):
    """A report, when it came (microseconds since the epoch), and how long after its attempt was
    sent (seconds; None when another coordinator sent it).
    """

    report: LeaseReport
    at: int
    since_s: float | None


class _Item(Struct, frozen=True):
    worker_id: str
    reports: tuple[Observed, ...]


class _Answer(Struct, frozen=True):
    orders: tuple[LeaseOrder, ...]
    outcome: Outcome


class Recorder:
    """Puts reports into the database; `committed` hears what each transaction did, once."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        policy: Policy,
        committed: Callable[[Outcome], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._policy = policy
        self._committed = committed

    async def record(self, worker_id: str, reports: tuple[Observed, ...]) -> tuple[LeaseOrder, ...]:
        """Record a worker's reports, in their order; what to answer it."""
        answer = await self._database.write_each(self._record, _Item(worker_id, reports))
        if not answer.outcome.told:
            answer.outcome.told = True
            self._committed(answer.outcome)
        return answer.orders

    def _record(self, connection: Connection, items: Sequence[_Item]) -> Sequence[_Answer]:
        locked = attempts.lock_by_leases(
            connection, [o.report.key.lease for item in items for o in item.reports]
        )
        changes = Changes(connection, self._clock.now(), self._clock.new_id)
        output = _Output(connection, locked, items)
        answers = [
            tuple(
                order
                for observed in item.reports
                if (order := self._decide(changes, output, locked, item.worker_id, observed))
            )
            for item in items
        ]
        attempts.insert_output(connection, output.rows)
        outcome = changes.save()
        outcome.job_ids |= output.job_ids
        # Whoever is answered first tells it: a session may have ended in the meantime.
        return [_Answer(orders, outcome) for orders in answers]

    def _decide(
        self,
        changes: Changes,
        output: "_Output",
        locked: dict[str, tuple[JobState, Attempt]],
        worker_id: str,
        observed: Observed,
    ) -> LeaseOrder | None:
        report = observed.report
        key = report.key
        found = locked.get(key.lease)
        if found is None or found[1].worker_id != worker_id or found[1].number != key.attempt:
            return LeaseOrder("drop", key)
        job, attempt = changes.job(found[0]), changes.attempt(found[1])
        if job.job_id != key.job_id:
            return LeaseOrder("drop", key)
        if not acceptable(job, attempt):
            again = isinstance(report, FinishedReport) and self._is_known(job, attempt, report)
            return LeaseOrder("ack" if again else "drop", key)
        match report:
            case StartedReport():
                if attempt.status is AttemptStatus.LOST and attempt.started_at is None:
                    return LeaseOrder("drop", key)
                # Of one that was lost while it ran nothing is said: its end may follow, and count.
                if attempt.status is AttemptStatus.ASSIGNED and not self._start(
                    changes, job, attempt, report.sandbox, observed.at
                ):
                    changes.end(job, attempt, _BROKEN)
            case LogReport():
                if attempt.status is not AttemptStatus.ASSIGNED:
                    output.add(job, attempt, report)
            case FinishedReport():
                self._finish(changes, job, attempt, report, observed)
                return LeaseOrder("ack", key)
        return None

    def _start(
        self, changes: Changes, job: JobState, attempt: Attempt, sandbox: str | None, at: int
    ) -> bool:
        """Note the start, unless it was in a weaker sandbox than was demanded; whether it counts."""
        if self._may_run(job, attempt, sandbox):
            changes.start(job, attempt, sandbox or attempt.sandbox, at)
            return True
        _log.warning(
            "wrong_sandbox",
            job=job.job_id,
            attempt=attempt.number,
            worker=attempt.worker_id,
            sandbox=sandbox,
            demanded=attempt.sandbox or self._policy.sandbox_at_least.value,
        )
        return False

    def _may_run(self, job: JobState, attempt: Attempt, sandbox: str | None) -> bool:
        floor = floor_for(job.user_id, attempt.owner_id, self._policy.sandbox_at_least)
        return may_run_in(sandbox, attempt.sandbox, floor)

    def _finish(
        self,
        changes: Changes,
        job: JobState,
        attempt: Attempt,
        report: FinishedReport,
        observed: Observed,
    ) -> None:
        ending = ending_of_report(report.reason, report.exit_code, job.cancel_requested)
        if ending.reason is Reason.SANDBOX_ERROR:
            _log.warning(
                "sandbox_error",
                job=job.job_id,
                attempt=attempt.number,
                worker=attempt.worker_id,
                detail=report.detail,
            )
        if attempt.status is AttemptStatus.ASSIGNED and ending.reason is not Reason.SANDBOX_ERROR:
            # Its `started` never came: it ran all the same.
            if self._start(changes, job, attempt, None, observed.at):
                job, attempt = changes.job(job), changes.attempt(attempt)
            else:
                ending = _BROKEN
        since_s = observed.since_s
        if since_s is None:
            since_s = (observed.at - attempt.assigned_at) / SECOND_US
        changes.end(
            job,
            attempt,
            ending,
            usage=_usage(report),
            observed_us=round(since_s * SECOND_US),
        )

    def _is_known(self, job: JobState, attempt: Attempt, report: FinishedReport) -> bool:
        """Whether this very end was taken before: taken again, it would be stored as it is."""
        if attempt.usage != _usage(report):
            return False
        stored = Ending(attempt.status, attempt.reason, attempt.exit_code)
        cancelled = attempt.status is AttemptStatus.CANCELLED
        if ending_of_report(report.reason, report.exit_code, cancelled) == stored:
            return True
        # It had come without a start, from a sandbox that would not do.
        unstarted = attempt.started_at is None and stored == _BROKEN
        return unstarted and not self._may_run(job, attempt, None)


def _usage(report: FinishedReport) -> Usage:
    return Usage(report.wall_s, report.cpu_s, report.peak_memory_mb).as_kept()


class _Output:
    """Collects frames of output, each once, every stream cut at its job's limit."""

    def __init__(
        self,
        connection: Connection,
        locked: dict[str, tuple[JobState, Attempt]],
        items: Sequence[_Item],
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.job_ids: set[str] = set()
        stored: set[tuple[int, int]] = set()
        keys: set[tuple[int, int]] = set()
        for item in items:
            for report in (observed.report for observed in item.reports):
                found = locked.get(report.key.lease)
                if found is not None and isinstance(report, LogReport):
                    job, attempt = found
                    keys.add((job.number, attempt.number))
                    # One that has not started yet has nothing stored.
                    if attempt.status is not AttemptStatus.ASSIGNED:
                        stored.add((job.number, attempt.number))
        written = attempts.written_so_far(connection, stored)
        self._written = {key: list(written.get(key, (0, 0, 0))) for key in keys}

    def add(self, job: JobState, attempt: Attempt, report: LogReport) -> None:
        """Store a frame, unless it is there already."""
        key = (job.number, attempt.number)
        written = self._written[key]
        which = 1 if report.stream == "stdout" else 2
        data = report.data[: max(0, job.output_bytes - written[which])]
        if report.number < written[0] or not data:
            return
        self.rows.append(
            {
                "job_number": job.number,
                "attempt": attempt.number,
                "frame": report.number,
                "stream": report.stream,
                "start": written[which],
                "data": data,
            }
        )
        written[0] = report.number + 1
        written[which] += len(data)
        self.job_ids.add(job.job_id)
