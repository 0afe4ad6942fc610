"""A real sandbox for the tests of a module: bubblewrap, or what `parametrize("sandbox")` names."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from gridx.worker.sandbox.base import Sandbox
from tests.worker.sandbox.backends import BACKENDS


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox(request: pytest.FixtureRequest) -> AsyncGenerator[Sandbox]:
    """The sandbox of this host, open."""
    backend = BACKENDS[getattr(request, "param", "bubblewrap")](request)
    await backend.open()
    yield backend
    await backend.close()
