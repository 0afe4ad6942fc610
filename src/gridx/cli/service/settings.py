"""`gridx config`: every setting, what holds, and where that came from."""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit, urlunsplit

import typer

from gridx.cli import output
from gridx.cli.command import command
from gridx.cli.remote import Json

if TYPE_CHECKING:
    from gridx.config import Section, Settings


@dataclass(frozen=True, slots=True)
class Held:
    """A setting that holds: its name, its value as text, and where it came from."""

    name: str
    variable: str
    value: str
    source: str


def add_to(app: typer.Typer) -> None:
    """Declare the command."""
    command(
        app,
        "config",
        examples=["gridx config", "GRIDX_CONFIG=grid.toml gridx config", "gridx config --json"],
    )(config)


def config(json: Json = False) -> None:
    """Show every setting and where it comes from.

    Passwords in addresses are left out."""
    from gridx.config import load_settings

    held = list(settings_held(load_settings()))
    if json:
        output.show_json(held)
        return
    output.show_table(
        ("setting", "value", "from"), [(each.name, each.value, each.source) for each in held]
    )
    output.note(
        "set one with its variable (GRIDX_SERVER__PORT=80) or in the file GRIDX_CONFIG names"
    )


def settings_held(settings: "Settings") -> Iterator[Held]:
    """Every leaf of the tree, in its order."""
    file = os.environ.get("GRIDX_CONFIG")
    in_file = tomllib.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    for section in type(settings).model_fields:
        values: Section = getattr(settings, section)
        for key in type(values).model_fields:
            variable = f"GRIDX_{section.upper()}__{key.upper()}"
            source = "default"
            if key in in_file.get(section, {}):
                source = file or ""
            if any(name.upper() == variable for name in os.environ):
                source = variable
            yield Held(f"{section}.{key}", variable, _shown(getattr(values, key)), source)


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, cast("tuple[object, ...]", value)))
    return without_password(str(value))


def without_password(text: str) -> str:
    """An address without the password that may stand in it."""
    parts = urlsplit(text) if "://" in text else None
    if parts is None or parts.password is None:
        return text
    where = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{where}"))
