"""The session: events and what it asks for in return, case by case."""

from typing import Any

import pytest

from gridx.domain.sandbox import Backend
from gridx.protocol.frames import (
    Assign,
    Broadcast,
    Disconnect,
    Drain,
    Finished,
    Frame,
    FromCoordinator,
    Heartbeat,
    Hello,
    Leaving,
    Log,
    Pause,
    Refused,
    Resume,
    Started,
    State,
    WireResources,
)
from gridx.worker.attempts import ATTEMPTS_MAX, TRANSITIONS, WAITING_MAX, AttemptState, Happening
from gridx.worker.events import (
    Accepted,
    Action,
    Closed,
    DiskRoom,
    End,
    Ended,
    Event,
    Forget,
    HangUp,
    HeartbeatDue,
    LeaseKey,
    LeaveAsked,
    Opened,
    Output,
    OwnerPaused,
    Received,
    Record,
    Result,
    Run,
    Send,
    SendLogs,
    Stop,
    Tell,
)
from gridx.worker.session import PAUSE_BEATS, Link, Session
from tests.worker.frames import (
    WORKER,
    ack,
    assign,
    assignment,
    cancel,
    drop,
    finished,
    kept,
    new_key,
    profile,
    spec,
    take_back,
    welcome,
)


class Rig:
    """A session whose invariants are checked after each event."""

    def __init__(self, session: Session | None = None) -> None:
        self.session = session or Session(profile())

    def do(self, *events: Event) -> list[Action]:
        """The actions of the last event."""
        actions: list[Action] = []
        for event in events:
            actions = self.session.handle(event)
            self.session.validate()
        return actions

    def hear(self, *frames: FromCoordinator) -> list[Action]:
        return self.do(*(Received(frame) for frame in frames))

    def connect(self, **more: Any) -> list[Action]:
        return self.do(Opened(), Received(welcome(**more)))

    def state_of(self, key: LeaseKey) -> AttemptState | None:
        return next((a.state for a in self.session.attempts if a.key == key), None)


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.connect()
    return rig


def sent(actions: list[Action]) -> list[Frame]:
    return [action.frame for action in actions if isinstance(action, Send)]


def started(key: LeaseKey) -> Started:
    return Started(*key, sandbox="bubblewrap")


# ------------------------------------------------------------------------- life of an attempt


def test_an_attempt_runs_writes_ends_and_is_forgotten_once_acknowledged(rig: Rig) -> None:
    key = new_key()
    assert rig.hear(assign(key)) == [
        Send(started(key)),
        Run(assignment(key), Backend.BUBBLEWRAP),
    ]
    first, second = Log(*key, 0, "stdout", b"a"), Log(*key, 1, "stderr", b"b")
    assert rig.do(Output(key, "stdout", b"a")) == [Record(first), Send(first)]
    assert rig.do(Output(key, "stderr", b"b")) == [Record(second), Send(second)]
    end = finished(key)
    assert rig.do(Ended(end)) == [Record(end), Send(end)]
    assert rig.state_of(key) is AttemptState.UNACKNOWLEDGED
    assert rig.hear(ack(key)) == [Forget(key)]
    assert rig.state_of(key) is None


def test_what_does_not_fit_waits_and_starts_in_its_turn(rig: Rig) -> None:
    first, big, small = new_key(), new_key(), new_key()
    rig.hear(assign(first))
    rig.hear(assign(big, cpus=2.0), assign(small))
    assert rig.state_of(big) is AttemptState.WAITING
    assert rig.state_of(small) is AttemptState.WAITING, "nobody passes the one in front"
    actions = rig.do(Ended(finished(first)))
    assert Run(assignment(big, spec(cpus=2.0)), Backend.BUBBLEWRAP) in actions
    actions = rig.do(Ended(finished(big)))
    assert Run(assignment(small), Backend.BUBBLEWRAP) in actions


def _waiting(rig: Rig) -> LeaseKey:
    key = new_key()
    rig.hear(assign(new_key(), cpus=2.0), assign(key))
    return key


def _running(rig: Rig) -> LeaseKey:
    key = new_key()
    rig.hear(assign(key))
    return key


