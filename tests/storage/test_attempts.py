"""Attempts, their leases, and what they wrote."""

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection

from gridx.domain.attempt import AttemptStatus, Reason, Usage
from gridx.domain.job import JobState
from gridx.storage import attempts
from tests.storage.rows import AT, add_jobs, add_user, assign, new_id, new_job

WORKER, OTHER = new_id(), new_id()


@pytest.fixture
def store(connection: Connection) -> Connection:
    add_user(connection, "alice", 10**12)
    return connection


@pytest.fixture
def jobs_waiting(store: Connection) -> list[JobState]:
    return add_jobs(store, [new_job() for _ in range(3)])


def test_an_attempt_comes_back_as_it_was(store: Connection, jobs_waiting: list[JobState]) -> None:
    job, before = assign(store, jobs_waiting[0], WORKER)
    assert attempts.attempts_of(store, job.number, job.job_id) == (before,)
    ended = replace(
        before, status=AttemptStatus.FAILED, reason=Reason.TIMEOUT, exit_code=None, counted=True,
        started_at=AT + 1, finished_at=AT + 2, usage=Usage(1.25, 0.5, 12.5), billed_us=7,
        sandbox="bubblewrap",
    )  # fmt: skip
    attempts.save_attempts(store, [(before, ended)])
    assert attempts.attempts_of(store, job.number, job.job_id) == (ended,)
    assert attempts.attempts_of_jobs(store, [job]) == {job.number: [ended]}


@pytest.mark.parametrize("stale", ["status", "lease"])
def test_a_late_change_of_an_attempt_is_refused(
    store: Connection, jobs_waiting: list[JobState], stale: str
) -> None:
    _, attempt = assign(store, jobs_waiting[0], WORKER)
    before = {
        "status": replace(attempt, status=AttemptStatus.RUNNING),
        "lease": replace(attempt, lease=new_id()),
    }[stale]
    with pytest.raises(AssertionError, match="changed under its job's lock"):
        attempts.save_attempts(store, [(before, replace(before, status=AttemptStatus.LOST))])


def test_leases_are_found_with_their_jobs(store: Connection, jobs_waiting: list[JobState]) -> None:
    first = assign(store, jobs_waiting[0], WORKER)
    second = assign(store, jobs_waiting[1], OTHER)
    leases = [first[1].lease, second[1].lease, new_id(), "' OR 1=1 --"]
    assert attempts.lock_by_leases(store, leases) == {leases[0]: first, leases[1]: second}
    assert attempts.lock_by_leases(store, []) == {}


def test_live_leases(store: Connection, jobs_waiting: list[JobState]) -> None:
    mine = [assign(store, job, WORKER)[1] for job in jobs_waiting[:2]]
    other = assign(store, jobs_waiting[2], OTHER)[1]
    attempts.save_attempts(store, [(mine[0], replace(mine[0], status=AttemptStatus.LOST))])
    assert attempts.live_leases_of_worker(store, WORKER) == [mine[1].lease]
    assert sorted(attempts.workers_with_leases(store)) == sorted([WORKER, OTHER])
    assert attempts.count_live(store) == {WORKER: 1, OTHER: 1}
    attempts.save_attempts(store, [(other, replace(other, status=AttemptStatus.SUCCEEDED))])
    assert attempts.workers_with_leases(store) == [WORKER]


# ------------------------------------------------------------------ output


def frame(job: JobState, number: int, stream: str, start: int, data: bytes) -> dict[str, object]:
    return {
        "job_number": job.number, "attempt": 1, "frame": number, "stream": stream, "start": start,
        "data": data,
    }  # fmt: skip


def test_output_is_read_in_the_order_it_came(
    store: Connection, jobs_waiting: list[JobState]
) -> None:
    job = jobs_waiting[0]
    frames = [
        frame(job, 0, "stdout", 0, b"a\x00\xff"),
        frame(job, 1, "stderr", 0, b"E"),
        frame(job, 2, "stdout", 3, b"bc"),
    ]
    attempts.insert_output(store, frames)
    attempts.insert_output(store, frames[1:])  # sent twice
    assert attempts.read_output(store, job.number, 1) == [
        (0, "stdout", 0, b"a\x00\xff"), (1, "stderr", 0, b"E"), (2, "stdout", 3, b"bc"),
    ]  # fmt: skip
    assert attempts.read_output(store, job.number, 1, from_frame=1, limit=1) == [
        (1, "stderr", 0, b"E")
    ]
    assert attempts.read_output(store, job.number, 1, stream="stderr") == [(1, "stderr", 0, b"E")]
    assert attempts.written_so_far(store, [(job.number, 1), (job.number, 2)]) == {
        (job.number, 1): (3, 5, 1)
    }
    assert attempts.newest_attempt_with_output(store, job.number) == 1
    assert attempts.newest_attempt_with_output(store, jobs_waiting[1].number) is None


@pytest.mark.parametrize(
    ("limit", "data", "more"),
    [(10, b"aaabb", False), (5, b"aaabb", False), (4, b"aaab", True), (3, b"aaa", True),
     (0, b"", True)],
)  # fmt: skip
def test_the_first_bytes_of_a_stream(
    store: Connection, jobs_waiting: list[JobState], limit: int, data: bytes, more: bool
) -> None:
    job = jobs_waiting[0]
    attempts.insert_output(
        store,
        [
            frame(job, 0, "stdout", 0, b"aaa"),
            frame(job, 1, "stderr", 0, b"x" * 99),
            frame(job, 2, "stdout", 3, b"bb"),
        ],
    )
    assert attempts.read_first_bytes(store, job.number, 1, "stdout", limit) == (data, more)
    assert attempts.read_first_bytes(store, job.number, 2, "stdout", limit) == (b"", False)
