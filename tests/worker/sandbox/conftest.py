"""A real sandbox for the tests of a module: bubblewrap, or what `parametrize("sandbox")` names."""

from collections.abc import AsyncGenerator, Callable

import pytest
import pytest_asyncio

from gridx.worker.sandbox.base import Sandbox
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from gridx.worker.sandbox.gvisor import Gvisor

BACKENDS: dict[str, Callable[[], Sandbox]] = {"bubblewrap": Bubblewrap, "gvisor": Gvisor}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox(request: pytest.FixtureRequest) -> AsyncGenerator[Sandbox]:
    """The sandbox of this host, open."""
    backend = BACKENDS[getattr(request, "param", "bubblewrap")]()
    await backend.open()
    yield backend
    await backend.close()
