"""What people and workers know for certain, whatever the coordinators' store says.

A witness is told when somebody outside was promised something: a job was accepted, a result was
acknowledged, a worker kept one. The promises are held against the store at once where that is
possible, the others at the end.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gridx.domain.attempt import Reason
from tests.simulation.story import Story, short

if TYPE_CHECKING:
    from tests.simulation.programs import Script


@dataclass(frozen=True, slots=True)
class Ran:
    """How an attempt really went, as its sandbox saw it."""

    wall_s: float
    reason: Reason | None
    exit_code: int | None


@dataclass(slots=True)
class Trouble:
    """When something was last done to a worker or to everybody that excuses a lost lease."""

    everybody_until_s: float = -1.0
    workers_until_s: dict[str, float] = field(default_factory=dict[str, float])

    def hits(self, worker_id: str, until_s: float) -> None:
        self.workers_until_s[worker_id] = max(until_s, self.workers_until_s.get(worker_id, -1.0))

    def hits_everybody(self, until_s: float) -> None:
        self.everybody_until_s = max(until_s, self.everybody_until_s)

    def excuses(self, worker_id: str, since_s: float) -> bool:
        """Whether a lease of this worker, held since then, may have been lost."""
        mine = self.workers_until_s.get(worker_id, -1.0)
        return max(mine, self.everybody_until_s) >= since_s


class Witness:
    """What is known outside the store."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self.scripts: dict[str, Script] = {}
        """What each job that was ever asked for does, by its name."""
        self.accepted: dict[str, str] = {}
        """The name of each job whose id somebody was given."""
        self.cancelled: set[str] = set()
        """Jobs of which somebody was told that they are, or are going to be, cancelled."""
        self.runs: dict[str, Ran] = {}
        self.left: set[str] = set()
        """Workers that have handed their attempts over at least once."""
        self.trouble = Trouble()

    def leaves(self, worker_id: str) -> None:
        """A worker says that it hands its attempts over."""
        self.left.add(worker_id)

    def ran(self, lease: str, how: Ran) -> None:
        """An attempt came to its end."""
        self._story.must(lease not in self.runs, f"lease {lease} ran twice")
        self.runs[lease] = how
        ending = how.reason.value if how.reason else f"exit {how.exit_code}"
        self._story.tell(f"lease {short(lease)} ended: {ending} after {how.wall_s:.3f} s")
