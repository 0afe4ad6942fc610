"""Which paths of its work folder a job's `outputs` name: all its globs as one machine of states.

Theory of operation. `*` is any characters of a name, `?` one, `[a-z]` and `[!a-z]` one of a set, and
`**` as a whole part of the path is any folders (at its end: every file below). Each character of
each glob is a bit; a set of bits says which of them may come next. Reading a character of a path
moves the bits it fits by one and keeps those before which a `*` stands. So each character costs a
few operations on one number, whatever the globs are: nothing is ever tried twice.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

CHARACTERS_MAX = 2048


class Patterns:
    """Globs relative to a folder; their states are numbers, 0 where nothing can match any more.

    A glob that is absolute or climbs with `..` matches nothing. They have `CHARACTERS_MAX`
    characters in all, at most.
    """

    def __init__(self, globs: Sequence[str]) -> None:
        assert sum(map(len, globs)) <= CHARACTERS_MAX
        self._length = 0
        self._stars = self._slashes = self._deep = self._ends = 0
        self._toggled = {0: 0}
        start = 0
        for each in globs:
            if not each.startswith("/"):
                start |= 1 << self._length
                self._add([part for part in each.split("/") if part not in ("", ".")])
        self.start = self._at_a_name(start)
        self._points = sorted(self._toggled)
        toggles = (self._toggled[each] for each in self._points)
        self._fitting: list[int] = list(accumulate(toggles, int.__xor__))

    def after(self, state: int, name: str) -> int:
        """The state once `name`, one part of a path, was read too."""
        for each in name:
            fitting = self._fitting[bisect_right(self._points, ord(each)) - 1]
            state = (state & fitting) << 1 | (state & self._stars)
            if not state:
                break
        return state

    def inside(self, state: int) -> int:
        """The state in the folder whose name was read last."""
        return self._at_a_name((state & self._slashes) << 1)

    def match(self, state: int) -> bool:
        """Whether what was read is a path that was asked for."""
        return bool(state & self._ends)

    def _at_a_name(self, state: int) -> int:
        """Before the first character of a name, `**` may read it or be over."""
        return state | (state & self._deep) << 1 | (state >> 1) & self._deep

    def _add(self, parts: list[str]) -> None:
        if parts[-1:] == ["**"]:
            parts = [*parts, "*"]
        for index, part in enumerate(parts):
            if part != "**":
                self._add_name(part)
            elif parts[index + 1] == "**":
                continue
            else:  # reads a whole name, again and again
                self._stars |= 1 << self._length
                self._deep |= 1 << self._length
            if index < len(parts) - 1:
                self._slashes |= 1 << self._length
                self._length += 1
        self._ends |= 1 << self._length
        self._length += 1

    def _add_name(self, glob: str) -> None:
        index = 0
        while index < len(glob):
            end = _end_of_set(glob, index)
            if glob[index] == "*":
                self._stars |= 1 << self._length
            elif glob[index] == "?":
                self._add_character([], negated=True)
            elif end > index:
                negated = glob[index + 1] == "!"
                self._add_character(_ranges(glob[index + 1 + negated : end]), negated=negated)
            else:
                self._add_character([(ord(glob[index]), ord(glob[index]) + 1)], negated=False)
            index = end + 1

    def _add_character(self, ranges: list[tuple[int, int]], *, negated: bool) -> None:
        """One that lies in `ranges`, which do not overlap, or in none of them."""
        bit = 1 << self._length
        points = [point for each in ranges for point in each]
        for point in (0, *points) if negated else points:
            self._toggled[point] = self._toggled.get(point, 0) ^ bit
        self._length += 1


def _end_of_set(glob: str, start: int) -> int:
    """Where the set that opens at `start` closes; `start` where there is none."""
    if glob[start] != "[":
        return start
    first = start + 2 if glob.startswith("[!", start) else start + 1
    return max(start, glob.find("]", first + 1))


def _ranges(text: str) -> list[tuple[int, int]]:
    """What stands in a set, as ranges without their ends, in order and apart."""
    found: list[tuple[int, int]] = []
    index = 0
    while index < len(text):
        is_range = text[index + 1 : index + 2] == "-" and index + 2 < len(text)
        last = index + 2 if is_range else index
        if text[index] <= text[last]:
            found.append((ord(text[index]), ord(text[last]) + 1))
        index = last + 1
    apart: list[tuple[int, int]] = []
    for low, high in sorted(found):
        if apart and low <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(high, apart[-1][1]))
        else:
            apart.append((low, high))
    return apart
