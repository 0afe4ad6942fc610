"""The life of a worker's connection: events in, actions out.

Theory of operation. No socket, no process, no clock, no disk here: `handle` takes one event and
returns what is to be done, in order. The link goes away -> greeting (hello sent) -> connected
(welcome came) -> away, again and again; the attempts live through it, each on its own way
(`attempts`). While nobody listens they run on, and all they write and how they end is in the
spool. After a `welcome` everything the coordinator may have missed is sent again: `started`, the
log frames past those it has committed, `finished`. Only `ack`, `drop` and `take_back` make a result
go away. The worker's end comes in two steps: nothing more is taken and what runs is stopped; `End`
follows when the last program is gone and no result is under way.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gridx.domain.resources import Resources
from gridx.protocol.frames import (
    Ack,
    Assign,
    Broadcast,
    Cancel,
    Disconnect,
    Drain,
    Drop,
    Frame,
    FromCoordinator,
    FromWorker,
    Heartbeat,
    Hello,
    Leaving,
    Pause,
    Refused,
    Resume,
    State,
    TakeBack,
    Welcome,
    WireCapabilities,
    WireResources,
)
from gridx.worker.attempts import ATTEMPTS_MAX, NOTHING, Attempts, AttemptState, Happening
from gridx.worker.events import (
    Accepted,
    Action,
    Closed,
    DiskRoom,
    End,
    Ended,
    Event,
    HangUp,
    HeartbeatDue,
    LeaseKey,
    LeaveAsked,
    Opened,
    Output,
    OwnerPaused,
    Received,
    Result,
    Send,
    Tell,
)

PAUSE_BEATS = 2
"""A pause or resume by the owner is said again after a cut, until so many heartbeats have passed."""


class Link(StrEnum):
    """Where the connection stands."""

    AWAY = "away"
    GREETING = "greeting"
    CONNECTED = "connected"


@dataclass(frozen=True, slots=True)
class Profile:
    """Who this worker is and what it offers, as `hello` says it."""

    name: str
    version: str
    capabilities: WireCapabilities
    worker_id: str | None = None


class Session:
    """The worker's side of the protocol; `handle` is its only way in."""

    def __init__(self, profile: Profile, results: Iterable[Result] = ()) -> None:
        """`results` are those the spool kept of a former life."""
        self.profile = profile
        self.attempts = Attempts(profile.capabilities, results)
        self.link = Link.AWAY
        self.worker_id = profile.worker_id
        self.paused = False
        self.draining = False
        self.leaving = False
        self._pause_unsure = 0
        self._disk_room = True
        self._failure: str | None = None
        self._ended = False
        self._out: list[Action] = []

    def handle(self, event: Event) -> list[Action]:
        """What is to be done about `event`, in order."""
        self._out = self.attempts.out = []
        match event:
            case Received(frame):
                self._received(frame)
            case Output(key, stream, data):
                self.attempts.output(key, stream, data)
            case Ended(finished):
                self.attempts.ended(finished)
            case HeartbeatDue(load):
                self._beat(load)
            case Opened():
                self._opened()
            case Closed():
                self._closed()
            case OwnerPaused(paused):
                self._owner_paused(paused)
            case DiskRoom(enough):
                self._disk_room = enough
            case LeaveAsked():
                self._leave()
        if self._takes_work:
            self.attempts.start_waiting()
        self._end_when_done()
        return self._out

    def validate(self) -> None:
        """Assert what must hold between any two events."""
        self.attempts.validate()
        assert self.attempts.connected == (self.link is Link.CONNECTED)
        assert self.worker_id is not None or self.link is not Link.CONNECTED
        assert not (self.leaving and self.attempts.leased), "something runs on while leaving"
        assert self.leaving or self._failure is None
        assert self.leaving or not self._ended

    def status(self, url: str | None) -> str:
        """What to tell a person who asks; `url` is where the socket leads."""
        connected = url is not None and self.link is Link.CONNECTED
        words = [
            f"connected to {url}" if connected else "not connected",
            *(["paused"] if self.paused else []),
            *(["draining"] if self.draining else []),
        ]
        counts = [f"{self.attempts.count(state)} {state.value}" for state in AttemptState]
        free, total = self.attempts.free, self.attempts.total
        return (
            f"worker {self.worker_id}: {', '.join(words)}\n"
            f"attempts: {', '.join(counts)}\n"
            f"free: {free.cpus:g} of {total.cpus:g} cpus, "
            f"{free.memory_mb} of {total.memory_mb} MB memory"
        )

    @property
    def _takes_work(self) -> bool:
        return self._disk_room and not self.leaving and len(self.attempts) < ATTEMPTS_MAX

    # -------------------------------------------------------------------------------- the link

    def _opened(self) -> None:
        self.link = Link.GREETING
        kept = [a.key.ref for a in self.attempts if a.state is AttemptState.ENDED]
        hello = Hello(
            self.profile.name,
            self.profile.version,
            self.profile.capabilities,
            self.worker_id,
            [attempt.key.ref for attempt in self.attempts.leased],
            kept,
        )
        self._send(hello)

    def _closed(self) -> None:
        self.link = Link.AWAY
        self.attempts.connected = False
        for attempt in list(self.attempts):
            self.attempts.happen(attempt.key, Happening.CUT)

    def _received(self, frame: FromCoordinator) -> None:
        match frame:
            case Refused(reason, retry):
                self._sent_away(f"The coordinator refused this worker: {reason}", retry)
            case Disconnect(reason, retry):
                self._sent_away(_disconnected(reason), retry)
            case Welcome():
                self._welcomed(frame)
            case _ if self.link is not Link.CONNECTED:
                self._out.append(HangUp(f"a {type(frame).__name__} frame before the welcome"))
            case Assign(assignments):
                for assignment in assignments if not self.leaving else ():
                    self.attempts.assigned(assignment)
            case Ack() | Drop() | TakeBack() | Cancel():
                self.attempts.happen(LeaseKey.of(frame), _HAPPENING_OF[type(frame)])
            case Pause():
                self._told_paused(True)
            case Resume():
                self._told_paused(False)
            case Drain():
                self._drain()
            case Broadcast(text):
                self._out.append(Tell(f"Message from the grid: {text}"))

    def _welcomed(self, welcome: Welcome) -> None:
        if self.link is not Link.GREETING:
            self._out.append(HangUp("a welcome that nobody waited for"))
            return
        self.link = Link.CONNECTED
        self.worker_id = welcome.worker_id
        accepted = Accepted(welcome.worker_id, welcome.worker_token, welcome.heartbeat_s)
        self._out.append(accepted)
        for lease in welcome.drop:
            self.attempts.happen(LeaseKey.of(lease), Happening.DROP)
        self.attempts.connected = True
        self.attempts.send_again({LeaseKey.of(kept): kept.log_frames for kept in welcome.keep})
        if self.leaving:
            self._send(Leaving())
        if self._pause_unsure:
            self._send(State(self.paused))
        else:
            self.paused = welcome.paused
        if welcome.draining:
            self._drain()

    def _sent_away(self, why: str, retry: bool) -> None:
        if retry:
            self._out.append(HangUp(why))
        else:
            self._failure = self._failure or why
            self._stop_everything()

    def _beat(self, load: float) -> None:
        if self.link is Link.CONNECTED:
            free = self.attempts.free if self._takes_work else NOTHING
            running = [attempt.key.ref for attempt in self.attempts.leased]
            self._send(Heartbeat(_wire(free), load, running))
            self._pause_unsure = max(0, self._pause_unsure - 1)

    def _send(self, frame: FromWorker) -> None:
        self._out.append(Send(frame))

    # ---------------------------------------------------------------- pause, drain and the end

    def _owner_paused(self, paused: bool) -> None:
        self.paused = paused
        self._pause_unsure = PAUSE_BEATS
        if self.link is Link.CONNECTED:
            self._send(State(paused))

    def _told_paused(self, paused: bool) -> None:
        self._pause_unsure = 0
        if self.paused != paused:
            self.paused = paused
            self._out.append(Tell(f"{'Paused' if paused else 'Resumed'} over the grid."))

    def _drain(self) -> None:
        if not self.draining:
            self.draining = True
            self._out.append(Tell("Draining: this worker finishes what it has, then leaves."))

    def _leave(self) -> None:
        if not self.leaving:
            if self.link is Link.CONNECTED:
                self._send(Leaving())
            self._stop_everything()

    def _stop_everything(self) -> None:
        self.leaving = True
        for attempt in self.attempts.leased:
            self.attempts.happen(attempt.key, Happening.DROP)

    def _end_when_done(self) -> None:
        connected = self.link is Link.CONNECTED
        if self.draining and connected and not len(self.attempts):
            self._leave()
        if not self.leaving or self._ended:
            return
        waits_for = [AttemptState.STOPPING]
        if connected and self._failure is None:
            waits_for.append(AttemptState.UNACKNOWLEDGED)
        if not self.attempts.count(*waits_for):
            self._ended = True
            self._out.append(End(self._failure))


_HAPPENING_OF: dict[type[Frame], Happening] = {
    Ack: Happening.ACK,
    Drop: Happening.DROP,
    TakeBack: Happening.TAKE_BACK,
    Cancel: Happening.CANCEL,
}


def _disconnected(reason: str) -> str:
    if reason == "replaced":
        return (
            "Another connection took this worker's place (replaced): the same worker was started "
            "twice. Give each its own --state-dir."
        )
    return f"The coordinator disconnected this worker: {reason}"


def _wire(free: Resources) -> WireResources:
    return WireResources(free.cpus, free.memory_mb, free.gpus, free.disk_mb)
