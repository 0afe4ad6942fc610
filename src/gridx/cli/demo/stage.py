"""The grid that the demo plays on: a coordinator and two workers of different owners."""

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gridx.cli.service.local import Order, WorkerChild
from gridx.client import calls
from gridx.client.aio import AsyncClient
from gridx.clock import Clock, SystemClock
from gridx.config import Settings
from gridx.coordinator.grid import initialise, issue_local_token
from gridx.domain.errors import GridError
from gridx.server.app import serving
from gridx.server.policy import policy_of

ADMIN = "admin"
OWNERS = {"olivia": "attic-pc", "peter": "lab-2"}
"""Owners, and the names of their machines."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A grid that serves: its address, a client for each user, and the administrator's password."""

    url: str
    password: str
    clients: dict[str, AsyncClient]
    workers: dict[str, str]
    """Owners by the id of their worker."""


@asynccontextmanager
async def stage(
    settings: Settings, folder: Path, users: Sequence[str], children: Sequence[WorkerChild]
) -> AsyncGenerator[Stage]:
    """Everything up: users registered, workers accepted. All of it ends with the block."""
    clock: Clock = SystemClock()
    password = clock.new_secret()[:20]
    await initialise(policy_of(settings), clock, ADMIN, password)
    async with AsyncExitStack() as ends:
        it = await ends.enter_async_context(serving(settings, clock))
        clients: dict[str, AsyncClient] = {}
        tokens: dict[str, str] = {}
        stranger = await ends.enter_async_context(AsyncClient(it.url))
        for user_id in (*users, *OWNERS):
            await stranger.call(calls.register(user_id, clock.new_secret()))
        for user_id in (ADMIN, *users, *OWNERS):
            tokens[user_id] = await issue_local_token(it.grid, user_id)
            client = AsyncClient(it.url, tokens[user_id])
            clients[user_id] = await ends.enter_async_context(client)
        workers: dict[str, str] = {}
        for child, (owner, name) in zip(children, OWNERS.items(), strict=True):
            ends.push_async_callback(child.leave)
            order = Order(
                url=it.url,
                token=tokens[owner],
                user_id=owner,
                state_dir=str(folder / name),
                name=name,
                slots=1,
            )
            workers[await child.start(order)] = owner
        yield Stage(it.url, password, clients, workers)


def need_no_settings_elsewhere() -> None:
    """Raises `GridError` when the caller's environment would change the demo's own grid."""
    named = [name for name in os.environ if name.startswith("GRIDX_") and "__" in name]
    if named:
        raise GridError(f"The demo has its own settings: unset {', '.join(sorted(named))} for it")
