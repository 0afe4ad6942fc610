"""Queues: found, claimed from in their order, and filled when what was put off is due."""

import threading
from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, Engine

from gridx.domain.job import Failure, JobSpec, JobState
from gridx.domain.matching import shape_key, shape_of, shunning
from gridx.storage import jobs, queues
from gridx.storage.dialect import is_sqlite
from tests.storage.rows import AT, add_jobs, add_user, assign, new_id, new_job
from tests.storage.test_jobs import WHOLE as TIMED

PLAIN = shape_key(shape_of(JobSpec()))
WHOLE = replace(TIMED, not_before=None, deadline=None)


@pytest.fixture
def store(connection: Connection) -> Connection:
    for user_id in ("alice", "bob"):
        add_user(connection, user_id, 10**12)
    return connection


def claimed(found: Sequence[tuple[JobState, JobSpec, str | None]]) -> list[str]:
    return [state.job_id for state, _, _ in found]


def test_a_claim_takes_the_urgent_first_and_then_the_oldest(store: Connection) -> None:
    normal = [new_job() for _ in range(3)]
    urgent = new_job(spec=JobSpec(code="x", priority=1))
    lazy = new_job(spec=JobSpec(code="x", priority=-1))
    add_jobs(store, [lazy, *normal, urgent])
    order = [urgent.job_id, *(job.job_id for job in normal), lazy.job_id]
    assert claimed(queues.claim(store, "alice", PLAIN, 2, AT)) == order[:2]
    assert claimed(queues.claim(store, "alice", PLAIN, 100, AT)) == order


def test_a_claim_finds_only_what_waits_in_its_queue(store: Connection) -> None:
    ours, placed, other_shape = new_job(), new_job(), new_job(spec=WHOLE)
    states = add_jobs(store, [ours, placed, other_shape, new_job("bob")])
    assign(store, states[1], new_id())
    assert claimed(queues.claim(store, "alice", PLAIN, 100, AT)) == [ours.job_id]
    assert claimed(queues.claim(store, "carol", PLAIN, 100, AT)) == []
    ((_, spec, traceparent),) = queues.claim(store, "alice", shape_key(shape_of(WHOLE)), 100, AT)
    assert (spec, traceparent) == (WHOLE, None)


def test_every_queue_is_found_with_its_most_urgent_job(store: Connection) -> None:
    assert queues.find_queues(store) == []
    urgent = new_job(spec=JobSpec(code="x", priority=9))
    states = add_jobs(store, [new_job(), urgent, new_job(spec=WHOLE), new_job("bob")])
    placed = add_jobs(store, [new_job("bob", spec=WHOLE)])
    assign(store, placed[0], new_id())
    heads = {(head.user_id, head.shape_key): head for head in queues.find_queues(store)}
    whole = shape_key(shape_of(WHOLE))
    assert set(heads) == {("alice", PLAIN), ("alice", whole), ("bob", PLAIN)}
    assert heads["alice", PLAIN].number == states[1].number
    assert heads["alice", PLAIN].priority == 9
    assert all(shape_key(head.shape) == head.shape_key for head in heads.values())
    assert jobs.count_waiting(store, ["alice", "bob"]) == {"alice": 3, "bob": 1}


def test_two_dispatchers_claim_different_jobs(engine: Engine) -> None:
    with engine.begin() as connection:
        add_user(connection, "alice", 10**12)
        new = [new_job() for _ in range(10)]
        add_jobs(connection, new)
    if is_sqlite(engine):
        with engine.begin() as one:  # one writer at a time: the second would wait for the first
            states = [state for state, _, _ in queues.claim(one, "alice", PLAIN, 5, AT)]
            for state in states:
                assign(one, state, new_id())
            first = [state.job_id for state in states]
        with engine.begin() as two:
            second = claimed(queues.claim(two, "alice", PLAIN, 100, AT))
    else:
        with engine.begin() as one, engine.begin() as two:
            first = claimed(queues.claim(one, "alice", PLAIN, 5, AT))
            second = claimed(queues.claim(two, "alice", PLAIN, 100, AT))
    assert first == [job.job_id for job in new[:5]]
    assert second == [job.job_id for job in new[5:]]


