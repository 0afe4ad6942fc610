"""Conduct: what the latest attempts of a worker say about it, and when the grid sets it aside.

Two kinds of worker do harm without breaking a rule. A black hole fails whatever it is given, at once,
and so has room for more: five attempts in a row that ended without the program's doing set it aside.
A worker that spoils programs (a broken library, a wrong clock, a lie about time-outs) shows in the
share of its attempts that end with an exit code or a time-out, against that of the same submitters'
attempts elsewhere: `far_above` says when chance does not explain the difference.

Kept in memory: what a restart forgets is learnt again from a few attempts, and the verdict itself is
in the store. Pure: nothing here reads a clock or a database.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec import Struct

from gridx.domain.attempt import OWN_DOING, Attempt, AttemptStatus, Reason

V = TypeVar("V")

ROW_MAX = 5
"""So many sandbox errors and instant losses in a row set a worker aside."""
WINDOW = 50
"""So many of its latest attempts are compared."""
SUBMITTERS_MIN = 3
ELSEWHERE_MIN = 20
"""A submitter counts that has had so many attempts on other workers."""
CHANCE_MAX = 1e-6
CHANCE_WITHOUT_ONE_MAX = 1e-3
"""What must hold without any one of the submitters too: no single one can have a worker set aside."""
SPOILT = (Reason.EXIT_CODE, Reason.TIMEOUT)

_LOOK_EVERY = 10
_TALLY_MAX = 1_000
_KNOWN_MAX = 10_000


class End(Struct, frozen=True):
    """How an attempt ended; `instant` says that it was lost as soon as it could be."""

    worker_id: str
    submitter: str
    status: AttemptStatus
    reason: Reason | None
    instant: bool


def end_of(attempt: Attempt, submitter: str, instant_us: int) -> End:
    """What counts of an attempt that ended; lost within `instant_us` it was lost at once.

    An attempt that does not count (handed over, taken back) is no loss.
    """
    took_us = (attempt.finished_at or attempt.assigned_at) - attempt.assigned_at
    lost = attempt.status is AttemptStatus.LOST and attempt.counted
    instant = lost and took_us <= instant_us
    return End(attempt.worker_id, submitter, attempt.status, attempt.reason, instant)


@dataclass(slots=True)
class _Record:
    """One worker's: how many failed in a row, and who had what end in its latest attempts."""

    row: int = 0
    ends: int = 0
    latest: deque[tuple[str, Reason | None]] = field(default_factory=lambda: deque(maxlen=WINDOW))


