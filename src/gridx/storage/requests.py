"""Bookkeeping of requests: answers kept by idempotency key, rates, and which coordinators live."""

from sqlalchemy import Connection, delete, func, select, text, update

from gridx.storage.dialect import upsert
from gridx.storage.tables import coordinators, idempotency

_ALLOW = text(
    """
    INSERT INTO rate_limits (key, arrival) VALUES (:key, :now + :interval)
    ON CONFLICT (key) DO UPDATE SET arrival =
        CASE WHEN rate_limits.arrival > :now THEN rate_limits.arrival ELSE :now END + :interval
    WHERE CASE WHEN rate_limits.arrival > :now THEN rate_limits.arrival ELSE :now END
        + :interval - :now <= :burst
    RETURNING arrival
    """
)


def allow(connection: Connection, key: str, now: int, interval_us: int, burst_us: int) -> bool:
    """Whether one more event of `key` is within its rate (the generic cell rate algorithm).

    Events are `interval_us` apart on average and may come early by `burst_us` in all; the decision
    and its record are one statement, so that several coordinators share one limit.
    """
    parameters = {"key": key, "now": now, "interval": interval_us, "burst": burst_us}
    return connection.execute(_ALLOW, parameters).first() is not None


def forget_rates(connection: Connection, now: int) -> None:
    """Drop limits nobody is near any more."""
    connection.execute(text("DELETE FROM rate_limits WHERE arrival < :now"), {"now": now})


def reserve_answer(
    connection: Connection, user_id: str, path: str, key: str, *, body_hash: str, now: int
) -> tuple[str, str] | None:
    """Take an idempotency key; None when it is fresh, else the (body hash, result) it has.

    A key that another transaction is using makes this one wait for that.
    """
    fresh = connection.execute(
        upsert(connection, idempotency)
        .values(user_id=user_id, path=path, key=key, body_hash=body_hash, result="", created_at=now)
        .on_conflict_do_nothing()
        .returning(idempotency.c.key)
    )
    # Not its row count: a driver need not count what an INSERT did.
    if fresh.first() is not None:
        return None
    row = connection.execute(
        select(idempotency.c.body_hash, idempotency.c.result).where(
            idempotency.c.user_id == user_id,
            idempotency.c.path == path,
            idempotency.c.key == key,
        )
    ).one()
    return row.body_hash, row.result


def keep_answer(connection: Connection, user_id: str, path: str, key: str, result: str) -> None:
    """Keep what a key's request made."""
    connection.execute(
        update(idempotency)
        .where(
            idempotency.c.user_id == user_id,
            idempotency.c.path == path,
            idempotency.c.key == key,
        )
        .values(result=result)
    )


def release_answer(connection: Connection, user_id: str, path: str, key: str) -> None:
    """Give a key back whose request was refused."""
    connection.execute(
        delete(idempotency).where(
            idempotency.c.user_id == user_id,
            idempotency.c.path == path,
            idempotency.c.key == key,
        )
    )


def forget_answers(connection: Connection, before: int, limit: int) -> int:
    """Drop answers kept since before this time; how many there were."""
    old = (
        select(idempotency.c.user_id, idempotency.c.path, idempotency.c.key)
        .where(idempotency.c.created_at < before)
        .limit(limit)
    )
    rows = connection.execute(old).all()
    for row in rows:
        release_answer(connection, row.user_id, row.path, row.key)
    return len(rows)


def mark_coordinator(connection: Connection, coordinator_id: str, now: int) -> None:
    """This coordinator lives."""
    statement = upsert(connection, coordinators).values(coordinator_id=coordinator_id, seen_at=now)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["coordinator_id"], set_={"seen_at": statement.excluded.seen_at}
        )
    )


def forget_coordinator(connection: Connection, coordinator_id: str) -> None:
    connection.execute(delete(coordinators).where(coordinators.c.coordinator_id == coordinator_id))


def count_coordinators(connection: Connection, since: int) -> int:
    """Coordinators heard of since this time."""
    query = select(func.count()).where(coordinators.c.seen_at >= since)
    return connection.scalar(query) or 0
