"""A job: what was asked for, where it stands, and where it goes when an attempt ends.

`queued` -> `running` -> `succeeded`, `failed` or `cancelled`; the last three are final. A job is
`queued` until `started` of its attempt is committed, and again when an attempt was lost or is to be
tried again.
"""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from gridx.domain.attempt import OWN_DOING, AttemptStatus, Ending, Reason
from gridx.domain.resources import Resources

LANGUAGES = ("python", "javascript", "bash")


class JobStatus(StrEnum):
    """Where a job stands; the values are stored and shown as they are."""

    BLOCKED = "blocked"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class Limits(Struct, frozen=True):
    """What one attempt may take: seconds, bytes kept of each stream, processes."""

    timeout_s: float = 60.0
    output_bytes: int = 1_048_576
    processes: int = 64


class Terms(Struct, frozen=True):
    """What was fixed when a job was submitted.

    `price_per_second`, `min_cost` and `hold` in micro-credits, `reward_ppm` the owner's share in
    parts per million; `limit_us` is the longest one attempt may run, in microseconds.
    """

    price_per_second: int
    reward_ppm: int
    min_cost: int
    hold: int
    limit_us: int


class JobSpec(Struct, frozen=True):
    """What a submitter asked for, checked and with every default filled in.

    `code` is run by the interpreter of `language`; `command` (one shell line, or the words of a
    command) takes the place of both. `image` is the OCI image to run in; `max_cost` is in
    micro-credits, `not_before` and `deadline` are microseconds since the epoch.
    """

    code: str = ""
    language: str = "python"
    command: str | tuple[str, ...] | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    stdin: str = ""
    name: str | None = None
    tags: tuple[str, ...] = ()
    resources: Resources = Resources()
    limits: Limits = Limits()
    image: str | None = None
    require: Mapping[str, str] = {}
    priority: int = 0
    max_attempts: int = 3
    retry_on_failure: bool = False
    max_cost: int | None = None
    not_before: int | None = None
    deadline: int | None = None


class Job(Struct, frozen=True):
    """A job as the grid keeps it, without its attempts and its output.

    Times in microseconds since the epoch, money in micro-credits; `spec` lacks the texts (code,
    args, env, stdin) where a list was asked for.
    """

    job_id: str
    user_id: str
    status: JobStatus
    reason: Reason | None
    exit_code: int | None
    spec: JobSpec
    limit_us: int
    price_per_second: int
    held: int
    billed_us: int | None
    cost: int | None
    reward: int | None
    created_at: int
    started_at: int | None
    finished_at: int | None
    worker_id: str | None
    cancel_requested: bool
    batch_id: str | None
    retry_of: str | None
    traceparent: str | None
    number: int
    """Grows with each job submitted to the grid: the order of lists and queues."""


def without_past_times(spec: JobSpec, now: int) -> JobSpec:
    """The spec without a time that has passed, for a job that is submitted again."""
    late = spec.deadline is not None and spec.deadline <= now
    early = spec.not_before is None or spec.not_before > now
    return replace(
        spec,
        deadline=None if late else spec.deadline,
        not_before=spec.not_before if early else None,
    )


class Failure(Struct, frozen=True):
    """A worker that could not run a job to an end; `lost` says that it fell silent over it."""

    worker_id: str
    lost: bool


class JobState(Struct, frozen=True):
    """What changes of a job, and what decides how: the part that operations lock, change and save.

    A `Struct`, because each transaction makes several changed copies of each of its jobs.

    `attempt` is the number of the newest attempt (0 before the first), `lease` that of the live
    one; `attempts_counted` counts to `max_attempts`. `failures` names each worker once that could
    not run it, and makes `shape` the name of another queue (see `matching.shunning`). A job with a
    `due_at` is not placed before that time; `output_bytes` are kept of each stream.
    """

    number: int
    job_id: str
    user_id: str
    status: JobStatus
    reason: Reason | None
    exit_code: int | None
    cancel_requested: bool
    attempt: int
    attempts_counted: int
    max_attempts: int
    retry_on_failure: bool
    lease: str | None
    worker_id: str | None
    terms: Terms
    queued_at: int
    started_at: int | None
    finished_at: int | None
    shape: str
    output_bytes: int
    due_at: int | None = None
    deadline: int | None = None
    failures: tuple[Failure, ...] = ()
    billed_us: int | None = None
    cost: int | None = None
    reward: int | None = None

    @property
    def unassigned(self) -> bool:
        """Whether it is queued and no worker holds a lease of it."""
        return self.status is JobStatus.QUEUED and self.lease is None

    @property
    def waiting(self) -> bool:
        """Whether the dispatcher may place it now."""
        return self.unassigned and self.due_at is None


class Next(Struct, frozen=True):
    """Where a job goes: a status, with a reason when it failed."""

    status: JobStatus
    reason: Reason | None = None


class RetryRule(Struct, frozen=True):
    """What decides whether a job is tried again.

    `attempts_counted` is how many attempts, the one that just ended included, count to
    `max_attempts`; `lost_on` on how many different workers it was lost.
    """

    max_attempts: int
    retry_on_failure: bool
    attempts_counted: int
    lost_on: int = 0


LOST_ON_MAX = 3
"""A job that was lost on so many different workers is taken to bring them down."""


def after_attempt(ending: Ending, rule: RetryRule, cancel_requested: bool) -> Next:
    """Where the job goes when its newest attempt has ended with `ending`."""
    if ending.status is AttemptStatus.SUCCEEDED:
        return Next(JobStatus.SUCCEEDED)
    if cancel_requested:
        return Next(JobStatus.CANCELLED)
    if ending.status is AttemptStatus.CANCELLED:
        return Next(JobStatus.QUEUED)
    again = rule.retry_on_failure or ending.reason not in OWN_DOING
    if ending.status is AttemptStatus.LOST and rule.lost_on >= LOST_ON_MAX:
        again = False
    if again and rule.attempts_counted < rule.max_attempts:
        return Next(JobStatus.QUEUED)
    return Next(JobStatus.FAILED, ending.reason)


def with_failure(
    failures: tuple[Failure, ...], worker_id: str, ending: Ending
) -> tuple[Failure, ...]:
    """`failures` with what `ending` says of the worker, if it says that it could not run the job."""
    lost = ending.status is AttemptStatus.LOST
    if not lost and ending.reason is not Reason.SANDBOX_ERROR:
        return failures
    for at, known in enumerate(failures):
        if known.worker_id == worker_id:
            both = Failure(worker_id, lost or known.lost)
            return (*failures[:at], both, *failures[at + 1 :])
    return (*failures, Failure(worker_id, lost))


def without_loss(failures: tuple[Failure, ...], worker_id: str) -> tuple[Failure, ...]:
    """`failures` once a worker that was thought lost has told how its attempt ended after all."""
    return tuple(
        Failure(worker_id, lost=False) if each.worker_id == worker_id else each for each in failures
    )


BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0


def backoff_s(ending: Ending, attempts_counted: int, share: float) -> float:
    """How long a job waits after `ending`, its `attempts_counted`th counted attempt.

    A bound that doubles, of which half is fixed and half random (`share` is even from 0 to 1), so
    that jobs that failed together do not come back together: "equal jitter" of M. Brooker,
    Exponential Backoff And Jitter, AWS Architecture Blog, 2015. The first loss waits for nothing:
    its lease was wait enough.
    """
    doublings = attempts_counted - 1
    if ending.status is AttemptStatus.LOST:
        doublings -= 1
    if doublings < 0:
        return 0.0
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0**doublings) * (0.5 + 0.5 * share)
