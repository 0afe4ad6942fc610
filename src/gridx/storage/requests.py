"""Bookkeeping of requests: answers kept by idempotency key, rates, and which coordinators live."""

from sqlalchemy import Connection, bindparam, delete, func, select, text, update

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


_RESERVE = text(
    """
    INSERT INTO idempotency (user_id, path, key, body_hash, result, created_at)
    VALUES (:user_id, :path, :key, :body_hash, '', :now)
    ON CONFLICT DO NOTHING RETURNING key
    """
)
_THIS_KEY = (
    idempotency.c.user_id == bindparam("b_user_id"),
    idempotency.c.path == bindparam("b_path"),
    idempotency.c.key == bindparam("b_key"),
)
_FIND = select(idempotency.c.body_hash, idempotency.c.result).where(*_THIS_KEY)
_KEEP = update(idempotency).where(*_THIS_KEY).values(result=bindparam("b_result"))
_RELEASE = delete(idempotency).where(*_THIS_KEY)


def reserve_answer(
    connection: Connection, user_id: str, path: str, key: str, *, body_hash: str, now: int
) -> tuple[str, str] | None:
    """Take an idempotency key; None when it is fresh, else the (body hash, result) it has.

    A key that another transaction is using makes this one wait for that.
    """
    new = {"user_id": user_id, "path": path, "key": key, "body_hash": body_hash, "now": now}
    # Not its row count: a driver need not count what an INSERT did.
    if connection.execute(_RESERVE, new).first() is not None:
        return None
    row = connection.execute(_FIND, {"b_user_id": user_id, "b_path": path, "b_key": key}).one()
    return row.body_hash, row.result


def keep_answer(connection: Connection, user_id: str, path: str, key: str, result: str) -> None:
    """Keep what a key's request made."""
    values = {"b_user_id": user_id, "b_path": path, "b_key": key, "b_result": result}
    connection.execute(_KEEP, values)


def release_answer(connection: Connection, user_id: str, path: str, key: str) -> None:
    """Give a key back whose request was refused."""
    connection.execute(_RELEASE, {"b_user_id": user_id, "b_path": path, "b_key": key})


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


_MARK = text(
    """
    INSERT INTO coordinators (coordinator_id, seen_at) VALUES (:coordinator_id, :now)
    ON CONFLICT (coordinator_id) DO UPDATE SET seen_at = excluded.seen_at
    """
)


def mark_coordinator(connection: Connection, coordinator_id: str, now: int) -> None:
    """This coordinator lives."""
    connection.execute(_MARK, {"coordinator_id": coordinator_id, "now": now})


def forget_coordinator(connection: Connection, coordinator_id: str) -> None:
    connection.execute(delete(coordinators).where(coordinators.c.coordinator_id == coordinator_id))


def count_coordinators(connection: Connection, since: int) -> int:
    """Coordinators heard of since this time."""
    query = select(func.count()).where(coordinators.c.seen_at >= since)
    return connection.scalar(query) or 0
