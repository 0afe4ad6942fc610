"""Grid-X: run jobs on other people's machines, sandboxed and paid by the second."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridx.client.aio import AsyncClient as AsyncClient
    from gridx.client.aio import AsyncJob as AsyncJob
    from gridx.client.sync import Client as Client
    from gridx.client.sync import Job as Job
    from gridx.domain.errors import GridError as GridError

__version__ = "2.0.0a1"

_OWNERS = {
    "AsyncClient": "gridx.client.aio",
    "AsyncJob": "gridx.client.aio",
    "Client": "gridx.client.sync",
    "GridError": "gridx.domain.errors",
    "Job": "gridx.client.sync",
}


def __getattr__(name: str) -> object:
    # Imported when first used, so that `import gridx` costs nothing to who needs less.
    if name in _OWNERS:
        return getattr(import_module(_OWNERS[name]), name)
    raise AttributeError(f"module 'gridx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_OWNERS])
