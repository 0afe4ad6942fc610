"""Placement: which queues get how many places on which workers, in one round.

Theory of operation. Owners take turns, the one with the lowest standing first; a turn gives one of
the owner's queues a few places on the worker that suits it best, and adds their price to the owner's
standing, until no queue finds room. How deep a queue is does not matter here: a claim that comes
back short tells the dispatcher that it is empty.

Fair share: an owner's standing is its decayed usage (CPU-equivalent seconds, halved every
`half_life_s`) plus what it has running, over its weight; ties go to who waited longest.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gridx.domain.matching import Shape, suits
from gridx.domain.resources import NOTHING, Resources
from gridx.domain.sandbox import WEAKEST_SANDBOX, Backend, floor_for
from gridx.domain.worker import Worker


@dataclass(frozen=True, slots=True)
class Share:
    """One owner's use of the grid at `at_s` seconds of the caller's clock."""

    used: float = 0.0
    at_s: float = 0.0

    def at(self, now_s: float, half_life_s: float) -> "Share":
        """The same share decayed to `now_s`."""
        elapsed = max(0.0, now_s - self.at_s)
        return Share(self.used * 0.5 ** (elapsed / half_life_s), now_s)

    def plus(self, used: float, now_s: float, half_life_s: float) -> "Share":
        """This share with `used` more added at `now_s`."""
        return Share(self.at(now_s, half_life_s).used + used, now_s)


def standing(share: Share, running: float, weight: float) -> float:
    """The number to order owners by: lower is served first."""
    return (share.used + running) / weight


@dataclass(frozen=True, slots=True)
class Queue:
    """Jobs of one owner and one shape that wait; `price` is what one of them costs a second."""

    owner: str
    shape: Shape
    key: str
    priority: int
    price: float


@dataclass(frozen=True, slots=True)
class Seat:
    """A connected worker, what is free on it, and what it withholds of what it offers."""

    worker: Worker
    free: Resources
    withheld: Resources = NOTHING

    def could_run(self, queue: Queue) -> bool:
        """Whether jobs of the queue may run here, now or when there is room again."""
        offer = self.worker.capabilities
        return (
            self.worker.may_serve(queue.owner)
            and suits(queue.shape, offer)
            and queue.shape.resources.fits(offer.resources.minus(self.withheld))
        )


@dataclass(frozen=True, slots=True)
class Place:
    """`count` jobs of a queue go to a worker."""

    queue: Queue
    worker_id: str
    count: int


def plan(
    queues: Sequence[Queue],
    seats: Sequence[Seat],
    standings: Mapping[str, float],
    limit: int,
    floor: Backend = WEAKEST_SANDBOX,
) -> list[Place]:
    """Up to `limit` places for this round, by fair share between owners.

    `floor` is the weakest sandbox in which one person's jobs run on another's worker.
    """
    free = {seat.worker.worker_id: seat.free for seat in seats}
    by_owner: dict[str, list[Queue]] = {}
    for queue in sorted(queues, key=lambda q: -q.priority):
        by_owner.setdefault(queue.owner, []).append(queue)
    turns = [(standings.get(owner, 0.0), owner) for owner in by_owner]
    heapq.heapify(turns)
    placed: dict[tuple[str, str, str], Place] = {}
    left = limit
    while turns and left > 0:
        score, owner = heapq.heappop(turns)
        mine = by_owner[owner]
        place = None
        while mine and place is None:
            place = _best_place(mine[0], seats, free, left, len(turns) + 1, floor=floor)
            if place is None:
                mine.pop(0)
        if place is None:
            continue
        left -= place.count
        taken = place.queue.shape.resources.times(place.count)
        free[place.worker_id] = free[place.worker_id].minus(taken)
        at = (owner, place.queue.key, place.worker_id)
        before = placed[at].count if at in placed else 0
        placed[at] = Place(place.queue, place.worker_id, before + place.count)
        heapq.heappush(turns, (score + place.count * place.queue.price, owner))
    return list(placed.values())


def _best_place(
    queue: Queue,
    seats: Sequence[Seat],
    free: Mapping[str, Resources],
    limit: int,
    owners: int,
    *,
    floor: Backend,
) -> Place | None:
    """The owner's own worker first, then the one that is left with least room.

    Workers that failed these jobs get them again only where no other could run them.
    """
    best: tuple[tuple[bool, int, float], str, int] | None = None
    need = queue.shape.resources
    if shuns := queue.shape.shuns:
        others = [seat for seat in seats if seat.worker.worker_id not in shuns]
        if any(seat.could_run(queue) for seat in others):
            seats = others
    for seat in seats:
        worker = seat.worker
        room = free[worker.worker_id]
        if not need.fits(room) or not worker.may_serve(queue.owner):
            continue
        needed = floor_for(queue.owner, worker.owner_id, floor)
        if not suits(queue.shape, worker.capabilities, needed):
            continue
        copies = need.copies_in(room)
        rank = (worker.owner_id != queue.owner, room.gpus - need.gpus, room.cpus - need.cpus)
        if best is None or rank < best[0]:
            best = (rank, worker.worker_id, copies)
    if best is None:
        return None
    _, worker_id, copies = best
    # One owner alone takes all the room at once; several take it in small turns.
    count = copies if owners == 1 else max(1, copies // (4 * owners))
    return Place(queue, worker_id, min(count, limit))
