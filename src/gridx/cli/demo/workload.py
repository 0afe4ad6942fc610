"""The work the demo gives to its grid, and what its results mean. Pure."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridx.client.calls import JobRequest

SHARES, PATHS = 20, 250_000
WIDTH, HEIGHT, STRIPS = 76, 28, 4
LONG_WORD, TOP_WORDS = 5, 8


@dataclass(frozen=True, slots=True)
class Work:
    """What one user wants done: a title for people, and the jobs."""

    user_id: str
    title: str
    jobs: "tuple[JobRequest, ...]"


@dataclass(frozen=True, slots=True)
class Price:
    """An estimate with its standard error, beside the exact value."""

    estimate: float
    error: float
    exact: float
    paths: int


@dataclass(frozen=True, slots=True)
class TextStatistics:
    """What the shares of a text add up to."""

    lines: int
    words: int
    often: tuple[tuple[str, int], ...]


def workload() -> tuple[Work, ...]:
    """Three users, three languages."""
    price, words, picture = (
        _job(name) for name in ("option_price.py", "words.sh", "mandelbrot.js")
    )
    chapters = _job("mill.txt").split("\n\n")
    rows = HEIGHT // STRIPS
    monte_carlo: list[JobRequest] = [
        {
            "code": price,
            "language": "python",
            "args": [str(PATHS), str(seed)],
            "name": f"paths {seed}",
        }
        for seed in range(1, SHARES + 1)
    ]
    statistics: list[JobRequest] = [
        {
            "code": words,
            "language": "bash",
            "args": [str(LONG_WORD)],
            "stdin": chapter,
            "name": f"chapter {number}",
        }
        for number, chapter in enumerate(chapters, 1)
    ]
    mandelbrot: list[JobRequest] = [
        {
            "code": picture,
            "language": "javascript",
            "args": [str(n) for n in (strip * rows, rows, WIDTH, HEIGHT)],
            "name": f"rows {strip * rows + 1}-{(strip + 1) * rows}",
        }
        for strip in range(STRIPS)
    ]
    return (
        Work("alice", f"price an option, {SHARES} x {PATHS:,} paths in Python", tuple(monte_carlo)),
        Work("bob", "count the words of a story in Bash", tuple(statistics)),
        Work("carol", "draw the Mandelbrot set in JavaScript", tuple(mandelbrot)),
    )


def price_of(outputs: Sequence[str]) -> Price:
    """The option's price from all shares."""
    shares = [json.loads(text) for text in outputs]
    paths = sum(share["paths"] for share in shares)
    mean = sum(share["total"] for share in shares) / paths
    variance = sum(share["squares"] for share in shares) / paths - mean * mean
    return Price(mean, math.sqrt(variance / paths), black_scholes(), paths)


def black_scholes() -> float:
    """The exact price of the option that the jobs estimate (spot and strike 100, 5 %, 20 %, 1 a)."""
    d1, d2 = (0.05 + 0.02) / 0.2, (0.05 - 0.02) / 0.2
    return 100 * _normal(d1) - 100 * math.exp(-0.05) * _normal(d2)


def statistics_of(outputs: Sequence[str]) -> TextStatistics:
    """One text's statistics from those of its chapters."""
    counts: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for line in "".join(outputs).splitlines():
        kind, *rest = line.split()
        if kind == "word":
            words[rest[0]] += int(rest[1])
        else:
            counts[kind] += int(rest[0])
    often = sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP_WORDS]
    return TextStatistics(counts["lines"], counts["words"], tuple(often))


def _normal(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def _job(name: str) -> str:
    return (files("gridx.cli.demo") / "jobs" / name).read_text(encoding="utf-8")
