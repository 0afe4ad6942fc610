"""Attempts and their leases, and what attempts wrote."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, text, tuple_, update

from gridx.domain.attempt import Attempt, AttemptStatus, Reason, Usage
from gridx.domain.job import JobState
from gridx.storage.dialect import ManyRows, upsert
from gridx.storage.jobs import state_of
from gridx.storage.tables import attempts, jobs, output

_INSERT = ManyRows(lambda _: insert(attempts),
    [
        "job_number", "number", "lease", "worker_id", "owner_id", "status", "live", "counted",
        "assigned_at", "billed_us", "sandbox",
    ],
)  # fmt: skip
_INSERT_OUTPUT = ManyRows(
    lambda connection: upsert(connection, output).on_conflict_do_nothing(),
    ["job_number", "attempt", "frame", "stream", "start", "data"],
)


def _attempt(row: "Row[Any]", job_id: str) -> Attempt:
    usage = None
    if row.wall_us is not None:
        usage = Usage(row.wall_us / 1e6, row.cpu_us / 1e6, row.peak_memory_mb)
    return Attempt(
        job_id=job_id,
        number=row.number,
        lease=row.lease,
        worker_id=row.worker_id,
        owner_id=row.owner_id,
        status=AttemptStatus(row.status),
        reason=None if row.reason is None else Reason(row.reason),
        exit_code=row.exit_code,
        counted=bool(row.counted),
        assigned_at=row.assigned_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        usage=usage,
        billed_us=row.billed_us,
        sandbox=row.sandbox,
    )


def insert_attempts(connection: Connection, new: Sequence[tuple[int, Attempt]]) -> None:
    """Store attempts as (number of the job, attempt)."""
    _INSERT.execute(
        connection,
        [
            {
                "job_number": job_number,
                "number": a.number,
                "lease": a.lease,
                "worker_id": a.worker_id,
                "owner_id": a.owner_id,
                "status": a.status.value,
                "live": a.status.live,
                "counted": a.counted,
                "assigned_at": a.assigned_at,
                "billed_us": a.billed_us,
                "sandbox": a.sandbox,
            }
            for job_number, a in new
        ],
    )


def attempts_of(connection: Connection, job_number: int, job_id: str) -> tuple[Attempt, ...]:
    """All attempts of a job, in order."""
    rows = connection.execute(
        select(attempts).where(attempts.c.job_number == job_number).order_by(attempts.c.number)
    )
    return tuple(_attempt(row, job_id) for row in rows)


def attempts_of_jobs(
    connection: Connection, states: Collection[JobState]
) -> dict[int, list[Attempt]]:
    """All attempts of several jobs, by the jobs' numbers."""
    ids = {state.number: state.job_id for state in states}
    found: dict[int, list[Attempt]] = {number: [] for number in ids}
    rows = connection.execute(
        select(attempts)
        .where(attempts.c.job_number.in_(sorted(ids)))
        .order_by(attempts.c.job_number, attempts.c.number)
    )
    for row in rows:
        found[row.job_number].append(_attempt(row, ids[row.job_number]))
    return found


_IN_LEASES = attempts.c.lease.in_(bindparam("leases", expanding=True))
_BY_LEASES = select(attempts).where(_IN_LEASES)
_LOCK_BY_LEASES = (
    select(jobs)
    .where(jobs.c.number.in_(select(attempts.c.job_number).where(_IN_LEASES)))
    .order_by(jobs.c.number)
    .with_for_update()
)


def lock_by_leases(
    connection: Connection, leases: Collection[str]
) -> dict[str, tuple[JobState, Attempt]]:
    """The attempts of these leases with their jobs, locked; unknown leases are left out.

    Jobs are locked before their attempts are read, so that both are of one moment.
    """
    if not leases:
        return {}
    wanted = {"leases": sorted(set(leases))}
    states = {
        row.number: state_of(row) for row in connection.execute(_LOCK_BY_LEASES, wanted).all()
    }
    rows = connection.execute(_BY_LEASES, wanted).all()
    return {
        row.lease: (states[row.job_number], _attempt(row, states[row.job_number].job_id))
        for row in rows
        if row.job_number in states
    }


_LIVE_OF_WORKER = select(attempts.c.lease).where(
    text("attempts.live"), attempts.c.worker_id == bindparam("worker_id")
)


def live_leases_of_worker(connection: Connection, worker_id: str) -> list[str]:
    """The leases a worker holds."""
    return list(connection.execute(_LIVE_OF_WORKER, {"worker_id": worker_id}).scalars())


def leases_assigned_outside(
    connection: Connection, worker_ids: Collection[str], begin: int, end: int
) -> list[tuple[str, str]]:
    """Live leases of these workers, as (worker, lease), not assigned between these times."""
    rows = connection.execute(
        select(attempts.c.worker_id, attempts.c.lease).where(
            text("attempts.live"),
            attempts.c.worker_id.in_(worker_ids),
            (attempts.c.assigned_at < begin) | (attempts.c.assigned_at > end),
        )
    )
    return [(row.worker_id, row.lease) for row in rows]