def _stopping(rig: Rig) -> LeaseKey:
    key = _running(rig)
    rig.hear(drop(key))
    return key


def _unacknowledged(rig: Rig) -> LeaseKey:
    key = _running(rig)
    rig.do(Ended(finished(key)))
    return key


MAKE = {
    AttemptState.WAITING: _waiting,
    AttemptState.RUNNING: _running,
    AttemptState.STOPPING: _stopping,
    AttemptState.UNACKNOWLEDGED: _unacknowledged,
}
FRAMES = {
    Happening.ACK: ack,
    Happening.DROP: drop,
    Happening.TAKE_BACK: take_back,
    Happening.CANCEL: cancel,
}
W, R, S, U = MAKE
STOP_FORGET = "stop, forget"
CASES: list[tuple[AttemptState, Happening, AttemptState | None, str]] = [
    (W, Happening.ACK, W, ""),
    (W, Happening.DROP, None, ""),
    (W, Happening.TAKE_BACK, None, ""),
    (W, Happening.CANCEL, U, "reported"),
    (R, Happening.ACK, R, ""),
    (R, Happening.DROP, S, STOP_FORGET),
    (R, Happening.TAKE_BACK, S, STOP_FORGET),
    (R, Happening.CANCEL, R, "stop"),
    (S, Happening.ACK, S, ""),
    (S, Happening.DROP, S, ""),
    (S, Happening.TAKE_BACK, S, ""),
    (S, Happening.CANCEL, S, ""),
    (U, Happening.ACK, None, "forget"),
    (U, Happening.DROP, None, "forget"),
    (U, Happening.TAKE_BACK, None, "forget"),
    (U, Happening.CANCEL, U, ""),
]


@pytest.mark.parametrize(("before", "word", "after", "effect"), CASES)
def test_a_word_about_an_attempt(
    rig: Rig, before: AttemptState, word: Happening, after: AttemptState | None, effect: str
) -> None:
    key = MAKE[before](rig)
    actions = rig.hear(FRAMES[word](key))
    assert rig.state_of(key) is after
    end = Finished(*key, reason="cancelled", detail="Cancelled before it ran.")
    assert (
        actions
        == {
            "": [],
            "stop": [Stop(key)],
            "forget": [Forget(key)],
            STOP_FORGET: [Stop(key), Forget(key)],
            "reported": [Record(end), Send(end)],
        }[effect]
    )


def test_every_word_in_every_state_is_a_case() -> None:
    assert {(state, word) for state, word, _, _ in CASES} == {(s, h) for s in MAKE for h in FRAMES}
    reachable = {state for state, _ in TRANSITIONS}
    assert reachable == set(AttemptState)


def test_words_about_nothing_known_change_nothing(rig: Rig) -> None:
    for make in FRAMES.values():
        assert rig.hear(make(new_key())) == []


def test_output_and_end_of_a_stopping_attempt_go_nowhere(rig: Rig) -> None:
    key = _stopping(rig)
    assert rig.do(Output(key, "stdout", b"late")) == []
    assert rig.session.attempts.free.cpus == 1.0, "it still holds its CPU"
    assert rig.do(Ended(finished(key))) == []
    assert rig.session.attempts.free.cpus == 2.0


def test_the_same_assignment_twice_runs_once(rig: Rig) -> None:
    key = new_key()
    rig.hear(assign(key))
    assert rig.hear(assign(key)) == []


@pytest.mark.parametrize(
    ("what", "word"),
    [
        (spec(cpus=2.5), "resources"),
        (spec(language="cobol"), "language"),
    ],
)
def test_what_can_never_run_here_goes_back_at_once(rig: Rig, what: object, word: str) -> None:
    key = new_key()
    frames = sent(rig.hear(Assign([assignment(key, what)])))  # pyright: ignore[reportArgumentType]
    [end] = frames
    assert isinstance(end, Finished)
    assert end.reason == "sandbox_error"
    assert word in (end.detail or "")


def test_the_queue_is_bounded(rig: Rig) -> None:
    rig.hear(assign(*_keys(2)), assign(*_keys(WAITING_MAX)))
    assert rig.session.attempts.count(AttemptState.WAITING) == WAITING_MAX
    [end] = [f for f in sent(rig.hear(assign(new_key()))) if isinstance(f, Finished)]
    assert end.reason == "sandbox_error"


