"""Events: what happened to jobs, numbered for each user without gaps in the order of commits.

The numbers come from the user's own row, which is locked until the commit: a reader that has seen
number 7 will never find a 6 that was not there before.
"""

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import Connection, bindparam, func, insert, select, update

from gridx.domain.attempt import Reason
from gridx.domain.job import JobStatus
from gridx.storage.dialect import ManyRows
from gridx.storage.tables import events, users


class Happening(Struct, frozen=True):
    """A change of a job's state, before it is numbered."""

    user_id: str
    at: int
    job_id: str
    status: JobStatus
    reason: Reason | None = None
    attempt: int | None = None
    cancel_requested: bool = False


class JobEvent(Struct, frozen=True):
    """A change of a job's state; `number` orders the events of one user."""

    number: int
    at: int
    job_id: str
    status: JobStatus
    reason: Reason | None
    attempt: int | None
    cancel_requested: bool


_LOCK = (
    select(users.c.user_id, users.c.last_event)
    .where(users.c.user_id.in_(bindparam("user_ids", expanding=True)))
    .order_by(users.c.user_id)
    .with_for_update()
)
_INSERT = ManyRows(
    lambda _: insert(events),
    ["user_id", "number", "at", "job_id", "status", "reason", "attempt", "cancel_requested"],
)
_UPDATE = ManyRows(
    lambda _: (
        update(users)
        .where(users.c.user_id == bindparam("b_user_id"))
        .values(last_event=bindparam("b_last"))
    ),
    ["b_user_id", "b_last"],
)


def append(connection: Connection, happenings: Sequence[Happening]) -> None:
    """Number and store happenings. Call it last: it locks the users' rows."""
    if not happenings:
        return
    wanted = {"user_ids": sorted({h.user_id for h in happenings})}
    last = {user_id: number for user_id, number in connection.execute(_LOCK, wanted)}
    rows: list[dict[str, object]] = []
    for h in happenings:
        last[h.user_id] += 1
        rows.append(
            {
                "user_id": h.user_id,
                "number": last[h.user_id],
                "at": h.at,
                "job_id": h.job_id,
                "status": h.status.value,
                "reason": None if h.reason is None else h.reason.value,
                "attempt": h.attempt,
                "cancel_requested": h.cancel_requested,
            }
        )
    _INSERT.execute(connection, rows)
    _UPDATE.execute(connection, [{"b_user_id": u, "b_last": n} for u, n in last.items()])


def last_number(connection: Connection, user_id: str) -> int:
    """The number of the user's newest event."""
    return connection.scalar(select(users.c.last_event).where(users.c.user_id == user_id)) or 0


def cancel_asked_at(connection: Connection, job_id: str) -> int | None:
    """When it was asked to cancel a job that ran."""
    query = select(func.min(events.c.at))
    return connection.scalar(query.where(events.c.job_id == job_id, events.c.cancel_requested))


def read(
    connection: Connection, user_id: str, after: int, job_id: str | None, limit: int
) -> list[JobEvent]:
    """A user's events behind number `after`, of one job when given."""
    query = (
        select(events)
        .where(events.c.user_id == user_id, events.c.number > after)
        .order_by(events.c.number)
        .limit(limit)
    )
    if job_id is not None:
        query = query.where(events.c.job_id == job_id)
    return [
        JobEvent(
            row.number,
            row.at,
            row.job_id,
            JobStatus(row.status),
            None if row.reason is None else Reason(row.reason),
            row.attempt,
            bool(row.cancel_requested),
        )
        for row in connection.execute(query)
    ]
