"""People: registering, logging in and out, passwords, invitations, suspending."""

from typing import Annotated

from fastapi import Query

from gridx.clock import to_rfc3339
from gridx.domain.money import format_credits, parse_credits
from gridx.domain.user import User
from gridx.protocol import http
from gridx.server.answers import NOTHING, Answer
from gridx.server.api.queries import PageQuery, expiry
from gridx.server.operation import Call, Operations, UserPathId

operations = Operations("users")
"""The operations of this module."""


@operations.add("POST", "/users", http.UserView, status=201, is_open=True, refusals=(403, 409, 429))
async def register_user(call: Call, body: http.UserBody) -> http.UserView:
    """Make a new user."""
    await call.limit_tries("register", body.user_id)
    made = await call.grid.users.register(body.user_id, body.password, body.invite or None)
    return http.UserView(
        user_id=made.user.user_id,
        role=made.user.role.value,
        balance=format_credits(made.balance),
    )


@operations.add("POST", "/auth/token", http.TokenView, is_open=True, refusals=(401, 429))
async def log_in(call: Call, body: http.LoginBody) -> http.TokenView:
    """A token for a user and their password."""
    await call.limit_tries("login", body.user_id)
    issued = await call.grid.users.log_in(body.user_id, body.password)
    return http.TokenView(token=issued.token, expires_at=to_rfc3339(issued.expires_at))


@operations.add("GET", "/auth/me", http.CallerView)
async def get_caller(call: Call) -> http.CallerView:
    """Whose token this request came with, and what it may do."""
    who = call.who
    who.need_person()
    return http.CallerView(
        user_id=who.user_id,
        role=who.role.value,
        scopes=sorted(scope.value for scope in who.scopes),
        expires_at=None if who.expires_at is None else to_rfc3339(who.expires_at),
    )


@operations.add("DELETE", "/auth/token", status=204)
async def log_out(call: Call) -> Answer:
    """End the token that this request came with."""
    await call.grid.users.log_out(call.who)
    return NOTHING


@operations.add("POST", "/auth/password", status=204, refusals=(429,))
async def change_password(call: Call, body: http.PasswordBody) -> Answer:
    """Set a new password; every other token of the user ends."""
    await call.limit_tries("password", call.who.user_id)
    await call.grid.users.change_password(call.who, body.old, body.new)
    return NOTHING


@operations.add("POST", "/invites", http.InviteView, status=201)
async def create_invite(call: Call, body: http.InviteBody) -> http.InviteView:
    """An administrator's invitation for one new user, with a grant of its own."""
    invite = await call.grid.users.create_invite(
        call.who,
        None if body.grant is None else parse_credits(body.grant),
        expiry(call, body.expires_at),
    )
    return http.InviteView(invite=invite)


@operations.add("GET", "/users", http.UserListView)
async def list_users(call: Call, query: Annotated[PageQuery, Query()]) -> http.UserListView:
    """All users, for an administrator."""
    page = await call.grid.users.list_users(call.who, query.limit, query.cursor)
    return http.UserListView(
        items=[_listed(entry.user, format_credits(entry.balance)) for entry in page.items],
        next_cursor=page.next_cursor,
    )


@operations.add("POST", "/users/{user_id}/suspend", http.UserStateView, refusals=(404, 409))
async def suspend_user(call: Call, user_id: UserPathId) -> http.UserStateView:
    """End a user's tokens and sockets, cancel what they have queued, and let nothing more in."""
    return _state(await call.grid.users.suspend(call.who, user_id))


@operations.add("POST", "/users/{user_id}/unsuspend", http.UserStateView, refusals=(404, 409))
async def unsuspend_user(call: Call, user_id: UserPathId) -> http.UserStateView:
    """Let a suspended user in again."""
    return _state(await call.grid.users.unsuspend(call.who, user_id))


def _state(user: User) -> http.UserStateView:
    return http.UserStateView(
        user_id=user.user_id,
        role=user.role,
        suspended=user.suspended,
        created_at=to_rfc3339(user.created_at),
    )


def _listed(user: User, balance: str) -> http.UserListItemView:
    return http.UserListItemView(
        user_id=user.user_id,
        role=user.role,
        suspended=user.suspended,
        created_at=to_rfc3339(user.created_at),
        balance=balance,
    )