def test_nothing_starts_while_too_many_results_wait_for_their_ack() -> None:
    results = [Result(0, finished(key)) for key in _keys(ATTEMPTS_MAX - 1)]
    rig = Rig(Session(profile(), results))
    rig.connect()
    key = new_key()
    rig.hear(assign(key))
    assert rig.state_of(key) is AttemptState.WAITING
    rig.hear(ack(LeaseKey.of(results[0].finished)))
    assert rig.state_of(key) is AttemptState.RUNNING


def _keys(count: int) -> list[LeaseKey]:
    return [new_key() for _ in range(count)]


# ----------------------------------------------------------------------------- the connection


def test_hello_names_what_is_held_and_what_is_kept() -> None:
    old = new_key()
    rig = Rig(Session(profile(), [Result(3, finished(old))]))
    rig.connect()
    running, waiting, over, stopping = new_key(), new_key(), new_key(), new_key()
    rig.hear(assign(stopping), drop(stopping), assign(over))
    rig.do(Ended(finished(over)))
    rig.hear(assign(running), assign(waiting))
    [hello] = sent(rig.do(Closed(), Opened()))
    assert isinstance(hello, Hello)
    assert hello.worker_id == WORKER
    assert hello.running == [running.ref, waiting.ref]
    assert hello.unacknowledged == [old.ref, over.ref]


def test_after_a_cut_only_what_is_missing_is_sent_again(rig: Rig) -> None:
    running, over = new_key(), new_key()
    rig.hear(assign(running, over))
    rig.do(Output(running, "stdout", b"1"), Output(over, "stdout", b"2"), Closed())
    end = finished(over)
    assert rig.do(Output(running, "stdout", b"3")) == [
        Record(Log(*running, 1, "stdout", b"3")),
    ], "what nobody hears is kept"
    assert rig.do(Ended(end)) == [Record(end)]
    actions = rig.connect(keep=[kept(running, 1), kept(over, 1)])
    assert actions == [
        Accepted(WORKER, None, 10.0),
        Send(started(running)),
        SendLogs(running, 1, 2),
        Send(started(over)),
        Send(end),
    ]


def test_a_result_is_sent_on_every_connection_until_its_ack(rig: Rig) -> None:
    key = _unacknowledged(rig)
    for _ in range(3):
        rig.do(Closed())
        assert Send(finished(key)) in rig.connect(keep=[kept(key, 0)])
    rig.hear(ack(key))
    rig.do(Closed())
    assert rig.connect() == [Accepted(WORKER, None, 10.0)]


def test_welcome_drops_what_is_no_longer_ours(rig: Rig) -> None:
    running, over = _running(rig), _unacknowledged(rig)
    rig.do(Closed())
    actions = rig.connect(drop=[running.ref, over.ref])
    assert actions[1:] == [Stop(running), Forget(running), Forget(over)]


def test_the_token_of_an_enrolment_is_handed_on() -> None:
    rig = Rig()
    assert rig.connect(worker_token="secret") == [Accepted(WORKER, "secret", 10.0)]


def test_heartbeats_name_the_leases_and_the_room(rig: Rig) -> None:
    running, waiting = new_key(), new_key()
    rig.hear(assign(running), assign(waiting, cpus=2.0))
    assert rig.do(HeartbeatDue(0.5)) == [
        Send(Heartbeat(WireResources(1.0, 960, 0, 1008), 0.5, [running.ref, waiting.ref]))
    ]
    rig.do(Closed())
    assert rig.do(HeartbeatDue(0.5)) == []


def test_a_full_disk_starts_nothing_and_offers_nothing(rig: Rig) -> None:
    key = new_key()
    rig.do(DiskRoom(enough=False))
    assert rig.hear(assign(key)) == []
    assert rig.do(HeartbeatDue(0.0)) == [
        Send(Heartbeat(WireResources(0.0, 0, 0, 0), 0.0, [key.ref]))
    ]
    assert Run(assignment(key), Backend.BUBBLEWRAP) in rig.do(DiskRoom(enough=True))


