"""Removing what has aged out, in bounded batches that several coordinators may share.

Numbers of jobs grow with their submission, so what is old lies in front: no index on ages is needed.
The ledger is not touched; its transfers keep the ids of jobs that are gone.
"""

from sqlalchemy import Connection, delete, select

from gridx.storage.dialect import keep_job_numbers
from gridx.storage.tables import attempts, events, job_tags, job_texts, jobs, output


def remove_jobs(connection: Connection, after: int, before: int, limit: int) -> int | None:
    """Remove jobs that became final before a time; looks at `limit` jobs behind number `after`.

    Returns the number of the last job it looked at, None when there is nothing old behind that.
    Jobs that somebody else holds are left for the next time.
    """
    rows = connection.execute(
        select(jobs.c.number, jobs.c.created_at)
        .where(jobs.c.number > after)
        .order_by(jobs.c.number)
        .limit(limit)
    ).all()
    old = [row.number for row in rows if row.created_at < before]
    if not old:
        return None
    locked = connection.execute(
        select(jobs.c.number, jobs.c.job_id)
        .where(jobs.c.number.in_(old), jobs.c.finished_at < before)
        .order_by(jobs.c.number)
        .with_for_update(skip_locked=True)
    ).all()
    if locked:
        keep_job_numbers(connection)
        numbers = [row.number for row in locked]
        for table, column, values in (
            (output, output.c.job_number, numbers),
            (attempts, attempts.c.job_number, numbers),
            (events, events.c.job_id, [row.job_id for row in locked]),
            (job_tags, job_tags.c.number, numbers),
            (job_texts, job_texts.c.number, numbers),
            (jobs, jobs.c.number, numbers),
        ):
            connection.execute(delete(table).where(column.in_(values)))
    return old[-1]


def remove_output(connection: Connection, after: int, before: int, limit: int) -> int | None:
    """Remove what attempts wrote of jobs final before a time, as `remove_jobs` does."""
    written = select(output.c.job_number).distinct().where(output.c.job_number > after)
    numbers = list(connection.execute(written.order_by(output.c.job_number).limit(limit)).scalars())
    rows = connection.execute(
        select(jobs.c.number, jobs.c.created_at).where(jobs.c.number.in_(numbers))
    )
    old = sorted(row.number for row in rows if row.created_at < before)
    if not old:
        return None
    locked = connection.execute(
        select(jobs.c.number)
        .where(jobs.c.number.in_(old), jobs.c.finished_at < before)
        .order_by(jobs.c.number)
        .with_for_update(skip_locked=True)
    )
    connection.execute(delete(output).where(output.c.job_number.in_(list(locked.scalars()))))
    return old[-1]
