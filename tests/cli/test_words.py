"""What needs no grid: help, what is imported, exit codes, languages, batches, tables."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from gridx.cli import output
from gridx.cli.app import PARTS, build
from gridx.cli.run import exit_code_of
from gridx.cli.service.settings import without_password
from gridx.cli.submission import language_of, read_batch
from gridx.domain.errors import InvalidInput
from tests.support.grid import GRIDX, Person
from tests.support.processes import clean_environment, free_port

HEAVY = ("rich", "pydantic", "httpx2", "fastapi", "sqlalchemy", "asyncio", "stamina", "structlog")


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and group, with its full name."""

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield name, command
        for word, child in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {word}", child)

    yield from walk("gridx", typer.main.get_command(build()))


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[n for n, _ in commands()])
def test_every_command_explains_itself_with_examples(name: str, command: Any) -> None:
    _, examples = command.epilog.split("Examples:\n")
    assert all(line.strip() for line in examples.splitlines())
    assert name in examples or name == "gridx"
    if name != "gridx":
        assert len(command.help.split("\n", 1)[0]) <= 62, "the first line is cut in the overview"
    words = [parameter for parameter in command.params if not getattr(parameter, "help", "x")]
    assert {parameter.name for parameter in words} <= {"limit"}


def test_the_contracts_commands_are_there() -> None:
    names = {name for name, _ in commands()}
    wanted = [
        "up",
        "demo",
        "coordinator",
        "worker",
        "init",
        "login",
        "logout",
        "whoami",
        "key",
        "run",
        "submit",
        "ps",
        "show",
        "logs",
        "wait",
        "cancel",
        "retry",
        "workers",
        "credits",
        "admin",
        "doctor",
        "shell",
        "config",
    ]
    assert {f"gridx {word}" for word in [*wanted, "ledger verify"]} <= names


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_loaded_for_its_commands_alone(part: str) -> None:
    for word in PARTS[part]:
        program = typer.main.get_command(build(word))
        assert isinstance(program, TyperGroup)
        assert tuple(program.commands) == PARTS[part]


