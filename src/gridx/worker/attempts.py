"""Every attempt on this machine and the way each goes: a table of transitions, nothing else.

waiting -> running -> ended -> unacknowledged -> forgotten
                  \\-> stopping -> forgotten        (its lease was taken from us)

An attempt waits while its resources are not free, first come, first served. It has ended when its
result is in the spool, and is unacknowledged while that result is under way on the open connection;
a connection that breaks makes it merely ended again. What TRANSITIONS does not name changes
nothing, because a frame may always cross another on the wire.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from gridx.domain.resources import Resources
from gridx.domain.sandbox import Backend, choose
from gridx.protocol.frames import (
    Assignment,
    Finished,
    Log,
    ReasonName,
    Started,
    WireCapabilities,
    WireSpec,
)
from gridx.worker.events import (
    Action,
    Forget,
    LeaseKey,
    Record,
    Result,
    Run,
    Send,
    SendLogs,
    Stop,
    StreamName,
)

WAITING_MAX = 1_000
ATTEMPTS_MAX = 10_000
"""With so many attempts here, finished ones above all, no more is started until some are gone."""

NOTHING = Resources(0.0, 0, 0, 0)


class AttemptState(StrEnum):
    """Where an attempt stands on this machine."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"
    UNACKNOWLEDGED = "unacknowledged"

    @property
    def occupies(self) -> bool:
        """Whether it holds resources of the machine."""
        return self in (AttemptState.RUNNING, AttemptState.STOPPING)

    @property
    def leased(self) -> bool:
        """Whether its end is still to come, under our lease."""
        return self in (AttemptState.WAITING, AttemptState.RUNNING)


class Happening(StrEnum):
    """What can happen to an attempt."""

    ROOM = "room"
    ENDED = "ended"
    SENT = "sent"
    CUT = "cut"
    ACK = "ack"
    DROP = "drop"
    TAKE_BACK = "take_back"
    CANCEL = "cancel"


@dataclass(slots=True)
class Attempt:
    """One attempt; the assignment is let go once it runs.

    `sandbox` is None where it never runs here, and of a former life's results.
    """

    key: LeaseKey
    need: Resources
    state: AttemptState
    assignment: Assignment | None = None
    sandbox: Backend | None = None
    log_frames: int = 0
    finished: Finished | None = None


class Attempts:
    """The attempts of one worker; what is to be done about them is appended to `out`."""

    def __init__(self, offer: WireCapabilities, results: Iterable[Result]) -> None:
        """`results` are those the spool kept of a former life."""
        self.languages = frozenset(offer.languages)
        self.sandboxes = frozenset(offer.sandboxes)
        have = offer.resources
        self.total = Resources(have.cpus, have.memory_mb, have.gpus, have.disk_mb)
        self.free = self.total
        self.connected = False
        self.out: list[Action] = []
        self.waiting: dict[LeaseKey, Attempt] = {}
        self._all: dict[LeaseKey, Attempt] = {}
        for log_frames, finished in results:
            key = LeaseKey.of(finished)
            self._all[key] = Attempt(
                key, NOTHING, AttemptState.ENDED, log_frames=log_frames, finished=finished
            )

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._all.values())

    def count(self, *states: AttemptState) -> int:
        """How many are in one of `states`."""
        return sum(attempt.state in states for attempt in self)

    @property
    def leased(self) -> list[Attempt]:
        return [attempt for attempt in self if attempt.state.leased]

    # --------------------------------------------------------------------- from the coordinator

    def assigned(self, assignment: Assignment) -> None:
        """Queue it, or report at once why it can never run here: it is then placed elsewhere."""
        key = LeaseKey.of(assignment)
        if key in self._all:
            return
        spec = assignment.spec
        need = Resources(spec.cpus, spec.memory_mb, spec.gpus, spec.disk_mb)
        sandbox = choose(self.sandboxes, spec.sandbox, spec.sandbox_at_least)
        trouble = self._why_not(spec, need, sandbox)
        attempt = Attempt(key, need, AttemptState.WAITING, assignment, sandbox)
        self._all[key] = self.waiting[key] = attempt
        if trouble:
            _report_unrun(self, attempt, "sandbox_error", trouble)

    def happen(self, key: LeaseKey, happening: Happening) -> None:
        """Take the step that the table names, if it names one."""
        attempt = self._all.get(key)
        if attempt is None or (step := TRANSITIONS.get((attempt.state, happening))) is None:
            return
        state, effect = step
        if state is None:
            del self._all[key]
        else:
            attempt.state = state
        effect(self, attempt)

    def send_again(self, committed: dict[LeaseKey, int]) -> None:
        """Send all that a coordinator may have missed; it has `committed` log frames of each."""
        for attempt in list(self):
            if attempt.state in (AttemptState.WAITING, AttemptState.STOPPING):
                continue
            # Also of what has ended: no output is taken of an attempt that never started.
            self.out.append(Send(self.started(attempt)))
            first = committed.get(attempt.key, 0)
            if first < attempt.log_frames:
                self.out.append(SendLogs(attempt.key, first, attempt.log_frames))
            self.happen(attempt.key, Happening.SENT)

    def _why_not(self, spec: WireSpec, need: Resources, sandbox: Backend | None) -> str | None:
        if not need.fits(self.total):
            return "This worker does not have the resources that the job needs."
        if spec.language not in self.languages:
            return "This worker does not offer the job's language."
        if sandbox is None:
            wanted = spec.sandbox or f"{spec.sandbox_at_least} or a stronger one"
            return f"This worker does not offer the sandbox that the job needs ({wanted})."
        if len(self.waiting) >= WAITING_MAX:
            return f"Already {WAITING_MAX} attempts wait on this worker."
        return None

    # ------------------------------------------------------------------------ from the machine

    def start_waiting(self) -> None:
        """Start those that fit, in the order they came; one that does not fit holds up the rest."""
        while self.waiting:
            first = next(iter(self.waiting.values()))
            if not first.need.fits(self.free):
                return
            self.happen(first.key, Happening.ROOM)

    def output(self, key: LeaseKey, stream: StreamName, data: bytes) -> None:
        """Number and keep what a running attempt wrote, and pass it on."""
        attempt = self._all.get(key)
        if attempt is None or attempt.state is not AttemptState.RUNNING:
            return
        frame = Log(*key, attempt.log_frames, stream, data)
        attempt.log_frames += 1
        self.out.append(Record(frame))
        if self.connected:
            self.out.append(Send(frame))

    def ended(self, finished: Finished) -> None:
        """A program has ended, and nothing of it is left."""
        attempt = self._all[LeaseKey.of(finished)]
        assert attempt.state.occupies, f"ended while {attempt.state}"
        self.free = self.free.plus(attempt.need)
        if attempt.state is AttemptState.RUNNING:
            attempt.finished = finished
        self.happen(attempt.key, Happening.ENDED)

    def started(self, attempt: Attempt) -> Started:
        """The frame that says it runs."""
        return Started(*attempt.key, sandbox=attempt.sandbox)

    def validate(self) -> None:
        """Assert what must hold between any two events."""
        taken = NOTHING
        for key, attempt in self._all.items():
            state = attempt.state
            waits = state is AttemptState.WAITING
            kept = state in (AttemptState.ENDED, AttemptState.UNACKNOWLEDGED)
            assert attempt.key == key
            assert waits == (attempt.assignment is not None) == (key in self.waiting)
            assert kept == (attempt.finished is not None)
            if state.occupies:
                taken = taken.plus(attempt.need)
        assert self.waiting.keys() <= self._all.keys()
        assert self.free == self.total.minus(taken), "resources leaked"
        assert taken.fits(self.total), "more runs than fits"
        stray = AttemptState.ENDED if self.connected else AttemptState.UNACKNOWLEDGED
        assert not self.count(stray), "a result is under way exactly while there is a connection"


