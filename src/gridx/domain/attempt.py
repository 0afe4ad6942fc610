"""An attempt: one try at a job on one worker, and what its end means.

`assigned` -> `running` -> `succeeded`, `failed`, `cancelled` or `lost`. `lost` may still become
`succeeded` or `failed` while its job is queued and no newer attempt exists.
"""

from enum import StrEnum

from msgspec import Struct


class AttemptStatus(StrEnum):
    """Where an attempt stands; the values are stored and sent as they are."""

    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def live(self) -> bool:
        """Whether a worker holds a lease of it."""
        return self in (AttemptStatus.ASSIGNED, AttemptStatus.RUNNING)


class Reason(StrEnum):
    """Why a job or an attempt did not succeed."""

    EXIT_CODE = "exit_code"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    DISK_LIMIT = "disk_limit"
    PROCESS_LIMIT = "process_limit"
    LOST = "lost"
    SANDBOX_ERROR = "sandbox_error"
    DEPENDENCY_FAILED = "dependency_failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    """Only of an attempt that a worker ended because it was told to."""


OWN_DOING = frozenset(
    {
        Reason.EXIT_CODE,
        Reason.TIMEOUT,
        Reason.OUT_OF_MEMORY,
        Reason.OUTPUT_LIMIT,
        Reason.DISK_LIMIT,
        Reason.PROCESS_LIMIT,
    }
)
"""Reasons that are the job's own doing: billed, and tried again only when it asked for that."""

REPORTABLE = OWN_DOING | {Reason.SANDBOX_ERROR, Reason.CANCELLED}
"""What a worker may give as the reason of an attempt."""


USAGE_MAX = 1e9
"""More seconds or mebibytes than any attempt uses; a worker that reports more is not believed."""


class Usage(Struct, frozen=True):
    """What an attempt used, as its worker reports it."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_mb: float = 0.0

    def as_kept(self) -> "Usage":
        """The same as the grid keeps it, so that one told twice is known again.

        Each amount is to the millionth, and from 0 to `USAGE_MAX` also where it was not a number.
        """
        amounts = (self.wall_s, self.cpu_s, self.peak_memory_mb)
        return Usage(*(round(max(0.0, min(amount, USAGE_MAX)) * 1e6) / 1e6 for amount in amounts))


class Ending(Struct, frozen=True):
    """How an attempt ended: its final status with the reason and the exit code, where it has them."""

    status: AttemptStatus
    reason: Reason | None = None
    exit_code: int | None = None


def ending_of_report(reason: Reason | None, exit_code: int | None, cancelled: bool) -> Ending:
    """What a worker's `finished` makes of an attempt; `cancelled` says its job was to be cancelled.

    A report without a reason is a success when the exit code is 0. A job whose cancel was
    requested before its result was committed is cancelled, however it ended.
    """
    if cancelled and reason is not Reason.SANDBOX_ERROR:
        return Ending(AttemptStatus.CANCELLED)
    if reason is None:
        if exit_code == 0:
            return Ending(AttemptStatus.SUCCEEDED, None, 0)
        if exit_code is not None:
            return Ending(AttemptStatus.FAILED, Reason.EXIT_CODE, exit_code)
        return Ending(AttemptStatus.FAILED, Reason.SANDBOX_ERROR)
    if reason is Reason.EXIT_CODE:
        if exit_code is None or exit_code == 0:
            return Ending(AttemptStatus.FAILED, Reason.SANDBOX_ERROR)
        return Ending(AttemptStatus.FAILED, reason, exit_code)
    if reason is Reason.CANCELLED or reason not in REPORTABLE:
        # Nobody asked for it: a worker that stops a job by itself did not do its work.
        return Ending(AttemptStatus.FAILED, Reason.SANDBOX_ERROR)
    return Ending(AttemptStatus.FAILED, reason)


LOST = Ending(AttemptStatus.LOST, Reason.LOST)
TAKEN_BACK = Ending(AttemptStatus.CANCELLED)


class Attempt(Struct, frozen=True):
    """An attempt as the grid keeps it; times in microseconds since the epoch.

    `sandbox` is the backend it runs in; before it started, the one that its job requires, if any.

    A `Struct`, because each transaction makes several changed copies of it.
    """

    job_id: str
    number: int
    lease: str
    worker_id: str
    owner_id: str
    status: AttemptStatus
    reason: Reason | None
    exit_code: int | None
    counted: bool
    assigned_at: int
    started_at: int | None
    finished_at: int | None
    usage: Usage | None
    billed_us: int
    sandbox: str | None