def imported_by(*words: str, home: Path) -> set[str]:
    """The modules that a command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gridx", *words],
        env=clean_environment(home, GRIDX_URL=f"http://127.0.0.1:{free_port()}"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    rows = (line.rsplit("|", 1) for line in done.stderr.splitlines() if "|" in line)
    return {row[-1].strip().split(".")[0] for row in rows}


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    modules = imported_by("--help", home=tmp_path)
    assert "typer" in modules
    assert not modules & set(HEAVY)


def test_a_remote_command_imports_no_server(tmp_path: Path) -> None:
    modules = imported_by("ps", home=tmp_path)
    assert "httpx2" in modules
    assert not modules & {"fastapi", "sqlalchemy", "uvicorn", "rich", "alembic"}


def test_a_folder_is_opened_without_a_server(tmp_path: Path) -> None:
    modules = imported_by("ledger", "verify", "--data", str(tmp_path), home=tmp_path)
    assert "sqlalchemy" in modules
    assert not modules & {"fastapi", "starlette", "uvicorn"}


EXITS = [
    (("succeeded", None, 0), 0),
    (("failed", "exit_code", 3), 3),
    (("failed", "exit_code", 139), 139),
    (("failed", "timeout", None), 124),
    (("failed", "out_of_memory", None), 137),
    (("cancelled", None, None), 130),
    (("failed", "lost", None), 125),
    (("failed", "sandbox_error", None), 125),
    (("failed", "expired", None), 125),
    (("failed", "output_limit", None), 1),
    (("failed", "disk_limit", None), 1),
    (("failed", "process_limit", None), 1),
    (("failed", "dependency_failed", None), 1),
]


@pytest.mark.parametrize(("ending", "code"), EXITS)
def test_exit_codes_are_the_contracts(
    ending: tuple[str, str | None, int | None], code: int
) -> None:
    assert exit_code_of(*ending) == code


LANGUAGES = [
    ("a.py", "", "python"),
    ("a.js", "", "javascript"),
    ("a.MJS", "", "javascript"),
    ("a.sh", "", "bash"),
    ("tool", "#!/usr/bin/env python3\n", "python"),
    ("tool", "#!/usr/bin/python3.11 -I\n", "python"),
    ("tool", "#!/usr/bin/node\n", "javascript"),
    ("tool", "#!/bin/sh\n", "bash"),
]


@pytest.mark.parametrize(("file", "text", "language"), LANGUAGES)
def test_the_language_of_a_file(file: str, text: str, language: str) -> None:
    assert language_of(file, text) == language


@pytest.mark.parametrize(("file", "text"), [("a.rb", ""), ("a", "print(1)"), ("a", "#!/bin/perl")])
def test_an_unknown_language_asks_for_the_flag(file: str, text: str) -> None:
    with pytest.raises(InvalidInput, match="--language"):
        language_of(file, text)


JOB = {"code": "1"}
BATCHES = [
    json.dumps([JOB, JOB]),
    json.dumps({"jobs": [JOB, JOB]}),
    json.dumps(JOB) + "\n\n" + json.dumps(JOB) + "\n",
]


@pytest.mark.parametrize("text", BATCHES)
def test_batches_are_json_or_jsonl(tmp_path: Path, text: str) -> None:
    file = tmp_path / "batch"
    file.write_text(text)
    assert read_batch(str(file)) == [JOB, JOB]


@pytest.mark.parametrize("text", ["", "[]", "1", "[1]", '{"jobs": 3}', '{"code": "1"}\n{"code"'])
def test_what_holds_no_jobs_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "batch"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=str(file)):
        read_batch(str(file))


def test_output_cannot_steer_the_terminal() -> None:
    dangerous = "\x1b]0;title\x07 \x1b[2J \x9b2J \x1b[31mred\x1b[0m\ttab\r\n"
    shown = output.harmless(dangerous)
    assert "\x1b[31mred\x1b[0m\ttab\r\n" in shown
    assert not {"\x1b]", "\x07", "\x1b[2J", "\x9b"} & {shown[i : i + n] for i in range(len(shown)) for n in (1, 2, 4)}  # fmt: skip


def test_a_table_without_a_terminal_is_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(("name", "count"), [("a", 1), ("long", None)], right=("count",))
    assert capsys.readouterr().out == "NAME  COUNT\na         1\nlong\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.01234, "0.0123 s"), (59.9, "59.9 s"), (60, "1 min"), (7200, "2 h"), (90_000 * 2, "2 d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


def test_a_password_in_an_address_is_not_shown() -> None:
    assert (
        without_password("postgresql://me:secret@db:5432/grid")
        == "postgresql://me:***@db:5432/grid"
    )
    assert without_password("sqlite:///gridx.db") == "sqlite:///gridx.db"


# ------------------------------------------------------------------ commands without a grid


@pytest.fixture
def nobody(tmp_path: Path) -> Person:
    """Somebody whose coordinator is not there."""
    return Person(clean_environment(tmp_path, GRIDX_URL=f"http://127.0.0.1:{free_port()}"))


@pytest.mark.parametrize(
    "words", [("ps", "--nonsense"), ("nonsense",), (), ("run",), ("cancel",), ("logs",),
              ("submit", "--batch", "x", "-c", "1"), ("key", "create", "x", "--scope", "all")],
)  # fmt: skip
def test_wrong_usage_exits_2(nobody: Person, words: tuple[str, ...]) -> None:
    assert nobody.gridx(*words).returncode == 2


@pytest.mark.parametrize("words", [("ps",), ("run", "-c", "1"), ("status",), ("whoami",)])
def test_an_absent_coordinator_is_one_clear_line(nobody: Person, words: tuple[str, ...]) -> None:
    if words == ("status",):
        words = ("workers",)
    done = nobody.gridx(*words, GRIDX_USER="x")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Cannot reach the coordinator" in done.stderr
    assert done.stdout == ""


def test_a_setting_nobody_knows_is_refused(nobody: Person) -> None:
    done = nobody.gridx("ps", GRIDX_SEVER__PORT="1")
    assert done.returncode == 1
    assert "GRIDX_SEVER__PORT" in done.stderr


def test_config_says_what_holds_and_where_from(nobody: Person, tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text("[limits]\nprocesses = 32\n")
    done = nobody.gridx(
        "config", "--json",
        GRIDX_CONFIG=str(file), GRIDX_SERVER__PORT="99",
        GRIDX_STORAGE__URL="postgresql://me:secret@db/grid",
    )  # fmt: skip
    held = {each["name"]: (each["value"], each["source"]) for each in json.loads(done.stdout)}
    assert held["limits.processes"] == ("32", str(file))
    assert held["server.port"] == ("99", "GRIDX_SERVER__PORT")
    assert held["server.host"] == ("127.0.0.1", "default")
    assert "secret" not in done.stdout
    assert "***" in held["storage.url"][0]


def test_doctor_says_what_this_machine_can_do(nobody: Person) -> None:
    report = nobody.json("doctor")
    assert any(each["works"] for each in report["sandboxes"])
    assert "bubblewrap" in nobody.ok("doctor")


def test_the_version(nobody: Person) -> None:
    from gridx import __version__

    assert nobody.ok("--version").strip() == __version__


def test_python_runs_the_same_program(tmp_path: Path) -> None:
    for module, words in (("gridx", "run"), ("gridx.worker", ""), ("gridx.coordinator", "")):
        done = subprocess.run(
            [sys.executable, "-m", module, *words.split(), "--help"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        command = words or module.rpartition(".")[2]
        assert f"Usage: gridx {command}" in done.stdout
    assert Path(GRIDX).exists()
