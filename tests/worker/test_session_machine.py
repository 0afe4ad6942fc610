"""The session against a coordinator that forgets, cuts and reorders: what must hold, always does.

The machine plays the coordinator and the programs; the model knows, of each attempt, what the
coordinator has committed. After every step the session validates itself, and the wire is read: log
frames come without a gap, a result comes until its ack and never after a drop, and the resources
offered are never passed.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from gridx.protocol.frames import Disconnect, Finished, Hello, LeaseRef, Log, Started
from gridx.worker.attempts import AttemptState
from gridx.worker.events import (
    Closed,
    Ended,
    Event,
    Forget,
    HeartbeatDue,
    LeaseKey,
    Opened,
    Output,
    Received,
    Record,
    Result,
    Run,
    Send,
    SendLogs,
    Stop,
)
from gridx.worker.session import Link, Session
from tests.worker.frames import (
    ack,
    assign,
    cancel,
    drop,
    finished,
    kept,
    new_key,
    profile,
    take_back,
    welcome,
)

WORDS = {"ack": ack, "drop": drop, "take_back": take_back, "cancel": cancel}


class SessionMachine(RuleBasedStateMachine):
    keys: Bundle[LeaseKey] = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(profile(cpus=3.0))
        self.programs: set[LeaseKey] = set()
        self.spooled: dict[LeaseKey, list[Log | Finished]] = {}
        self.committed_logs: dict[LeaseKey, int] = {}
        self.seen_started: set[LeaseKey] = set()
        self.results: set[LeaseKey] = set()
        self.revoked: set[LeaseKey] = set()
        self.hello: Hello | None = None

    # ------------------------------------------------------------ playing the rest of the world

    def do(self, event: Event) -> None:
        for action in self.session.handle(event):
            match action:
                case Run(assignment, _):
                    self.programs.add(LeaseKey.of(assignment))
                case Stop(key):
                    assert key in self.programs, "nothing is stopped that does not run"
                case Record(frame):
                    self.spooled.setdefault(LeaseKey.of(frame), []).append(frame)
                case Forget(key):
                    self.spooled.pop(key, None)
                case SendLogs(key, first, end):
                    logs = [f for f in self.spooled[key] if isinstance(f, Log)]
                    for frame in logs[first:end]:
                        self.commit(frame)
                case Send(frame):
                    self.commit(frame)
                case _:
                    pass

    def commit(self, frame: object) -> None:
        """What a coordinator does with a frame it got."""
        match frame:
            case Hello():
                self.hello = frame
            case Started():
                self.seen_started.add(LeaseKey.of(frame))
            case Log():
                key = LeaseKey.of(frame)
                assert key in self.seen_started, "output of nothing started"
                assert frame.number <= self.committed_logs.get(key, 0), "a gap in the output"
                self.committed_logs[key] = max(self.committed_logs.get(key, 0), frame.number + 1)
            case Finished():
                key = LeaseKey.of(frame)
                assert key not in self.revoked, "a result nobody may send any more"
                self.results.add(key)
            case _:
                pass

    @property
    def connected(self) -> bool:
        return self.session.link is Link.CONNECTED

    def state(self, key: LeaseKey) -> AttemptState | None:
        return next((a.state for a in self.session.attempts if a.key == key), None)

    # ------------------------------------------------------------------------------- the rules

    @precondition(lambda self: not self.session.leaving and self.session.link is Link.AWAY)
    @rule()
    def open(self) -> None:
        self.do(Opened())

    @precondition(lambda self: self.session.link is Link.GREETING)
    @rule(forgets=st.sets(st.integers(0, 5)))
    def welcome(self, forgets: set[int]) -> None:
        assert self.hello is not None
        keeps: list[LeaseKey] = []
        drops: list[LeaseRef] = []
        for place, lease in enumerate([*self.hello.running, *self.hello.unacknowledged]):
            key = LeaseKey.of(lease)
            if place in forgets:
                drops.append(lease)
                self.revoked.add(key)
            else:
                keeps.append(key)
        frames = [kept(key, self.committed_logs.get(key, 0)) for key in keeps]
        self.do(Received(welcome(keep=frames, drop=drops)))
        for attempt in self.session.attempts:
            assert (attempt.finished is None) or attempt.key in self.results, "not sent again"

    @precondition(lambda self: self.session.link is not Link.AWAY)
    @rule(lost=st.integers(0, 3))
    def cut(self, lost: int) -> None:
        """The connection breaks; the last few log frames, or everything, was never committed."""
        self.do(Closed())
        for key, count in self.committed_logs.items():
            self.committed_logs[key] = max(0, count - lost)
        if lost == 3:
            self.committed_logs.clear()
            self.seen_started.clear()

    @precondition(lambda self: self.connected)
    @rule(target=keys, cpus=st.sampled_from([0.5, 1.0, 3.0, 4.0]))
    def assign(self, cpus: float) -> LeaseKey:
        key = new_key()
        self.do(Received(assign(key, cpus=cpus)))
        return key

    @precondition(lambda self: self.connected)
    @rule(key=keys, word=st.sampled_from(sorted(WORDS)))
    def say(self, key: LeaseKey, word: str) -> None:
        if word == "ack" and key not in self.results:
            return  # no coordinator acknowledges what it never got
        self.do(Received(WORDS[word](key)))
        if word in ("drop", "take_back"):
            self.revoked.add(key)
        if word != "cancel":
            assert self.state(key) in (None, AttemptState.STOPPING)

    @rule(key=keys, data=st.binary(min_size=1, max_size=3))
    def write(self, key: LeaseKey, data: bytes) -> None:
        if key in self.programs:
            self.do(Output(key, "stdout", data))

    @rule(key=keys)
    def end(self, key: LeaseKey) -> None:
        if key in self.programs:
            self.programs.remove(key)
            self.do(Ended(finished(key)))

    @precondition(lambda self: self.connected)
    @rule()
    def beat(self) -> None:
        self.do(HeartbeatDue(0.1))

    @rule(key=consumes(keys))
    def kill_the_worker(self, key: LeaseKey) -> None:
        """A new life from what the spool has: whole results, and nothing else."""
        self.programs.clear()
        results = self.session_results()
        self.spooled = {
            LeaseKey.of(r.finished): self.spooled[LeaseKey.of(r.finished)] for r in results
        }
        self.session = Session(profile(cpus=3.0), results)

    def session_results(self) -> list[Result]:
        return [
            Result(len(frames) - 1, last)
            for frames in self.spooled.values()
            if isinstance(last := frames[-1], Finished)
        ]

    @precondition(lambda self: self.connected)
    @rule(again=st.just(True))
    def send_away(self, again: bool) -> None:
        self.do(Received(Disconnect("moving", retry=again)))
        self.do(Closed())

    # ------------------------------------------------------------------------------ invariants

    @invariant()
    def the_session_is_sound(self) -> None:
        self.session.validate()

    @invariant()
    def programs_are_those_it_knows(self) -> None:
        occupying = {a.key for a in self.session.attempts if a.state.occupies}
        assert occupying == self.programs

    @invariant()
    def the_spool_holds_what_is_not_acknowledged(self) -> None:
        for attempt in self.session.attempts:
            if attempt.finished is not None:
                assert self.spooled[attempt.key][-1] == attempt.finished


TestSession = SessionMachine.TestCase
TestSession.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
