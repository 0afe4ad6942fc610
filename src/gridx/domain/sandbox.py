"""The published order of sandboxes, and in which of them an attempt runs.

none < docker < bubblewrap < gvisor. The order counts what stands between a job and the machine when
one thing in between is broken; `docs/concepts/sandbox.md` argues for it line by line.
"""

from collections.abc import Collection
from enum import StrEnum


class Backend(StrEnum):
    """A way to run programs, the weakest first; the values are stored and sent as they are."""

    NONE = "none"
    DOCKER = "docker"
    BUBBLEWRAP = "bubblewrap"
    GVISOR = "gvisor"

    @property
    def strength(self) -> int:
        """Its place in the order, from 0 for none at all."""
        return _ORDER.index(self)


class Enforcement(StrEnum):
    """A promise that a backend keeps on its host, or does not."""

    MEMORY = "memory"
    PROCESSES = "processes"
    CPU = "cpu"
    IO = "io"
    DISK = "disk"
    OUTPUT = "output"
    WALL_TIME = "wall_time"
    NETWORK = "network"
    FILES = "files"
    SYSCALLS = "syscalls"


_ORDER = tuple(Backend)
STRONGEST_FIRST = _ORDER[::-1]
WEAKEST_SANDBOX = Backend.DOCKER
_FASTEST_FIRST = (Backend.BUBBLEWRAP, Backend.GVISOR, Backend.DOCKER, Backend.NONE)


def is_at_least(name: str | None, floor: Backend) -> bool:
    """Whether the backend of this name is as strong as `floor`.

    A name this version does not know, or none where a worker says nothing, is some sandbox: it is
    taken for the weakest.
    """
    known = Backend(name) if name in _ORDER else WEAKEST_SANDBOX
    return known.strength >= floor.strength


def reaches(offered: Collection[str], floor: Backend, wanted: str | None = None) -> bool:
    """Whether a worker that offers these has one (the one that is `wanted`) as strong as `floor`."""
    names = offered or (None,)
    return any(is_at_least(name, floor) for name in names if wanted in (None, name))


def may_run_in(name: str | None, wanted: str | None, floor: Backend) -> bool:
    """Whether an attempt that was to run in `wanted`, or above `floor`, may have run in `name`.

    A worker that does not say is believed to have done what it was told.
    """
    return name in (None, wanted) if wanted is not None else is_at_least(name, floor)


def floor_for(submitter: str, owner: str, floor: Backend) -> Backend:
    """The weakest that will do for a job of `submitter`'s on a worker of `owner`'s.

    The grid's floor is for strangers: what one's own jobs may do to one's own machine is one's own
    business, and nobody else's.
    """
    return Backend.NONE if submitter == owner else floor


def choose(offered: Collection[str], wanted: str | None, floor: Backend) -> Backend | None:
    """What to run an attempt in: the one that is `wanted`, else the fastest that is offered.

    None when nothing of `offered` is that one, or as strong as `floor`.
    """
    will_do = (
        each
        for each in _FASTEST_FIRST
        if each in offered and wanted in (None, each) and is_at_least(each, floor)
    )
    return next(will_do, None)
