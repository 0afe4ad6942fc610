"""What a command prints: tables for people, JSON for programs, errors on standard error.

Colours and lines of a table appear only on a terminal, and never with NO_COLOR. Text that comes
from elsewhere cannot steer the terminal it is shown on.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from gridx.domain.errors import GridError, Unauthenticated

if TYPE_CHECKING:
    from rich.console import Console

UNSANDBOXED = "UNSANDBOXED"
"""Said, in red, of whatever runs programs without a sandbox."""
COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "dim",
    "running": "cyan",
    "queued": "yellow",
    "blocked": "yellow",
    "online": "green",
    "paused": "yellow",
    "draining": "yellow",
    "suspended": "red",
    "banned": "red",
    "offline": "dim",
    "works": "green",
    "broken": "yellow",
    UNSANDBOXED: "red",
}
_CODES = {"green": 32, "red": 31, "cyan": 36, "yellow": 33, "dim": 2, "bold": 1}
_STEERING = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")


def is_coloured(stream: TextIO) -> bool:
    """Whether colours may go to `stream`."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """`text` in a colour, where colours may be."""
    if colour not in _CODES or not is_coloured(stream or sys.stdout):
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def harmless(text: str) -> str:
    """`text` without what could steer a terminal; colours stay."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def write(text: str, stream: TextIO) -> None:
    """Somebody's program's output, as it is; without terminal controls on a terminal."""
    stream.write(harmless(text) if stream.isatty() else text)
    stream.flush()


def note(text: str) -> None:
    """A word beside the result, on standard error."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    note(f"{paint('warning:', 'yellow', sys.stderr)} {text}")


def alarm(text: str) -> None:
    """What nobody may overlook."""
    note(paint(text, "red", sys.stderr))


def complain(text: str) -> None:
    """One line that says what is wrong and what to do next."""
    note(f"{paint('error:', 'red', sys.stderr)} {harmless(text)}")


def fail(error: GridError) -> None:
    """Tell a refusal, with the fields it is about when the message does not name them."""
    message = error.message
    if isinstance(error, Unauthenticated) and "token" in message:
        message = f"{message.partition(':')[0]}: run `gridx login`, or set GRIDX_TOKEN"
    told = [f"{d.field}: {d.message}" for d in error.details if d.message not in message]
    complain("; ".join([message, *told]))


# ------------------------------------------------------------------ data


def show_json(value: object) -> None:
    """One JSON document: a view, a dataclass, or a list of them."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: object) -> object:
    """`value` (views, structs, dataclasses, lists of them) as JSON can say it."""
    import msgspec

    def dump(model: object) -> object:
        from pydantic import BaseModel

        assert isinstance(model, BaseModel), f"{type(model).__name__} is nothing to print"
        return model.model_dump(mode="json", by_alias=True)

    return msgspec.to_builtins(value, enc_hook=dump)


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """Rows under headings; `right` names the columns of numbers."""
    texts = [["" if cell is None else harmless(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _show_rich(columns, texts, right)
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    for line in ([name.upper() for name in columns], *texts):
        cells = [
            text.rjust(width) if name in right else text.ljust(width)
            for name, text, width in zip(columns, line, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def show_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line; those without a value are left out."""
    known = [(name, harmless(str(value))) for name, value in pairs if value not in (None, "", [])]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        label = paint(name.ljust(width), "dim")
        print(f"{label}  {paint(value, COLOURS.get(value.split(' ')[0], ''))}")


def console(stream: TextIO | None = None) -> "Console":
    """Rich's console on `stream` (standard output), plain where colours are off."""
    from rich.console import Console

    out = stream or sys.stdout
    return Console(file=out, no_color=not is_coloured(out), highlight=False, markup=False)


def _show_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        is_id = name in ("job", "worker", "batch", "key")
        table.add_column(
            name.upper(),
            justify="right" if name in right else "left",
            no_wrap=is_id,
            overflow="fold",
        )
    for row in rows:
        cells = [Text(cell, style=COLOURS.get(cell.split(" ")[0], "")) for cell in row]
        table.add_row(*cells)
    console().print(table)


# ------------------------------------------------------------------ small words


def ago(moment: str | None, now: int) -> str:
    """`3 min ago` for a time of the API; `now` in microseconds."""
    from gridx.clock import from_rfc3339

    return "" if moment is None else f"{duration((now - from_rfc3339(moment)) / 1e6)} ago"


def duration(seconds: float | None) -> str:
    """`1.25 s`, `3 min`, `2 h`, `5 d`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{max(0.0, seconds):.3g} s"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    raise AssertionError("a minute has 60 seconds")


def amounts(resources: Mapping[str, Any]) -> str:
    """`2 cpus, 1024 MB` with GPUs when there are some."""
    words = [f"{resources.get('cpus', 0):g} cpus", f"{resources.get('memory_mb', 0):g} MB"]
    if resources.get("gpus"):
        words.append(f"{resources['gpus']:g} gpus")
    return ", ".join(words)