class Conduct:
    """The records of all workers, and the tallies of all submitters."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._tallies: dict[str, Counter[Reason | None]] = {}

    def note(self, ends: Iterable[End]) -> dict[str, str]:
        """Take down ends that came together; why which workers are to be set aside.

        Losses of one worker that come together are one: its machine was switched off once.
        """
        verdicts: dict[str, str] = {}
        lost: set[str] = set()
        for end in ends:
            record = _kept(self._records, end.worker_id, _Record)
            if end.instant or end.reason is Reason.SANDBOX_ERROR:
                if end.instant and end.worker_id in lost:
                    continue
                if end.instant:
                    lost.add(end.worker_id)
                record.row += 1
                if record.row >= ROW_MAX:
                    verdicts[end.worker_id] = _why_row(record.row, end.reason)
            elif end.status is AttemptStatus.SUCCEEDED or end.reason in OWN_DOING:
                record.row = 0
                if (why := self._spoilt(record, end)) is not None:
                    verdicts[end.worker_id] = why
        return verdicts

    def forgive(self, worker_id: str) -> None:
        """Somebody has looked at the worker: it begins anew."""
        self._records.pop(worker_id, None)

    def _spoilt(self, record: _Record, end: End) -> str | None:
        record.latest.append((end.submitter, end.reason))
        record.ends += 1
        tally = _kept(self._tallies, end.submitter, Counter[Reason | None])
        tally[end.reason] += 1
        if tally.total() > _TALLY_MAX:
            for reason in tally:
                tally[reason] //= 2
        if record.ends % _LOOK_EVERY or len(record.latest) < WINDOW:
            return None
        for reason in SPOILT:
            shares = self._shares(record, reason)
            if far_above(shares):
                return _why_spoilt(reason, shares)
        return None

    def _shares(self, record: _Record, reason: Reason) -> list["Share"]:
        """Of each submitter of the latest attempts, how many ended for `reason`, here and not."""
        here: dict[str, Counter[Reason | None]] = {}
        for submitter, its in record.latest:
            here.setdefault(submitter, Counter())[its] += 1
        shares: list[Share] = []
        for submitter, counted in here.items():
            tally = self._tallies.get(submitter, counted)
            elsewhere = max(0, tally.total() - counted.total())
            bad_elsewhere = min(elsewhere, max(0, tally[reason] - counted[reason]))
            shares.append(Share(counted.total(), counted[reason], elsewhere, bad_elsewhere))
        return shares


class Share(Struct, frozen=True):
    """One submitter's attempts and how many of them ended badly: on one worker, and elsewhere."""

    here: int
    bad_here: int
    elsewhere: int
    bad_elsewhere: int

    @property
    def expected(self) -> float:
        """The chance of a bad end elsewhere, by Laplace's rule of succession."""
        return (self.bad_elsewhere + 1) / (self.elsewhere + 2)


def far_above(shares: Sequence[Share]) -> bool:
    """Whether bad ends are more frequent here than the same submitters' elsewhere can explain.

    If each attempt ended badly with its submitter's chance elsewhere, at least `k` of `n` would do
    so with a chance of at most exp(-n KL(k/n, m)), where `m` is the mean of those chances and KL
    the relative entropy of two coins: W. Hoeffding, Probability Inequalities for Sums of Bounded
    Random Variables, JASA 58 (1963), theorem 1, which holds for chances that differ. That bound
    must be below one in a million, and below one in a thousand without any one of the submitters.
    """
    known = [share for share in shares if share.elsewhere >= ELSEWHERE_MIN]
    if len(known) < SUBMITTERS_MIN or _chance(known) > CHANCE_MAX:
        return False
    return all(
        _chance([*known[:at], *known[at + 1 :]]) <= CHANCE_WITHOUT_ONE_MAX
        for at in range(len(known))
    )


def _chance(shares: Sequence[Share]) -> float:
    """At most so likely are as many bad ends as there were."""
    n = sum(share.here for share in shares)
    k = sum(share.bad_here for share in shares)
    mean = sum(share.here * share.expected for share in shares) / n
    if k / n <= mean:
        return 1.0
    entropy = k / n * math.log(k / n / mean)
    if k < n:
        entropy += (1 - k / n) * math.log((1 - k / n) / (1 - mean))
    return math.exp(-n * entropy)


def _kept(known: dict[str, V], key: str, make: Callable[[], V]) -> V:
    """The value of `key`, made if it is new; the oldest goes when there are too many."""
    if (found := known.get(key)) is not None:
        return found
    if len(known) >= _KNOWN_MAX:
        del known[next(iter(known))]
    made = known[key] = make()
    return made


def _why_row(row: int, reason: Reason | None) -> str:
    return (
        f"{row} attempts in a row failed on it without the program's doing (the last: {reason}): "
        "look at its log and at `gridx doctor`, then resume it"
    )


def _why_spoilt(reason: Reason, shares: Sequence[Share]) -> str:
    bad, here = sum(s.bad_here for s in shares), sum(s.here for s in shares)
    elsewhere = sum(s.here * s.expected for s in shares) / here
    return (
        f"{bad} of the last {here} attempts on it ended with {reason}, of the same submitters' "
        f"elsewhere {elsewhere:.0%}: see what differs on this machine, then resume it"
    )
