"""Writes the reference pages that the code itself says: commands and settings.

`python scripts/reference.py` writes them; a test compares them with what it would write.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import typer.main

from gridx.cli.app import build
from gridx.cli.remote import Remote
from gridx.cli.service.settings import settings_held
from gridx.config import Section, Settings

SHARED = {
    hint.__metadata__[0].help
    for name, hint in get_type_hints(Remote, include_extras=True).items()
    if name in {"url", "token", "ca", "insecure"}
}
DOCS = Path(__file__).resolve().parent.parent / "docs" / "reference"
COMMANDS_HEAD = """\
# Commands

`gridx` is also `python -m gridx`; `python -m gridx.worker` and `python -m gridx.coordinator` are `gridx worker` and
`gridx coordinator`. Every command has `--help`. Exit codes: 0, 1 (it failed), 2 (wrong usage); `gridx run` has
its own. Tables are for people; programs take `--json`. Colours appear on terminals only, and never with
`NO_COLOR`.

Commands that ask a coordinator take `--url`, `--token`, `--ca` and `--insecure`; without them `GRIDX_URL` and
`GRIDX_TOKEN` hold, then the login that `gridx login` stored.
"""
SETTINGS_HEAD = """\
# Settings

Flags win over variables, those over the TOML file that `GRIDX_CONFIG` names, that over the defaults. A name
nobody knows is refused. `gridx config` shows what holds and where it came from. In a file, `GRIDX_SERVER__PORT` is
`port` in the section `[server]`.

Besides these: `GRIDX_URL`, `GRIDX_TOKEN`, `GRIDX_USER` and `GRIDX_PASSWORD` (clients and workers), `GRIDX_ADMIN_PASSWORD`
(`up`, `init`), `GRIDX_CONFIG` (the file), `GRIDX_CONFIG_DIR` (where the login is kept).
"""


def main() -> None:
    """Write both pages."""
    DOCS.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The pages by their file names."""
    app = typer.main.get_command(build())
    commands = [COMMANDS_HEAD, *_commands("gridx", app)]
    return {"cli.md": "\n".join(commands), "settings.md": "\n".join([SETTINGS_HEAD, *_settings()])}


def _commands(name: str, command: Any) -> Iterator[str]:
    children: dict[str, Any] = getattr(command, "commands", {})
    if name != "gridx":
        yield f"## `{name}`\n"
        yield inspect.cleandoc(command.help or "") + "\n"
        if rows := [_option(parameter) for parameter in command.params if _is_told(parameter)]:
            yield "| option | |\n| --- | --- |\n" + "\n".join(rows) + "\n"
        yield "```console\n" + _examples(command.epilog) + "\n```\n"
    for word, child in children.items():
        yield from _commands(f"{name} {word}", child)


def _is_told(parameter: Any) -> bool:
    """Whether it is not one of those that the head of the page explains."""
    return getattr(parameter, "help", None) not in SHARED and parameter.name not in {"json", "help"}


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{word}`" for word in parameter.opts if word.startswith("-"))
    metavar = "" if getattr(parameter, "is_flag", False) else parameter.metavar or ""
    shown = f"{names} {metavar}".strip() if names else f"`{metavar}`"
    return f"| {shown} | {getattr(parameter, 'help', None) or ''} |"


def _examples(epilog: str) -> str:
    _, _, lines = epilog.partition("Examples:\n")
    return "\n".join(f"$ {line.strip()}" for line in lines.splitlines())


def _settings() -> Iterator[str]:
    section = ""
    for held in settings_held(Settings()):
        name, _, _ = held.name.partition(".")
        if name != section:
            section = name
            part: Section = getattr(Settings(), name)
            about = inspect.getdoc(type(part)) or ""
            yield f"\n## `[{name}]`\n\n{about}\n\n| variable | default |\n| --- | --- |"
        value = f"`{held.value}`" if held.value else "none"
        yield f"| `{held.variable}` | {value} |"
    yield ""


if __name__ == "__main__":
    main()