@pytest.mark.parametrize("frame", [ack(new_key()), Assign([]), Pause(), Drain(), Broadcast("x")])
def test_nothing_is_believed_before_the_welcome(frame: FromCoordinator) -> None:
    [action] = Rig().do(Opened(), Received(frame))
    assert isinstance(action, HangUp)


def test_a_second_welcome_ends_the_connection(rig: Rig) -> None:
    [action] = rig.hear(welcome())
    assert isinstance(action, HangUp)


@pytest.mark.parametrize("frame", [Refused("full", retry=True), Disconnect("moving", retry=True)])
def test_a_refusal_worth_another_try_only_hangs_up(frame: FromCoordinator) -> None:
    [action] = Rig().do(Opened(), Received(frame))
    assert isinstance(action, HangUp)


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (Refused("this worker is banned", retry=False), "banned"),
        (Disconnect("replaced", retry=False), "--state-dir"),
    ],
)
def test_a_final_refusal_stops_everything_and_ends(
    rig: Rig, frame: FromCoordinator, word: str
) -> None:
    running, over = _running(rig), _unacknowledged(rig)
    assert rig.hear(frame) == [Stop(running), Forget(running)]
    [end] = rig.do(Ended(finished(running)))
    assert isinstance(end, End)
    assert word in (end.failure or "")
    assert rig.state_of(over) is AttemptState.UNACKNOWLEDGED, "its result stays in the spool"


# ---------------------------------------------------------------------------- pause and leave


def test_a_pause_here_is_told_and_one_from_afar_is_shown(rig: Rig) -> None:
    assert rig.do(OwnerPaused(paused=True)) == [Send(State(paused=True))]
    assert rig.hear(Pause()) == []
    assert rig.hear(Resume()) == [Tell("Resumed over the grid.")]
    assert rig.hear(Broadcast("hello")) == [Tell("Message from the grid: hello")]


def test_a_pause_while_away_is_told_later(rig: Rig) -> None:
    rig.do(Closed())
    assert rig.do(OwnerPaused(paused=True)) == []
    for _ in range(2):
        assert rig.connect(paused=False)[-1] == Send(State(paused=True))
        assert rig.session.paused
        rig.do(Closed())
    rig.connect(paused=False)
    rig.do(*[HeartbeatDue(0.0)] * PAUSE_BEATS, Closed())
    rig.connect(paused=False)
    assert not rig.session.paused, "then the grid's word holds"


def test_draining_finishes_what_is_here_and_leaves(rig: Rig) -> None:
    running, waiting = new_key(), new_key()
    rig.hear(assign(running, waiting, cpus=2.0), Drain())
    actions = rig.do(Ended(finished(running)))
    assert Run(assignment(waiting, spec(cpus=2.0)), Backend.BUBBLEWRAP) in actions
    rig.do(Ended(finished(waiting)))
    assert rig.hear(ack(running)) == [Forget(running)]
    assert rig.hear(ack(waiting)) == [Forget(waiting), Send(Leaving()), End()]


def test_leaving_hands_over_what_runs_and_waits_for_acks(rig: Rig) -> None:
    running, waiting = new_key(), new_key()
    over = _unacknowledged(rig)
    rig.hear(assign(running, waiting, cpus=2.0))
    assert rig.do(LeaveAsked()) == [Send(Leaving()), Stop(running), Forget(running)]
    assert rig.hear(assign(new_key())) == []
    assert rig.do(Ended(finished(running))) == []
    assert rig.hear(ack(over)) == [Forget(over), End()]
    assert rig.do(LeaveAsked(), Closed()) == []


def test_leaving_while_away_ends_at_once_and_keeps_results(rig: Rig) -> None:
    over = _unacknowledged(rig)
    rig.do(Closed())
    assert rig.do(LeaveAsked()) == [End()]
    assert rig.state_of(over) is AttemptState.ENDED


def test_a_welcome_that_crosses_the_leaving_is_answered_with_it(rig: Rig) -> None:
    key = _running(rig)
    rig.do(Closed(), Opened(), LeaveAsked())
    actions = rig.hear(welcome(keep=[kept(key, 0)]))
    assert actions == [Accepted(WORKER, None, 10.0), Send(Leaving())]
    assert rig.session.link is Link.CONNECTED