# ---------------------------------------------------------------- effects, named in the table


def _run(book: Attempts, attempt: Attempt) -> None:
    assert attempt.assignment is not None and attempt.sandbox is not None
    del book.waiting[attempt.key]
    book.free = book.free.minus(attempt.need)
    # Told first: making a sandbox keeps the machine busy, and the coordinator has its own to do.
    if book.connected:
        book.out.append(Send(book.started(attempt)))
    book.out.append(Run(attempt.assignment, attempt.sandbox))
    attempt.assignment = None


def _cancel_waiting(book: Attempts, attempt: Attempt) -> None:
    _report_unrun(book, attempt, "cancelled", "Cancelled before it ran.")


def _report_unrun(book: Attempts, attempt: Attempt, reason: ReasonName, detail: str) -> None:
    del book.waiting[attempt.key]
    attempt.assignment = None
    attempt.state = AttemptState.ENDED
    attempt.finished = Finished(*attempt.key, reason=reason, detail=detail)
    _keep(book, attempt)


def _keep(book: Attempts, attempt: Attempt) -> None:
    assert attempt.finished is not None
    book.out.append(Record(attempt.finished))
    if book.connected:
        book.happen(attempt.key, Happening.SENT)


def _send_result(book: Attempts, attempt: Attempt) -> None:
    assert attempt.finished is not None
    book.out.append(Send(attempt.finished))


def _stop(book: Attempts, attempt: Attempt) -> None:
    book.out.append(Stop(attempt.key))


def _stop_and_forget(book: Attempts, attempt: Attempt) -> None:
    book.out += (Stop(attempt.key), Forget(attempt.key))


def _unqueue(book: Attempts, attempt: Attempt) -> None:
    del book.waiting[attempt.key]


def _forget(book: Attempts, attempt: Attempt) -> None:
    book.out.append(Forget(attempt.key))


def _nothing(book: Attempts, attempt: Attempt) -> None:
    """The change of state is all."""


_S, _H = AttemptState, Happening
TRANSITIONS: dict[
    tuple[AttemptState, Happening], tuple[AttemptState | None, Callable[[Attempts, Attempt], None]]
] = {
    (_S.WAITING, _H.ROOM): (_S.RUNNING, _run),
    (_S.WAITING, _H.CANCEL): (_S.ENDED, _cancel_waiting),
    (_S.WAITING, _H.DROP): (None, _unqueue),
    (_S.WAITING, _H.TAKE_BACK): (None, _unqueue),
    (_S.RUNNING, _H.ENDED): (_S.ENDED, _keep),
    (_S.RUNNING, _H.CANCEL): (_S.RUNNING, _stop),
    (_S.RUNNING, _H.DROP): (_S.STOPPING, _stop_and_forget),
    (_S.RUNNING, _H.TAKE_BACK): (_S.STOPPING, _stop_and_forget),
    (_S.STOPPING, _H.ENDED): (None, _nothing),
    (_S.ENDED, _H.SENT): (_S.UNACKNOWLEDGED, _send_result),
    (_S.ENDED, _H.DROP): (None, _forget),
    (_S.UNACKNOWLEDGED, _H.CUT): (_S.ENDED, _nothing),
    (_S.UNACKNOWLEDGED, _H.ACK): (None, _forget),
    (_S.UNACKNOWLEDGED, _H.DROP): (None, _forget),
    (_S.UNACKNOWLEDGED, _H.TAKE_BACK): (None, _forget),
}
"""What a happening makes of an attempt (None: forgotten), and what is done about it."""
