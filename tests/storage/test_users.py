"""Storing users, their tokens, invitations and the audit log."""

import pytest
from sqlalchemy import Connection, select

from gridx.domain.user import ALL_SCOPES, Principal, Role, Scope, TokenKind
from gridx.storage import users
from gridx.storage.tables import audit
from tests.storage.rows import AT, add_user, new_id


@pytest.fixture
def store(connection: Connection) -> Connection:
    for user_id in ("alice", "bob", "carol"):
        add_user(connection, user_id)
    return connection


def token(
    user_id: str = "alice",
    kind: TokenKind = TokenKind.LOGIN,
    scopes: frozenset[Scope] = ALL_SCOPES,
    worker_id: str | None = None,
) -> Principal:
    return Principal(new_id(), kind, user_id, Role.USER, scopes, AT + 5, worker_id)


@pytest.mark.parametrize(
    "who",
    [token(), token(kind=TokenKind.KEY, scopes=frozenset({Scope.CREDITS_READ, Scope.JOBS})),
     token(kind=TokenKind.WORKER, scopes=frozenset(), worker_id=new_id())],
    ids=["login", "key", "worker"],
)  # fmt: skip
def test_a_token_proves_who_it_was_made_for(store: Connection, who: Principal) -> None:
    users.insert_token(store, who, "hash of it", AT, "name")
    assert users.find_principal(store, "hash of it") == (who, False)
    assert users.find_principal(store, "another") is None
    users.set_suspended(store, "alice", True)
    assert users.find_principal(store, "hash of it") == (who, True)
    assert users.delete_token(store, who.token_id)
    assert not users.delete_token(store, who.token_id)
    assert users.find_principal(store, "hash of it") is None


def test_tokens_end_by_kind_and_by_worker(store: Connection) -> None:
    worker_id = new_id()
    tokens = {
        "login": token(),
        "kept": token(),
        "key": token(kind=TokenKind.KEY),
        "worker": token(kind=TokenKind.WORKER, worker_id=worker_id),
        "other": token("bob"),
    }
    for name, who in tokens.items():
        users.insert_token(store, who, name, AT, name)

    def left() -> set[str]:
        return {name for name in tokens if users.find_principal(store, name)}

    kinds = [TokenKind.LOGIN, TokenKind.KEY]
    users.delete_tokens_of_user(store, "alice", kinds, keep=tokens["kept"].token_id)
    assert left() == {"kept", "worker", "other"}
    users.delete_tokens_of_worker(store, worker_id)
    assert left() == {"kept", "other"}
    users.delete_tokens_of_user(store, "alice", [TokenKind.LOGIN])
    assert left() == {"other"}


def test_keys_are_listed_oldest_first(store: Connection) -> None:
    made = [token(kind=TokenKind.KEY) for _ in range(4)]
    for number, who in enumerate(made):
        users.insert_token(store, who, str(number), AT + number // 2, f"key {number}")
    users.insert_token(store, token(), "login", AT, None)
    listed = users.list_keys(store, "alice", 100, None)
    assert {key.key_id for key in listed} == {who.token_id for who in made}
    assert [key.created_at for key in listed] == [AT, AT, AT + 1, AT + 1]
    behind = users.list_keys(store, "alice", 100, (listed[0].created_at, listed[0].key_id))
    assert behind == listed[1:]
    assert users.count_keys(store, "alice") == 4
    assert users.find_key(store, made[0].token_id) is not None
    assert users.find_key(store, new_id()) is None


def test_users_are_listed_by_id(store: Connection) -> None:
    assert [user.user_id for user in users.list_users(store, 2, None)] == ["alice", "bob"]
    assert [user.user_id for user in users.list_users(store, 9, "bob")] == ["carol"]
    assert users.any_user(store)


def test_active_users_are_those_not_suspended(store: Connection) -> None:
    users.set_suspended(store, "bob", True)
    assert users.lock_active(store, ["alice", "bob", "nobody"]) == {"alice"}
    bob = users.lock_user(store, "bob")
    assert bob is not None
    assert bob.suspended
    assert users.lock_user(store, "nobody") is None


def test_an_invitation_is_good_once(store: Connection) -> None:
    for name, expires_at, amount in (("a", None, 7), ("b", AT + 5, None), ("c", AT, None)):
        users.insert_invite(
            store, name, created_by="alice", created_at=AT, expires_at=expires_at, amount=amount
        )
    assert users.use_invite(store, "a", "dave", AT) == (True, 7)
    assert users.use_invite(store, "a", "eve", AT) == (False, None)
    assert users.use_invite(store, "b", "eve", AT) == (True, None)
    assert users.use_invite(store, "c", "eve", AT) == (False, None)
    assert users.use_invite(store, "unknown", "eve", AT) == (False, None)


def test_passwords_are_kept_as_hashes(store: Connection) -> None:
    users.set_password_hash(store, "alice", "new hash")
    assert users.password_hash_of(store, "alice") == "new hash"
    assert users.password_hash_of(store, "bob") == "hash"
    assert users.password_hash_of(store, "' OR '1'='1") is None


def test_the_audit_log_keeps_who_did_what(store: Connection) -> None:
    users.insert_audit(store, AT, "alice", "ban", "w" * 1_024)
    row = store.execute(select(audit)).one()
    assert (row.at, row.actor, row.action, row.subject) == (AT, "alice", "ban", "w" * 1_024)
