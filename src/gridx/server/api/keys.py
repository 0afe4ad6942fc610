"""API keys: long-lived tokens with a name, scopes and an expiry, shown once."""

from typing import Annotated

from fastapi import Query

from gridx.domain.user import Scope
from gridx.protocol import http
from gridx.server.answers import NOTHING, Answer
from gridx.server.api import views
from gridx.server.api.queries import PageQuery, expiry
from gridx.server.operation import Call, KeyId, Operations

operations = Operations("keys")
"""The operations of this module."""


@operations.add("GET", "/auth/keys", http.KeyListView)
async def list_keys(call: Call, query: Annotated[PageQuery, Query()]) -> http.KeyListView:
    """The caller's API keys, without their secrets."""
    page = await call.grid.users.list_keys(call.who, query.limit, query.cursor)
    return http.KeyListView(
        items=[views.api_key(key) for key in page.items], next_cursor=page.next_cursor
    )


@operations.add("POST", "/auth/keys", http.KeyView, status=201, refusals=(409,))
async def create_key(call: Call, body: http.KeyBody) -> http.KeyView:
    """Make an API key; `key` in this answer is the only time it is shown."""
    expires_at = expiry(call, body.expires_at)
    scopes = [Scope(name) for name in dict.fromkeys(body.scopes)]
    made = await call.grid.users.create_key(call.who, body.name, scopes, expires_at)
    return views.api_key(made.key, made.secret)


@operations.add("DELETE", "/auth/keys/{key_id}", status=204, refusals=(404,))
async def delete_key(call: Call, key_id: KeyId) -> Answer:
    """End an API key."""
    await call.grid.users.delete_key(call.who, key_id)
    return NOTHING
