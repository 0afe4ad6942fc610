"""Storing jobs, listing them, saving what changed."""

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection

from gridx.domain.attempt import Reason
from gridx.domain.job import Failure, Job, JobSpec, JobStatus, Limits
from gridx.domain.matching import shape_key, shape_of
from gridx.domain.resources import Resources
from gridx.storage import jobs
from tests.storage.rows import AT, add_jobs, add_user, assign, new_id, new_job

PLAIN = shape_key(shape_of(JobSpec()))
WHOLE = JobSpec(
    code="print('é\n\t☃')",
    language="bash",
    command=("a b", "'; DROP TABLE jobs; --", ""),
    args=("-x", "é"),
    env={"K": "v\nw", "Z": ""},
    stdin="in\r\n",
    name="ein Name",
    tags=("y", "x", "y"),
    resources=Resources(0.25, 512, 2, 1024),
    limits=Limits(1.5, 10, 3),
    require={"os": "linux", "label:a": "b"},
    priority=-7,
    max_attempts=5,
    retry_on_failure=True,
    max_cost=6_000,
    not_before=AT + 1,
    deadline=AT + 2,
)


@pytest.fixture
def store(connection: Connection) -> Connection:
    for user_id in ("alice", "bob"):
        add_user(connection, user_id, 10**12)
    return connection


@pytest.mark.parametrize(
    "spec",
    [JobSpec(code="x"), WHOLE, JobSpec(command="echo a | wc -c"), JobSpec(command=())],
    ids=["plain", "whole", "line", "no words"],
)
def test_a_spec_comes_back_as_it_was(store: Connection, spec: JobSpec) -> None:
    (state,) = add_jobs(store, [new_job(spec=spec)])
    found = jobs.find_job(store, state.job_id)
    assert found is not None
    assert found.spec == spec


def test_a_new_job_is_queued_and_waits(store: Connection) -> None:
    new = new_job()
    (state,) = add_jobs(store, [new])
    assert state.status is JobStatus.QUEUED
    assert state.waiting
    assert (state.attempt, state.attempts_counted, state.lease) == (0, 0, None)
    assert state.terms == new.terms
    assert jobs.find_job(store, new_id()) is None


def test_job_numbers_grow_in_the_order_of_submission(store: Connection) -> None:
    new = [new_job() for _ in range(20)]
    states = add_jobs(store, new)
    numbers = [state.number for state in states]
    assert numbers == sorted(set(numbers))
    assert add_jobs(store, [new_job()])[0].number > numbers[-1]


# ------------------------------------------------------------------ lists


def listed(store: Connection, *, tag: str | None = None, limit: int = 100,
           before: int | None = None, **where: str) -> list[str]:  # fmt: skip
    found = jobs.list_jobs(store, "alice", where, tag=tag, limit=limit, before=before)
    return [job.job_id for job in found]


def test_lists_are_ones_own_newest_first(store: Connection) -> None:
    mine = [new_job() for _ in range(5)]
    add_jobs(store, [*mine, new_job("bob")])
    newest_first = [job.job_id for job in reversed(mine)]
    assert listed(store) == newest_first
    assert listed(store, limit=2) == newest_first[:2]
    second = jobs.find_job(store, newest_first[1])
    assert second is not None
    assert listed(store, before=second.number) == newest_first[2:]


def test_a_list_shows_no_code(store: Connection) -> None:
    add_jobs(store, [new_job(spec=WHOLE)])
    (job,) = jobs.list_jobs(store, "alice", {}, tag=None, limit=1, before=None)
    assert (job.spec.code, job.spec.command, job.spec.env) == ("", None, {})
    assert (job.spec.name, job.spec.tags, job.spec.require) == (
        WHOLE.name, WHOLE.tags, WHOLE.require,
    )  # fmt: skip


def test_filters_of_lists(store: Connection) -> None:
    plain = new_job()
    named = new_job(spec=JobSpec(code="x", name="demo"))
    tagged = new_job(spec=JobSpec(code="x", tags=("blue", "red")))
    of_batch = new_job(batch=new_id())
    add_jobs(store, [plain, named, tagged, of_batch])
    add_jobs(store, [new_job("bob", spec=JobSpec(code="x", name="demo", tags=("red",)))])
    assert listed(store, name="demo") == [named.job_id]
    assert listed(store, tag="red") == [tagged.job_id]
    assert listed(store, batch_id=of_batch.batch_id or "") == [of_batch.job_id]
    assert listed(store, status="running") == []
    assert len(listed(store, status="queued")) == 4
    assert listed(store, name="demo", tag="red") == []
    assert listed(store, name="' OR '1'='1") == []


# ------------------------------------------------------------------ saving


