"""Events: numbered without gaps for each user, in the order of commits."""

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Connection, Engine

from gridx.domain.attempt import Reason
from gridx.domain.job import JobStatus
from gridx.storage import events
from gridx.storage.dialect import reading
from gridx.storage.events import Happening
from tests.storage.rows import AT, add_user, new_id


def happening(user_id: str, job_id: str = "job", **more: object) -> Happening:
    return Happening(user_id, AT, job_id, JobStatus.QUEUED, **more)  # type: ignore[arg-type]


def test_each_users_events_are_numbered_from_one(connection: Connection) -> None:
    for user_id in ("alice", "bob"):
        add_user(connection, user_id)
    events.append(connection, [happening("alice"), happening("bob"), happening("alice")])
    events.append(connection, [])
    events.append(connection, [happening("alice")])
    numbers = [event.number for event in events.read(connection, "alice", 0, None, 100)]
    assert numbers == [1, 2, 3]
    assert [event.number for event in events.read(connection, "bob", 0, None, 100)] == [1]
    assert events.last_number(connection, "alice") == 3
    assert events.last_number(connection, "nobody") == 0


def test_an_event_comes_back_as_it_was(connection: Connection) -> None:
    add_user(connection, "alice")
    wanted = Happening("alice", AT, "job", JobStatus.FAILED, Reason.TIMEOUT, 3, True)
    events.append(connection, [wanted])
    (found,) = events.read(connection, "alice", 0, None, 100)
    assert (found.at, found.job_id, found.status) == (AT, "job", JobStatus.FAILED)
    assert (found.reason, found.attempt, found.cancel_requested) == (Reason.TIMEOUT, 3, True)


def test_events_are_read_from_a_number_and_of_a_job(connection: Connection) -> None:
    add_user(connection, "alice")
    events.append(connection, [happening("alice", f"job{n % 2}") for n in range(6)])
    found = events.read(connection, "alice", 2, None, 3)
    assert [event.number for event in found] == [3, 4, 5]
    found = events.read(connection, "alice", 2, "job1", 100)
    assert [event.number for event in found] == [4, 6]


def happen(engine: Engine, first: str, then: str) -> None:
    for _ in range(40):
        with engine.begin() as connection:
            ids = (new_id(), new_id())
            events.append(connection, [happening(first, ids[0]), happening(then, ids[1])])


def look(engine: Engine) -> list[int]:
    """The numbers of 160 events of a user, in the order they came to light."""
    seen: list[int] = []
    while len(seen) < 160:
        with reading(engine) as connection:
            found = events.read(connection, "alice", seen[-1] if seen else 0, None, 100)
        seen += [event.number for event in found]
    return seen


def test_who_has_seen_a_number_never_finds_an_earlier_one_later(engine: Engine) -> None:
    with engine.begin() as connection:
        for user_id in ("alice", "bob"):
            add_user(connection, user_id)
    with ThreadPoolExecutor(5) as threads:
        looking = threads.submit(look, engine)
        pairs = [("alice", "bob"), ("bob", "alice")] * 2
        for writing in [threads.submit(happen, engine, *pair) for pair in pairs]:
            writing.result()
        assert looking.result() == list(range(1, 161))
    with engine.connect() as connection:
        found = events.read(connection, "bob", 0, None, 1_000)
        assert [event.number for event in found] == list(range(1, 161))
