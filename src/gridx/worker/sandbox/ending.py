"""How an attempt ended, decided from what the kernel and the worker saw of it; no I/O.

The order matters: what the grid did comes first, then what the kernel refused, then the program's
own word. Nothing is guessed from an exit code.
"""

from dataclasses import dataclass

from gridx.clock import Clock
from gridx.domain.attempt import Reason, Usage
from gridx.worker.sandbox.base import Limits, Outcome, broken
from gridx.worker.sandbox.cgroups.groups import Counters


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is known of an attempt once nothing of it is left.

    `stopped` is why the worker ended it, if it did; `failure` says what of the sandbox broke;
    `cpu_s` and `peak_memory_bytes` are what `wait` tells, for hosts whose groups do not count.
    """

    exit_code: int = 0
    stopped: Reason | None = None
    failure: str = ""
    disk_was_full: bool = False
    counters: Counters = Counters()
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0


class Stopwatch:
    """A program's time: from its start to when it was told to end in order, or else to its end.

    The grace that follows the telling is not of its time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = 0.0
        self._seconds: float | None = None

    def start(self) -> None:
        self._began = self._clock.monotonic()

    def stop(self) -> float:
        """The seconds until now, or until it was stopped first."""
        if self._seconds is None:
            self._seconds = self._clock.monotonic() - self._began
        return self._seconds


def outcome(seen: Seen, limits: Limits) -> Outcome:
    """The verdict on an attempt."""
    usage = _usage(seen)
    if seen.counters.oom_kills and seen.stopped is None:  # which may well be why it failed
        return Outcome(None, Reason.OUT_OF_MEMORY, usage, _detail(Reason.OUT_OF_MEMORY, limits))
    if seen.failure and seen.stopped is None:
        return broken(seen.failure, usage)
    if seen.stopped is not None:
        return Outcome(None, seen.stopped, usage, _detail(seen.stopped, limits))
    if seen.exit_code == 0:
        return Outcome(0, None, usage)
    if seen.disk_was_full:
        reason = Reason.DISK_LIMIT
    elif seen.counters.refused_forks:
        reason = Reason.PROCESS_LIMIT
    else:
        reason = Reason.EXIT_CODE
    return Outcome(seen.exit_code, reason, usage, _detail(reason, limits))


def _usage(seen: Seen) -> Usage:
    counted = seen.counters
    cpu_s = seen.cpu_s if counted.cpu_s is None else counted.cpu_s
    peak = counted.peak_memory_bytes
    peak_bytes = seen.peak_memory_bytes if peak is None else peak
    return Usage(round(seen.wall_s, 6), round(cpu_s, 6), round(peak_bytes / (1 << 20), 3))


def _detail(reason: Reason, limits: Limits) -> str:
    details = {
        Reason.TIMEOUT: f"The job ran longer than its {limits.timeout_s:g} s.",
        Reason.OUT_OF_MEMORY: f"The job used more than its {limits.memory_mb} MB of memory.",
        Reason.OUTPUT_LIMIT: (
            f"The job wrote more than {limits.output_bytes} bytes to stdout or stderr."
        ),
        Reason.DISK_LIMIT: f"The job filled its {limits.disk_mb} MB of disk and failed.",
        Reason.PROCESS_LIMIT: (
            f"The job was refused more than {limits.processes} processes and threads, and failed."
        ),
        Reason.CANCELLED: "The job was cancelled while it ran.",
    }
    return details.get(reason, "")
