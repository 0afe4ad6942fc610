"""Users, their tokens, invitations, and the audit log of what administrators did."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from gridx.domain.user import ApiKey, Principal, Role, Scope, TokenKind, User
from gridx.storage.tables import audit, invites, tokens, users


def _user(row: "Row[tuple[object, ...]]") -> User:
    return User(row.user_id, Role(row.role), bool(row.suspended), row.created_at)


def insert_user(connection: Connection, user: User, password_hash: str) -> None:
    connection.execute(
        insert(users).values(
            user_id=user.user_id,
            password_hash=password_hash,
            role=user.role.value,
            suspended=user.suspended,
            created_at=user.created_at,
            last_event=0,
        )
    )


def find_user(connection: Connection, user_id: str) -> User | None:
    row = connection.execute(select(users).where(users.c.user_id == user_id)).first()
    return None if row is None else _user(row)


def lock_user(connection: Connection, user_id: str) -> User | None:
    """The user, whose row nobody else changes until the transaction ends."""
    query = select(users).where(users.c.user_id == user_id).with_for_update()
    row = connection.execute(query).first()
    return None if row is None else _user(row)


def any_user(connection: Connection) -> bool:
    return connection.execute(select(users.c.user_id).limit(1)).first() is not None


def password_hash_of(connection: Connection, user_id: str) -> str | None:
    return connection.scalar(select(users.c.password_hash).where(users.c.user_id == user_id))


def set_password_hash(connection: Connection, user_id: str, password_hash: str) -> None:
    connection.execute(
        update(users).where(users.c.user_id == user_id).values(password_hash=password_hash)
    )


def set_suspended(connection: Connection, user_id: str, suspended: bool) -> None:
    connection.execute(update(users).where(users.c.user_id == user_id).values(suspended=suspended))


def list_users(connection: Connection, limit: int, after: str | None) -> list[User]:
    """Users by id, those behind `after`."""
    query = select(users).order_by(users.c.user_id).limit(limit)
    if after is not None:
        query = query.where(users.c.user_id > after)
    return [_user(row) for row in connection.execute(query)]


_LOCK_ACTIVE = (
    select(users.c.user_id, users.c.suspended)
    .where(users.c.user_id.in_(bindparam("user_ids", expanding=True)))
    .order_by(users.c.user_id)
    .with_for_update()
)


def lock_active(connection: Connection, user_ids: Collection[str]) -> set[str]:
    """Those of the users that exist and are not suspended, locked so that they stay so."""
    rows = connection.execute(_LOCK_ACTIVE, {"user_ids": sorted(set(user_ids))})
    return {row.user_id for row in rows if not row.suspended}


# ------------------------------------------------------------------ tokens


def insert_token(
    connection: Connection, who: Principal, secret_hash: str, created_at: int, name: str | None
) -> None:
    """Store a token that proves `who`."""
    connection.execute(
        insert(tokens).values(
            token_id=who.token_id,
            kind=who.kind.value,
            secret_hash=secret_hash,
            user_id=who.user_id,
            worker_id=who.worker_id,
            name=name,
            scopes=" ".join(sorted(who.scopes)),
            created_at=created_at,
            expires_at=who.expires_at,
        )
    )


_BEARER = (
    select(tokens, users.c.role, users.c.suspended)
    .join(users, users.c.user_id == tokens.c.user_id)
    .where(tokens.c.secret_hash == bindparam("secret_hash"))
)


def find_principal(connection: Connection, secret_hash: str) -> tuple[Principal, bool] | None:
    """Who bears the token with this hash, and whether that user is suspended."""
    row = connection.execute(_BEARER, {"secret_hash": secret_hash}).first()
    if row is None:
        return None
    who = Principal(
        row.token_id,
        TokenKind(row.kind),
        row.user_id,
        Role(row.role),
        _scopes(row.scopes),
        row.expires_at,
        row.worker_id,
    )
    return who, bool(row.suspended)


def _scopes(text: str) -> frozenset[Scope]:
    return frozenset(Scope(word) for word in text.split())


def delete_token(connection: Connection, token_id: str) -> bool:
    return connection.execute(delete(tokens).where(tokens.c.token_id == token_id)).rowcount == 1


def delete_tokens_of_user(
    connection: Connection, user_id: str, kinds: Sequence[TokenKind], keep: str | None = None
) -> None:
    """End a user's tokens of these kinds, all but the one with the id `keep`."""
    query = delete(tokens).where(
        tokens.c.user_id == user_id, tokens.c.kind.in_([kind.value for kind in kinds])
    )
    connection.execute(query if keep is None else query.where(tokens.c.token_id != keep))


