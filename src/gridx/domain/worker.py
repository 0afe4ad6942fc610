"""A worker: what it offers, and whether it may be given work.

Its status is derived: an administrator's verdict, or the grid's own, wins over its owner's pause, and
being offline over all but a ban.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gridx.domain.resources import Resources


class WorkerStatus(StrEnum):
    """What a worker is doing, as shown to people."""

    ONLINE = "online"
    PAUSED = "paused"
    DRAINING = "draining"
    SUSPENDED = "suspended"
    BANNED = "banned"
    OFFLINE = "offline"


class Standing(StrEnum):
    """What an administrator has decided about a worker."""

    GOOD = "good"
    SUSPENDED = "suspended"
    BANNED = "banned"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a worker says it offers; never trusted beyond what settings allow.

    `images` are patterns (`domain.matching`) of what jobs may name to run in; none where it runs none.
    `lacks` has, for each sandbox, what it cannot enforce on that machine.
    """

    resources: Resources = Resources(1.0, 1024, 0, 1024)
    languages: tuple[str, ...] = ("python", "javascript", "bash")
    sandboxes: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    os: str = "linux"
    arch: str = ""
    images: tuple[str, ...] = ()
    lacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as the grid keeps it; times in microseconds since the epoch.

    The grid itself suspends one that does badly until `set_aside_until` (see `conduct`), or until
    its owner resumes it; `set_aside_why` is a sentence for a person.
    """

    worker_id: str
    owner_id: str
    name: str
    capabilities: Capabilities
    version: str
    created_at: int
    seen_at: int | None
    online: bool
    paused: bool
    draining: bool
    standing: Standing
    admitted: bool
    set_aside_until: int | None = None
    set_aside_why: str | None = None

    @property
    def status(self) -> WorkerStatus:
        if self.standing is Standing.BANNED:
            return WorkerStatus.BANNED
        if self.standing is Standing.SUSPENDED:
            return WorkerStatus.SUSPENDED
        if not self.online:
            return WorkerStatus.OFFLINE
        if self.set_aside_until is not None:
            return WorkerStatus.SUSPENDED
        if self.draining:
            return WorkerStatus.DRAINING
        if self.paused:
            return WorkerStatus.PAUSED
        return WorkerStatus.ONLINE

    def may_serve(self, submitter: str) -> bool:
        """Whether a new attempt of `submitter`'s may be placed here."""
        return self.status is WorkerStatus.ONLINE and (self.admitted or self.owner_id == submitter)
