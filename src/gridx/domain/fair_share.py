"""Fair share: whose turn it is.

An owner's standing is its decayed usage (CPU-equivalent seconds, halved every `half_life_s`) plus
what it has running, over its weight; the lowest goes first. Ties go to who waited longest.
"""

from dataclasses import dataclass


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