def test_dispatchers_in_threads_claim_each_job_once(engine: Engine) -> None:
    with engine.begin() as connection:
        add_user(connection, "alice", 10**12)
        new = [new_job() for _ in range(120)]
        add_jobs(connection, new)
    found: list[str] = []
    start = threading.Barrier(4)

    def dispatch() -> None:
        start.wait(10)
        # A claim may come back short while another holds what it looked at: ask until told twice.
        empty = 0
        while empty < 3:
            with engine.begin() as connection:
                states = [state for state, _, _ in queues.claim(connection, "alice", PLAIN, 7, AT)]
                for state in states:
                    assign(connection, state, new_id())
            found.extend(state.job_id for state in states)
            empty = 0 if states else empty + 1

    threads = [threading.Thread(target=dispatch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(job.job_id for job in new)


def test_the_oldest_that_waits_is_known(store: Connection) -> None:
    states = add_jobs(store, [new_job(at=AT + n) for n in range(3)])
    assign(store, states[0], new_id())
    assert queues.oldest_waiting(store) == AT + 1


def test_what_is_put_off_is_in_no_queue_until_it_is_due(store: Connection) -> None:
    times = (AT + 30, AT + 10, AT + 20, None)
    new = [new_job(spec=JobSpec(not_before=at)) for at in times]
    add_jobs(store, new)
    assert queues.earliest_due(store) == AT + 10
    assert claimed(queues.claim(store, "alice", PLAIN, 9, AT)) == [new[3].job_id]
    assert queues.queue_due(store, AT + 9, 9) == 0
    assert queues.queue_due(store, AT + 25, 1) == 1
    assert queues.queue_due(store, AT + 25, 9) == 1
    assert queues.earliest_due(store) == AT + 30
    found = queues.claim(store, "alice", PLAIN, 9, AT + 25)
    assert claimed(found) == [new[1].job_id, new[2].job_id, new[3].job_id]
    assert [state.queued_at for state, _, _ in found] == [AT + 10, AT + 20, AT]
    assert queues.queue_due(store, AT + 30, 9) == 1
    assert queues.earliest_due(store) is None


def test_a_time_that_has_passed_puts_nothing_off(store: Connection) -> None:
    (state,) = add_jobs(store, [new_job(spec=JobSpec(not_before=AT))])
    assert state.waiting
    assert queues.earliest_due(store) is None


def test_what_is_past_its_deadline_is_not_claimed(store: Connection) -> None:
    late, soon = (new_job(spec=JobSpec(deadline=AT + n)) for n in (5, 6))
    add_jobs(store, [late, soon])
    assert claimed(queues.claim(store, "alice", PLAIN, 1, AT + 5)) == [soon.job_id]


def test_jobs_that_shun_a_worker_are_a_queue_of_their_own(store: Connection) -> None:
    bad = new_id()
    states = add_jobs(store, [new_job() for _ in range(3)])
    for state in states[:2]:
        shunned = shunning(state.shape, bad)
        after = replace(state, shape=shunned, failures=(Failure(bad, lost=True),))
        jobs.save_jobs(store, [(state, after)])
    heads = {head.shape.shuns: head for head in queues.find_queues(store)}
    assert set(heads) == {(), (bad,)}
    assert all(shape_key(head.shape) == head.shape_key for head in heads.values())
    found = queues.claim(store, "alice", heads[bad,].shape_key, 9, AT)
    assert claimed(found) == [state.job_id for state in states[:2]]


def test_what_is_due_is_queued_once_by_several(engine: Engine) -> None:
    with engine.begin() as connection:
        add_user(connection, "alice", 10**12)
        add_jobs(connection, [new_job(spec=JobSpec(not_before=AT + 1)) for _ in range(100)])
    moved: list[int] = []
    start = threading.Barrier(3)

    def move() -> None:
        start.wait(10)
        while True:
            with engine.begin() as connection:
                if queues.earliest_due(connection) is None:
                    return
                moved.append(queues.queue_due(connection, AT + 1, 7))

    threads = [threading.Thread(target=move) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(moved) == 100