_WITH_LEASES = select(attempts.c.worker_id).where(text("attempts.live")).distinct()


def workers_with_leases(connection: Connection) -> list[str]:
    """Workers that hold a lease."""
    return list(connection.execute(_WITH_LEASES).scalars())


def count_live(connection: Connection) -> dict[str, int]:
    """How many live attempts each worker has."""
    rows = connection.execute(
        select(attempts.c.worker_id, func.count())
        .where(text("attempts.live"))
        .group_by(attempts.c.worker_id)
    )
    return {worker_id: count for worker_id, count in rows}


_SAVED = (
    "status",
    "live",
    "counted",
    "reason",
    "exit_code",
    "sandbox",
    "started_at",
    "finished_at",
    "wall_us",
    "cpu_us",
    "peak_memory_mb",
    "billed_us",
)
_SAVE = ManyRows(
    lambda _: (
        update(attempts)
        .where(attempts.c.lease == bindparam("b_lease"), attempts.c.status == bindparam("b_status"))
        .values({name: bindparam(f"v_{name}") for name in _SAVED})
    ),
    ["b_lease", "b_status", *(f"v_{name}" for name in _SAVED)],
)


def save_attempts(connection: Connection, changes: Sequence[tuple[Attempt, Attempt]]) -> None:
    """Save attempts as (before, after), each guarded by its lease and its status before."""
    if not changes:
        return
    rows = [
        {
            "b_lease": before.lease,
            "b_status": before.status.value,
            "v_status": after.status.value,
            "v_live": after.status.live,
            "v_counted": after.counted,
            "v_reason": None if after.reason is None else after.reason.value,
            "v_exit_code": after.exit_code,
            "v_sandbox": after.sandbox,
            "v_started_at": after.started_at,
            "v_finished_at": after.finished_at,
            "v_wall_us": None if after.usage is None else round(after.usage.wall_s * 1e6),
            "v_cpu_us": None if after.usage is None else round(after.usage.cpu_s * 1e6),
            "v_peak_memory_mb": None if after.usage is None else after.usage.peak_memory_mb,
            "v_billed_us": after.billed_us,
        }
        for before, after in changes
    ]
    assert _SAVE.execute(connection, rows) == len(rows), "an attempt changed under its job's lock"


# ------------------------------------------------------------------ output


_WRITTEN = (
    select(
        output.c.job_number,
        output.c.attempt,
        output.c.stream,
        func.max(output.c.frame),
        func.max(output.c.start + func.length(output.c.data)),
    )
    .where(tuple_(output.c.job_number, output.c.attempt).in_(bindparam("keys", expanding=True)))
    .group_by(output.c.job_number, output.c.attempt, output.c.stream)
)


def written_so_far(
    connection: Connection, keys: Collection[tuple[int, int]]
) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Of attempts as (job number, number): frames stored, bytes of stdout, bytes of stderr."""
    if not keys:
        return {}
    rows = connection.execute(_WRITTEN, {"keys": sorted(keys)})
    found: dict[tuple[int, int], tuple[int, int, int]] = {}
    for number, attempt, stream, frame, end in rows:
        frames, out, err = found.get((number, attempt), (0, 0, 0))
        frames = max(frames, frame + 1)
        found[number, attempt] = (frames, end, err) if stream == "stdout" else (frames, out, end)
    return found


def insert_output(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Store frames of output (`job_number, attempt, frame, stream, start, data`), once each."""
    _INSERT_OUTPUT.execute(connection, rows)


def newest_attempt_with_output(connection: Connection, job_number: int) -> int | None:
    """The number of the newest attempt that wrote something."""
    query = select(func.max(output.c.attempt)).where(output.c.job_number == job_number)
    return connection.scalar(query)


def read_output(
    connection: Connection,
    job_number: int,
    attempt: int,
    *,
    from_frame: int = 0,
    stream: str | None = None,
    limit: int = 100_000,
) -> list[tuple[int, str, int, bytes]]:
    """Frames of an attempt's output in order: (frame, stream, start, data)."""
    query = (
        select(output.c.frame, output.c.stream, output.c.start, output.c.data)
        .where(
            output.c.job_number == job_number,
            output.c.attempt == attempt,
            output.c.frame >= from_frame,
        )
        .order_by(output.c.frame)
        .limit(limit)
    )
    if stream is not None:
        query = query.where(output.c.stream == stream)
    return [
        (row.frame, row.stream, row.start, bytes(row.data)) for row in connection.execute(query)
    ]


def read_first_bytes(
    connection: Connection, job_number: int, attempt: int, stream: str, limit: int
) -> tuple[bytes, bool]:
    """The first `limit` bytes of a stream, and whether there are more."""
    rows = connection.execute(
        select(output.c.data)
        .where(
            output.c.job_number == job_number,
            output.c.attempt == attempt,
            output.c.stream == stream,
            output.c.start <= limit,
        )
        .order_by(output.c.frame)
    )
    data = b"".join(bytes(row.data) for row in rows)
    return data[:limit], len(data) > limit
