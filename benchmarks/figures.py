"""What a benchmark finds: figures with their bars, and the document they are written to."""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "internals" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: its value, the bar it is held to, and whether it holds."""

    what: str
    value: str
    bar: str
    holds: bool


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(figures: Sequence[Figure]) -> str:
    """A Markdown table of figures."""
    rows = ["| figure | measured | bar | holds |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {f.what} | {f.value} | {f.bar} | {'yes' if f.holds else '**no**'} |" for f in figures
    ]
    return "\n".join(rows)


def write(name: str, title: str, how: str, figures: Sequence[Figure]) -> None:
    """Put a benchmark's section into the document, in place of the one of its last run."""
    text = DOCUMENT.read_text() if DOCUMENT.exists() else _HEAD
    section = (
        f"<!-- begin {name} -->\n## {title}\n\n{how}\n\n{table(figures)}\n\n"
        f"Machine: {_machine()}. Again: `python3 dev.py bench {name}`.\n<!-- end {name} -->\n"
    )
    pattern = re.compile(rf"<!-- begin {name} -->.*?<!-- end {name} -->\n", re.DOTALL)
    if pattern.search(text):
        text = pattern.sub(lambda _: section, text)
    else:
        text = f"{text.rstrip()}\n\n{section}"
    DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(text)


def _machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}"
    )


_HEAD = """# Benchmarks

Measured figures, each written here by the run that measured it. `python3 dev.py bench` runs all of
them, `python3 dev.py bench NAME` one; the run prints the same tables. Absolute figures hold for the
machine named below them; ratios to a floor measured in the same run travel.
"""
