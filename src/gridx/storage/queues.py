"""Queues: finding those that hold work, claiming jobs from one, putting jobs that are due into theirs.

A queue is what one user's jobs of one shape wait in; a job that is put off is in none.
"""

from dataclasses import dataclass

from msgspec.structs import replace
from sqlalchemy import Connection, Integer, bindparam, or_, select, text, update

from gridx.domain.job import JobSpec, JobState
from gridx.domain.matching import Shape, shape_of
from gridx.storage.jobs import spec_of, state_of
from gridx.storage.tables import PUT_OFF, job_texts, jobs


@dataclass(frozen=True, slots=True)
class QueueHead:
    """A queue that holds work: whose, of what shape, and its most urgent job."""

    user_id: str
    shape: Shape
    shape_key: str
    priority: int
    number: int


_NEXT_QUEUE = text(
    """
    SELECT user_id, shape FROM jobs
    WHERE waiting AND (user_id, shape) > (:user_id, :shape)
    ORDER BY user_id, shape LIMIT 1
    """
)

_OF_QUEUE = (
    text("jobs.waiting"),
    jobs.c.user_id == bindparam("user_id"),
    jobs.c.shape == bindparam("shape"),
)
_HEAD = select(jobs).where(*_OF_QUEUE).order_by(jobs.c.priority.desc(), jobs.c.number).limit(1)


def find_queues(connection: Connection) -> list[QueueHead]:
    """Every queue that holds work, found by skipping through the index, not by reading the queue."""
    heads: list[QueueHead] = []
    position = {"user_id": "", "shape": ""}
    while (found := connection.execute(_NEXT_QUEUE, position).first()) is not None:
        position = {"user_id": found.user_id, "shape": found.shape}
        row = connection.execute(_HEAD, position).first()
        if row is not None:
            shuns = tuple(failure.worker_id for failure in state_of(row).failures)
            shape = replace(shape_of(spec_of(row, None)), shuns=shuns)
            heads.append(QueueHead(row.user_id, shape, row.shape, row.priority, row.number))
    return heads


_CHOOSE = (
    select(jobs.c.number)
    .where(*_OF_QUEUE, or_(jobs.c.deadline.is_(None), jobs.c.deadline > bindparam("now")))
    .order_by(jobs.c.priority.desc(), jobs.c.number)
    .limit(bindparam("limit", type_=Integer))
    .with_for_update(skip_locked=True)
)
_CHOSEN = (
    select(jobs, job_texts.c.texts)
    .join(job_texts, job_texts.c.number == jobs.c.number)
    .where(jobs.c.number.in_(bindparam("numbers", expanding=True)))
    .order_by(jobs.c.priority.desc(), jobs.c.number)
)


def claim(
    connection: Connection, user_id: str, key: str, limit: int, now: int
) -> list[tuple[JobState, JobSpec, str | None]]:
    """The first waiting jobs of a queue, locked, with their specs and trace parents.

    Those past their deadline are left to expire; those that were put off are in no queue.
    """
    wanted = {"user_id": user_id, "shape": key, "now": now, "limit": limit}
    numbers = list(connection.execute(_CHOOSE, wanted).scalars())
    if not numbers:
        return []
    rows = connection.execute(_CHOSEN, {"numbers": numbers})
    return [(state_of(row), spec_of(row, row.texts), row.traceparent) for row in rows.all()]


_EARLIEST_DUE = select(jobs.c.due_at).where(text(PUT_OFF)).order_by(jobs.c.due_at).limit(1)
_CHOOSE_DUE = (
    select(jobs.c.number)
    .where(text(PUT_OFF), jobs.c.due_at <= bindparam("now"))
    .order_by(jobs.c.due_at)
    .limit(bindparam("limit", type_=Integer))
    .with_for_update(skip_locked=True)
)
_FORGET_FUTURE = (
    update(jobs)
    .where(text(PUT_OFF), jobs.c.due_at > bindparam("after"), jobs.c.attempt > 0)
    .values(due_at=bindparam("now"))
)


def earliest_due(connection: Connection) -> int | None:
    """When the first of the jobs is due that were put off."""
    return connection.scalar(_EARLIEST_DUE)


def queue_due(connection: Connection, now: int, limit: int) -> int:
    """Put jobs that are due into their queues, where they wait from then on; how many."""
    numbers = list(connection.execute(_CHOOSE_DUE, {"now": now, "limit": limit}).scalars())
    if numbers:
        connection.execute(
            update(jobs)
            .where(jobs.c.number.in_(numbers))
            .values(waiting=True, queued_at=jobs.c.due_at, due_at=None)
        )
    return len(numbers)


def forget_future(connection: Connection, now: int, after: int) -> None:
    """What is to be tried again later than `after` is due: the clock was ahead and went back.

    Jobs that were never placed wait for a time that their submitter named, whatever the clock did.
    """
    connection.execute(_FORGET_FUTURE, {"now": now, "after": after})


def oldest_waiting(connection: Connection) -> int | None:
    """Since when the job that has waited longest waits."""
    query = select(jobs.c.queued_at).where(text("jobs.waiting")).order_by(jobs.c.queued_at).limit(1)
    return connection.scalar(query)
