"""A job: what was asked for, where it stands, and where it goes when an attempt ends.

`queued` -> `running` -> `succeeded`, `failed` or `cancelled`; the last three are final. A job is
`queued` until `started` of its attempt is committed, and again when an attempt was lost or is to be
tried again.
"""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

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
    command) takes the place of both. `image` is the OCI image to
    run in, `max_cost` is in micro-credits.
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


class JobState(Struct, frozen=True):
    """What changes of a job, and what decides how: the part that operations lock, change and save.

    A `Struct`, because each transaction makes several changed copies of each of its jobs.

    `attempt` is the number of the newest attempt (0 before the first), `lease` that of the live
    one; `attempts_counted` counts to `max_attempts`.
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
    billed_us: int | None = None
    cost: int | None = None
    reward: int | None = None

    @property
    def waiting(self) -> bool:
        """Whether the dispatcher may place it."""
        return self.status is JobStatus.QUEUED and self.lease is None


class Next(Struct, frozen=True):
    """Where a job goes: a status, with a reason when it failed."""

    status: JobStatus
    reason: Reason | None = None


class RetryRule(Struct, frozen=True):
    """What decides whether a job is tried again.

    `attempts_counted` is how many attempts, the one that just ended included, count to
    `max_attempts`.
    """

    max_attempts: int
    retry_on_failure: bool
    attempts_counted: int


def after_attempt(ending: Ending, rule: RetryRule, cancel_requested: bool) -> Next:
    """Where the job goes when its newest attempt has ended with `ending`."""
    if ending.status is AttemptStatus.SUCCEEDED:
        return Next(JobStatus.SUCCEEDED)
    if cancel_requested:
        return Next(JobStatus.CANCELLED)
    if ending.status is AttemptStatus.CANCELLED:
        return Next(JobStatus.QUEUED)
    again = rule.retry_on_failure or ending.reason not in OWN_DOING
    if again and rule.attempts_counted < rule.max_attempts:
        return Next(JobStatus.QUEUED)
    return Next(JobStatus.FAILED, ending.reason)
