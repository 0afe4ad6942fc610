"""A database that was away, once it is not any more."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from gridx.domain.errors import Unavailable
from gridx.storage.database import Database

T = TypeVar("T")


async def healed(database: Database, operation: Callable[[Connection], T]) -> T:
    """What is read once it answers: whether the server does may have been asked a moment ago."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await database.read(operation)
            except Unavailable:
                await asyncio.sleep(0)