def forget_logins(connection: Connection, before: int, limit: int) -> int:
    """Drop log-in tokens that expired before this time, `limit` at most; how many there were."""
    old = (
        select(tokens.c.token_id)
        .where(tokens.c.kind == TokenKind.LOGIN.value, tokens.c.expires_at < before)
        .limit(limit)
    )
    return connection.execute(delete(tokens).where(tokens.c.token_id.in_(old))).rowcount


def delete_tokens_of_worker(connection: Connection, worker_id: str) -> None:
    connection.execute(delete(tokens).where(tokens.c.worker_id == worker_id))


def count_keys(connection: Connection, user_id: str) -> int:
    query = select(func.count()).where(
        tokens.c.user_id == user_id, tokens.c.kind == TokenKind.KEY.value
    )
    return connection.scalar(query) or 0


def find_key(connection: Connection, key_id: str) -> ApiKey | None:
    row = connection.execute(
        select(tokens).where(tokens.c.token_id == key_id, tokens.c.kind == TokenKind.KEY.value)
    ).first()
    return None if row is None else _key(row)


def list_keys(
    connection: Connection, user_id: str, limit: int, after: tuple[int, str] | None
) -> list[ApiKey]:
    """A user's API keys, oldest first, those behind (created_at, key_id)."""
    query = (
        select(tokens)
        .where(tokens.c.user_id == user_id, tokens.c.kind == TokenKind.KEY.value)
        .order_by(tokens.c.created_at, tokens.c.token_id)
        .limit(limit)
    )
    if after is not None:
        at, key_id = after
        query = query.where(
            (tokens.c.created_at > at)
            | ((tokens.c.created_at == at) & (tokens.c.token_id > key_id))
        )
    return [_key(row) for row in connection.execute(query)]


def _key(row: "Row[tuple[object, ...]]") -> ApiKey:
    scopes = tuple(sorted(_scopes(row.scopes)))
    return ApiKey(row.token_id, row.user_id, row.name, scopes, row.created_at, row.expires_at)


# ------------------------------------------------------------------ invitations and audit


def insert_invite(
    connection: Connection,
    secret_hash: str,
    *,
    created_by: str,
    created_at: int,
    expires_at: int | None,
    amount: int | None,
) -> None:
    connection.execute(
        insert(invites).values(
            secret_hash=secret_hash,
            created_by=created_by,
            created_at=created_at,
            expires_at=expires_at,
            amount=amount,
        )
    )


def use_invite(
    connection: Connection, secret_hash: str, user_id: str, now: int
) -> tuple[bool, int | None]:
    """Use an invitation up: whether it was good, and the credits it grants if it names any."""
    row = connection.execute(
        update(invites)
        .where(
            invites.c.secret_hash == secret_hash,
            invites.c.used_by.is_(None),
            (invites.c.expires_at.is_(None)) | (invites.c.expires_at > now),
        )
        .values(used_by=user_id)
        .returning(invites.c.amount)
    ).first()
    return (False, None) if row is None else (True, row.amount)


def was_invited(connection: Connection, user_id: str) -> bool:
    """Whether the user registered with an invitation."""
    query = select(invites.c.secret_hash).where(invites.c.used_by == user_id).limit(1)
    return connection.execute(query).first() is not None


def insert_audit(connection: Connection, at: int, actor: str, action: str, subject: str) -> None:
    """Record what an administrator did to whom."""
    connection.execute(insert(audit).values(at=at, actor=actor, action=action, subject=subject))
