"""What can happen to a worker's session, and what it asks for in return: values, nothing else.

Events say what the socket, the programs, the owner or the disk did; actions say what is to be done
about it, in order. `session` turns the one into the other.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from gridx.domain.sandbox import Backend
from gridx.protocol.frames import (
    Assignment,
    Finished,
    FromCoordinator,
    FromWorker,
    LeaseRef,
    Log,
)

StreamName = Literal["stdout", "stderr"]


class Leased(Protocol):
    """Anything on the wire that names an attempt with its lease."""

    @property
    def job_id(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def lease(self) -> str: ...


class LeaseKey(NamedTuple):
    """Which attempt of which job, under which lease."""

    job_id: str
    attempt: int
    lease: str

    @classmethod
    def of(cls, leased: Leased) -> "LeaseKey":
        return cls(leased.job_id, leased.attempt, leased.lease)

    @property
    def ref(self) -> LeaseRef:
        return LeaseRef(self.job_id, self.attempt, self.lease)


class Result(NamedTuple):
    """A finished attempt that the spool still keeps: how many log frames it has, and its end."""

    log_frames: int
    finished: Finished


# ------------------------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True)
class Opened:
    """A socket to a coordinator is open."""


@dataclass(frozen=True, slots=True)
class Received:
    """The coordinator sent a frame."""

    frame: FromCoordinator


@dataclass(frozen=True, slots=True)
class Closed:
    """The socket is gone, for whatever reason."""


@dataclass(frozen=True, slots=True)
class HeartbeatDue:
    """It is time for a heartbeat; `load` is the machine's, of the last minute."""

    load: float


@dataclass(frozen=True, slots=True)
class Output:
    """A running attempt wrote something (at most a log frame's worth) to `stdout` or `stderr`."""

    key: LeaseKey
    stream: StreamName
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt's program has ended and nothing of it is left."""

    finished: Finished


@dataclass(frozen=True, slots=True)
class OwnerPaused:
    """The owner at the machine paused the worker, or (`paused` false) resumed it."""

    paused: bool


@dataclass(frozen=True, slots=True)
class DiskRoom:
    """Whether the spool can take the output of more attempts."""

    enough: bool


@dataclass(frozen=True, slots=True)
class LeaveAsked:
    """The worker is to end: by a signal, or by the owner's `quit`."""


Event = (
    Opened | Received | Closed | HeartbeatDue | Output | Ended | OwnerPaused | DiskRoom | LeaveAsked
)


# ----------------------------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Send:
    """Send this frame on the open socket, after those before it."""

    frame: FromWorker


@dataclass(frozen=True, slots=True)
class SendLogs:
    """Send the recorded log frames of an attempt again: numbers `first` up to, without, `end`."""

    key: LeaseKey
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Record:
    """Put this into the spool."""

    frame: Log | Finished


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete what the spool has of an attempt."""

    key: LeaseKey


@dataclass(frozen=True, slots=True)
class Run:
    """Start the attempt's program in this backend."""

    assignment: Assignment
    sandbox: Backend


@dataclass(frozen=True, slots=True)
class Stop:
    """End the attempt's program (TERM, then KILL); `Ended` follows."""

    key: LeaseKey


@dataclass(frozen=True, slots=True)
class Accepted:
    """The coordinator took the worker in: keep the token if there is one, and beat."""

    worker_id: str
    worker_token: str | None
    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Show this to the person at the machine."""

    text: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the socket; try again later unless `End` follows."""

    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """The worker is done: in order, or because of `failure`, a sentence for a person."""

    failure: str | None = None


Action = (
    Send | SendLogs | Record | Forget | Run | Stop | Accepted | Tell | HangUp | End
)  # fmt: skip
