"""What a token lets its bearer do."""

import pytest

from gridx.domain.errors import Denied
from gridx.domain.user import ALL_SCOPES, Principal, Role, Scope, TokenKind


def bearer(
    kind: TokenKind = TokenKind.LOGIN,
    role: Role = Role.USER,
    scopes: frozenset[Scope] = ALL_SCOPES,
) -> Principal:
    return Principal("token", kind, "alice", role, scopes, None)


@pytest.mark.parametrize("scope", Scope)
def test_a_login_may_do_what_its_role_may(scope: Scope) -> None:
    bearer(role=Role.ADMIN).need(scope)
    if scope is Scope.ADMIN:
        with pytest.raises(Denied, match="Only an administrator"):
            bearer().need(scope)
    else:
        bearer().need(scope)


@pytest.mark.parametrize("scope", Scope)
def test_a_key_may_do_what_its_scopes_say(scope: Scope) -> None:
    bearer(TokenKind.KEY, Role.ADMIN, frozenset({scope})).need(scope)
    with pytest.raises(Denied, match=f"lacks the scope {scope}"):
        bearer(TokenKind.KEY, Role.ADMIN, ALL_SCOPES - {scope}).need(scope)


@pytest.mark.parametrize("scope", Scope)
def test_a_workers_token_opens_nothing_else(scope: Scope) -> None:
    with pytest.raises(Denied, match="worker"):
        bearer(TokenKind.WORKER, Role.ADMIN, frozenset()).need(scope)


def test_an_admins_key_without_the_scope_is_no_administrators() -> None:
    assert bearer(role=Role.ADMIN).is_admin
    assert not bearer(TokenKind.KEY, Role.ADMIN, frozenset({Scope.JOBS})).is_admin
    assert not bearer().is_admin


def test_others_things_are_for_administrators() -> None:
    bearer().need_user("alice")
    bearer(role=Role.ADMIN).need_user("bob")
    with pytest.raises(Denied):
        bearer().need_user("bob")
