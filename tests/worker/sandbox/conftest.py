"""A real sandbox for the tests of a module."""

from collections.abc import AsyncGenerator

import pytest_asyncio

from gridx.worker.sandbox.bubblewrap import Bubblewrap


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox() -> AsyncGenerator[Bubblewrap]:
    """The sandbox of this host, open."""
    backend = Bubblewrap()
    await backend.open()
    yield backend
    await backend.close()
