"""Workers: who they are, what they offer, and which connection speaks for them."""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from gridx.domain.worker import Capabilities, Standing, Worker
from gridx.storage.tables import workers

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Capabilities).decode


def _worker(row: "Row[Any]") -> Worker:
    return Worker(
        worker_id=row.worker_id,
        owner_id=row.owner_id,
        name=row.name,
        capabilities=_decode(row.capabilities),
        version=row.version,
        created_at=row.created_at,
        seen_at=row.seen_at,
        online=row.session_id is not None,
        paused=bool(row.paused),
        draining=bool(row.draining),
        standing=Standing(row.standing),
        admitted=bool(row.admitted),
        set_aside_until=row.set_aside_until,
        set_aside_why=row.set_aside_why,
    )


def insert_worker(connection: Connection, worker: Worker) -> None:
    connection.execute(
        insert(workers).values(
            worker_id=worker.worker_id,
            owner_id=worker.owner_id,
            name=worker.name,
            version=worker.version,
            capabilities=_encode(worker.capabilities).decode(),
            created_at=worker.created_at,
            seen_at=worker.seen_at,
            paused=worker.paused,
            draining=worker.draining,
            standing=worker.standing.value,
            admitted=worker.admitted,
        )
    )


_FIND = select(workers).where(workers.c.worker_id == bindparam("worker_id"))
_LOCK = _FIND.with_for_update()


def find_worker(connection: Connection, worker_id: str) -> Worker | None:
    row = connection.execute(_FIND, {"worker_id": worker_id}).first()
    return None if row is None else _worker(row)


def lock_worker(connection: Connection, worker_id: str) -> Worker | None:
    """The worker, whose row nobody else changes until the transaction ends."""
    row = connection.execute(_LOCK, {"worker_id": worker_id}).first()
    return None if row is None else _worker(row)


def update_worker(connection: Connection, worker_id: str, values: Mapping[str, Any]) -> None:
    """Change columns of a worker; `capabilities` as the domain's value."""
    stored = dict(values)
    if isinstance(offer := stored.get("capabilities"), Capabilities):
        stored["capabilities"] = _encode(offer).decode()
    connection.execute(update(workers).where(workers.c.worker_id == worker_id).values(stored))


def session_of(connection: Connection, worker_id: str) -> str | None:
    """The connection that speaks for a worker."""
    return connection.scalar(select(workers.c.session_id).where(workers.c.worker_id == worker_id))


def end_session(connection: Connection, worker_id: str, session_id: str, heard_at: int) -> bool:
    """Mark a worker offline, unless another connection speaks for it already."""
    result = connection.execute(
        update(workers)
        .where(workers.c.worker_id == worker_id, workers.c.session_id == session_id)
        .values(session_id=None, seen_at=heard_at)
    )
    return result.rowcount == 1


_END_SILENT = (
    update(workers)
    .where(workers.c.session_id.is_not(None), workers.c.seen_at < bindparam("before"))
    .values(session_id=None)
)


def end_silent_sessions(connection: Connection, before: int) -> None:
    """Mark workers offline that no coordinator has heard of since `before`."""
    connection.execute(_END_SILENT, {"before": before})


_SEEN = (
    update(workers)
    .where(
        workers.c.worker_id == bindparam("b_worker_id"),
        workers.c.session_id == bindparam("b_session_id"),
    )
    .values(seen_at=bindparam("b_seen_at"))
)


def mark_seen(connection: Connection, seen: Mapping[str, str], now: int) -> None:
    """Renew the leases of workers, given as worker and session."""
    if seen:
        connection.execute(
            _SEEN,
            [
                {"b_worker_id": worker_id, "b_session_id": session_id, "b_seen_at": now}
                for worker_id, session_id in sorted(seen.items())
            ],
        )


def give_another_chance(connection: Connection, worker_ids: Collection[str], now: int) -> None:
    """End the time for which these workers were set aside, unless it was prolonged."""
    if worker_ids:
        connection.execute(
            update(workers)
            .where(workers.c.worker_id.in_(worker_ids), workers.c.set_aside_until <= now)
            .values(set_aside_until=None, set_aside_why=None)
        )


_FORGET_FUTURE = (
    update(workers).where(workers.c.seen_at > bindparam("after")).values(seen_at=bindparam("now"))
)


def forget_future(connection: Connection, now: int, after: int) -> None:
    """Workers last seen later than `after` were seen `now`: the clock was ahead and went back."""
    connection.execute(_FORGET_FUTURE, {"now": now, "after": after})


def lock_silent(connection: Connection, worker_ids: Collection[str], before: int) -> list[Worker]:
    """Those of the workers not heard of since `before`, locked, skipping those in use."""
    rows = connection.execute(
        select(workers)
        .where(
            workers.c.worker_id.in_(worker_ids),
            func.coalesce(workers.c.seen_at, 0) < before,
        )
        .order_by(workers.c.worker_id)
        .with_for_update(skip_locked=True)
    )
    return [_worker(row) for row in rows]


def first_seen(connection: Connection, worker_ids: Collection[str], after: int) -> int | None:
    """When the one of the workers was last seen that was seen first, from `after` on."""
    return connection.scalar(
        select(func.min(workers.c.seen_at)).where(
            workers.c.worker_id.in_(worker_ids), workers.c.seen_at >= after
        )
    )


def list_workers(
    connection: Connection, limit: int, after: str | None, owner_id: str | None = None
) -> list[Worker]:
    """Workers by id, those behind `after`, of one owner when given."""
    query = select(workers).order_by(workers.c.worker_id).limit(limit)
    if after is not None:
        query = query.where(workers.c.worker_id > after)
    if owner_id is not None:
        query = query.where(workers.c.owner_id == owner_id)
    return [_worker(row) for row in connection.execute(query)]


def count_of_owner(connection: Connection, owner_id: str) -> int:
    query = select(func.count()).where(workers.c.owner_id == owner_id)
    return connection.scalar(query) or 0


def count_workers(connection: Connection) -> tuple[int, int]:
    """All workers, and those that are connected."""
    query = select(func.count(), func.count(workers.c.session_id)).select_from(workers)
    total, connected = connection.execute(query).one()
    return total, connected
