"""What a grid allows and charges: the values of its settings that decisions need."""

from dataclasses import dataclass
from typing import Literal

from gridx.domain.errors import Detail, InvalidInput
from gridx.domain.job import JobSpec, Limits
from gridx.domain.pricing import Tariff
from gridx.domain.resources import Resources
from gridx.domain.sandbox import WEAKEST_SANDBOX, Backend


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is over is kept, in seconds; infinity is for ever."""

    jobs_s: float = 90 * 86_400.0
    output_s: float = 30 * 86_400.0
    answers_s: float = 86_400.0

    def output_is_gone(self, finished_at: int | None, now: int) -> bool:
        """Whether what a job wrote has aged out, be it removed by now or not (microseconds)."""
        return finished_at is not None and (now - finished_at) / 1e6 > self.output_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One grid's rules. Times in seconds, money in micro-credits, sizes as their names say."""

    storage_url: str
    bus_url: str = "local://"
    readers: int = 4
    writers: int = 2
    group_size_max: int = 1_000
    heartbeat_s: float = 10.0
    lease_s: float = 30.0
    tariff: Tariff = Tariff()
    initial_grant: int = 100_000_000
    registration: Literal["open", "invite", "closed"] = "open"
    admission: Literal["open", "approve"] = "open"
    token_lifetime_s: float = 30 * 86_400.0
    timeout_s_max: float = 3_600.0
    output_bytes_max: int = 1_048_576
    processes_max: int = 64
    queued_jobs_per_user: int = 1_000_000
    queue_age_s: float = 7 * 86_400.0
    keys_per_user: int = 100
    workers_per_user: int = 1_000
    retention: Retention = Retention()
    worker_cap: Resources = Resources(1_024.0, 16_777_216, 64, 16_777_216)
    sandbox_at_least: Backend = WEAKEST_SANDBOX

    @property
    def usual_limits(self) -> Limits:
        """Those of a job that asks for none: the defaults, or the ceilings where these are lower."""
        usual = Limits()
        return Limits(
            min(usual.timeout_s, self.timeout_s_max),
            min(usual.output_bytes, self.output_bytes_max),
            min(usual.processes, self.processes_max),
        )


def check_deadline(deadline: int, now: int) -> None:
    """Raises `InvalidInput` naming a deadline that has passed by `now` (both in microseconds)."""
    if deadline <= now:
        message = "the time has passed already"
        raise InvalidInput(f"deadline: {message}", [Detail("deadline", message)])


def check_ceilings(spec: JobSpec, policy: Policy) -> None:
    """Raises `InvalidInput` naming each limit that is above the grid's ceiling."""
    details = [
        Detail(f"limits.{name}", f"at most {ceiling:g} here")
        for name, asked, ceiling in (
            ("timeout_s", spec.limits.timeout_s, policy.timeout_s_max),
            ("output_bytes", spec.limits.output_bytes, policy.output_bytes_max),
            ("processes", spec.limits.processes, policy.processes_max),
        )
        if asked > ceiling
    ]
    if details:
        raise InvalidInput("; ".join(f"{d.field}: {d.message}" for d in details), details)