def test_a_change_is_saved_whole(store: Connection) -> None:
    (before,) = add_jobs(store, [new_job()])
    after = replace(
        before, status=JobStatus.FAILED, reason=Reason.EXIT_CODE, exit_code=3, attempt=2,
        attempts_counted=1, lease=None, worker_id=new_id(), cancel_requested=True,
        queued_at=AT + 1, started_at=AT + 2, finished_at=AT + 3, billed_us=4, cost=5, reward=6,
    )  # fmt: skip
    jobs.save_jobs(store, [(before, after)])
    assert jobs.lock_jobs(store, [before.job_id]) == {before.job_id: after}


@pytest.mark.parametrize("stale", ["status", "lease", "gone"])
def test_a_change_of_what_is_no_longer_so_is_refused(store: Connection, stale: str) -> None:
    (job,) = add_jobs(store, [new_job()])
    before = {
        "status": replace(job, status=JobStatus.RUNNING),
        "lease": replace(job, lease=new_id()),
        "gone": replace(job, number=job.number + 1_000),
    }[stale]
    with pytest.raises(AssertionError, match="changed under its lock"):
        jobs.save_jobs(store, [(before, replace(before, attempt=9))])


def test_jobs_that_waited_too_long_are_found_oldest_first(store: Connection) -> None:
    new = [new_job(at=AT + n) for n in range(5)]
    states = add_jobs(store, new)
    assign(store, states[0], new_id())
    found = jobs.lock_waiting_since(store, AT + 4, 2)
    assert [state.job_id for state in found] == [new[1].job_id, new[2].job_id]


def test_unfinished_jobs_are_counted_by_status(store: Connection) -> None:
    states = add_jobs(store, [new_job(), new_job(), new_job()])
    done = replace(states[0], status=JobStatus.CANCELLED, finished_at=AT, cost=0, reward=0)
    running = replace(states[1], status=JobStatus.RUNNING)
    jobs.save_jobs(store, [(states[0], done), (states[1], running)])
    assert jobs.count_by_status(store) == {"queued": 1, "running": 1}


def test_a_batch_is_its_users(store: Connection) -> None:
    batch = new_id()
    states = add_jobs(store, [new_job(batch=batch), new_job(batch=batch), new_job()])
    done = replace(states[0], status=JobStatus.CANCELLED, finished_at=AT, cost=0, reward=0)
    jobs.save_jobs(store, [(states[0], done)])
    assert jobs.batch_exists(store, "alice", batch)
    assert jobs.batch_exists(store, None, batch)
    assert not jobs.batch_exists(store, "bob", batch)
    assert jobs.lock_unfinished_of_batch(store, "alice", batch) == [states[1]]
    assert jobs.lock_unfinished_of_batch(store, "bob", batch) == []


def test_a_job_reads_back_as_it_ended(store: Connection) -> None:
    (before,) = add_jobs(store, [new_job()])
    ended = replace(before, status=JobStatus.SUCCEEDED, exit_code=0, finished_at=AT + 9, cost=7,
                    reward=3, billed_us=1)  # fmt: skip
    jobs.save_jobs(store, [(before, ended)])
    job = jobs.find_job(store, before.job_id)
    assert isinstance(job, Job)
    assert (job.status, job.exit_code, job.finished_at) == (JobStatus.SUCCEEDED, 0, AT + 9)
    assert (job.cost, job.reward, job.billed_us) == (7, 3, 1)


def test_what_waits_for_its_time_waits_too(store: Connection) -> None:
    add_jobs(store, [new_job(), new_job(spec=JobSpec(not_before=AT + 5)), new_job("bob")])
    assert jobs.count_waiting(store, ["alice", "bob"]) == {"alice": 2, "bob": 1}
    assert jobs.count_by_status(store) == {"queued": 3}


def test_jobs_past_their_deadline_are_found_until_they_start(store: Connection) -> None:
    new = [new_job(spec=JobSpec(deadline=AT + n)) for n in (3, 1, 2, 1)]
    states = add_jobs(store, [*new, new_job()])
    assigned, _ = assign(store, states[2], new_id())
    running = replace(states[3], status=JobStatus.RUNNING, started_at=AT)
    jobs.save_jobs(store, [(states[3], running)])
    assert jobs.lock_past_deadline(store, AT, 9) == []
    assert jobs.lock_past_deadline(store, AT + 2, 9) == [states[1], assigned]
    assert jobs.lock_past_deadline(store, AT + 2, 1) == [states[1]]


def test_what_failed_a_job_is_kept_with_it(store: Connection) -> None:
    (state,) = add_jobs(store, [new_job()])
    failures = (Failure(new_id(), lost=True), Failure(new_id(), lost=False))
    after = replace(state, failures=failures, shape="s", due_at=AT + 9)
    jobs.save_jobs(store, [(state, after)])
    assert jobs.find_states(store, [state.job_id]) == {state.job_id: after}
