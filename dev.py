#!/usr/bin/env python3
"""Everything a developer of Grid-X runs. It needs Python 3.11 or newer and git, nothing else.

The first command that needs it makes `.venv` from the hash-locked files in `requirements/`; later
runs notice that nothing changed and start at once. Only the standard library is used here, because
this file runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
STAMP = VENV / ".stamp"
BOOTSTRAP_LOCK = ROOT / "requirements" / "bootstrap.lock"
DEV_LOCK = ROOT / "requirements" / "dev.lock"
RUNTIME_LOCK = ROOT / "requirements" / "runtime.lock"

# A shared library that wheels are linked to and do not bring -> the Debian package that has it.
LIBRARIES = {
    "stdc++": "libstdc++6",  # the Node that runs JavaScript jobs and the type checker
}
# A program that the tests run -> the Debian package that has it.
PROGRAMS = {
    "dockerd": "docker.io",  # the engine behind the docker sandbox
    "runsc": "runsc",  # gVisor's
}
# Two processes, each with its own servers; tests of one `xdist_group` stay in one of them. Three on
# two processors save a twelfth of the time and load the machine more.
WHOLE_SUITE = ("-n", "2", "--dist", "loadgroup")
LINES_SHOWN_MAX = 80
CHECKED = ("src", "tests", "benchmarks", "scripts", "dev.py")

EPILOG = """\
examples:
  python3 dev.py demo                     a whole grid with a real workload, then its ledger
  python3 dev.py setup                    only make .venv, with .venv/bin/gridx in it
  python3 dev.py test                     every test, on SQLite and on PostgreSQL
  python3 dev.py test tests/domain -k fee any argument of pytest
  python3 dev.py check                    format, lint, types, imports and house rules
  python3 dev.py check --fix src/gridx    the same for one folder, mending what can be mended
  python3 dev.py bench accept round_trip  the named benchmarks, or all of them
"""


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036  (this file may well be started by an older one)
        sys.exit(f"[dev] Grid-X needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    words = sys.argv[1:]
    # What follows these two belongs to the program that they run, in the order given.
    own = words[:1] if words[:1] in (["demo"], ["test"]) else words
    options, rest = parser().parse_args(own), words[len(own) :]
    # Trust the certificates that the machine trusts, as pip does; uv by itself would not.
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    # Only what the locks name is imported, whatever the caller has lying around.
    os.environ.pop("PYTHONPATH", None)
    # Compiled modules are kept: each of the hundreds of programs that tests start would else compile.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        return run_command(options, rest)
    except KeyboardInterrupt:
        return 130
    except subprocess.CalledProcessError as failure:
        say(f"`{' '.join(map(str, failure.cmd))}` ended with {failure.returncode}.")
        return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python3 dev.py",
        description=(__doc__ or "").split("\n", 1)[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("setup", help="make .venv and install what the tests need")
    commands.add_parser("demo", help="set up, then run `gridx demo`", add_help=False)
    commands.add_parser("test", help="set up, then run pytest", add_help=False)
    check = commands.add_parser("check", help="set up, then check format, lint, types, imports")
    check.add_argument("--fix", action="store_true", help="first mend what ruff can mend")
    check.add_argument("paths", nargs="*", help="limit format, lint and types to these")
    bench = commands.add_parser("bench", help="set up, then run benchmarks")
    bench.add_argument("names", nargs="*", help="which ones; all when none is named")
    lock = commands.add_parser("lock", help="make the lock files anew")
    lock.add_argument("--upgrade", action="store_true", help="take newer versions where allowed")
    return top


def run_command(options: argparse.Namespace, rest: Sequence[str]) -> int:
    if options.command == "lock":
        with one_at_a_time():
            lock(upgrade=options.upgrade)
        return 0
    complete = setup(for_tests=options.command not in ("demo", "check"))
    if options.command == "setup":
        say(f"ready: {BIN / 'gridx'}")
        return 0 if complete else 1
    if options.command == "demo":
        return call(BIN / "gridx", "demo", *rest)
    if options.command == "bench":
        return call(BIN / "python", "-m", "benchmarks", *options.names)
    if not complete and os.environ.get("CI"):
        say("CI needs every system package; nothing was run.")
        return 1
    if options.command == "test":
        return call(BIN / "python", "-m", "pytest", *(rest or WHOLE_SUITE))
    return check(options.paths, fix=options.fix)


# --- setup ----------------------------------------------------------------------------------------


def setup(*, for_tests: bool) -> bool:
    """Make the environment; False when a system package is missing and could not be installed."""
    with one_at_a_time():
        missing = [LIBRARIES[name] for name in LIBRARIES if not find_library(name)]
        if for_tests:
            # An ordinary user's path often lacks the folders of the system's services.
            path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
            missing += [PROGRAMS[name] for name in PROGRAMS if not shutil.which(name, path=path)]
        complete = install_debian(missing)
        wanted = fingerprint()
        if not STAMP.exists() or STAMP.read_text(encoding="utf-8") != wanted:
            make_venv()
            STAMP.write_text(wanted, encoding="utf-8")
    return complete


def fingerprint() -> str:
    """What the environment depends on: locks, packaging metadata, this interpreter, this folder."""
    import tomllib  # not at the top: an older Python must get as far as our message

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packaging = [project.get(key) for key in ("build-system", "project", "dependency-groups")]
    parts = [sys.version, sys.executable, str(ROOT), repr(packaging)]
    parts += [file.read_text(encoding="utf-8") for file in (BOOTSTRAP_LOCK, DEV_LOCK)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def make_venv() -> None:
    """Bring `.venv` to what the locks say, keeping it when its interpreter is still the same."""
    made_by = VENV / ".python"
    if not made_by.exists() or made_by.read_text(encoding="utf-8") != sys.version:
        need_ensurepip()
        say("making .venv")
        shutil.rmtree(VENV, ignore_errors=True)
        run(sys.executable, "-m", "venv", VENV)
        made_by.write_text(sys.version, encoding="utf-8")
    STAMP.unlink(missing_ok=True)
    python = BIN / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--require-hashes", "--requirement", BOOTSTRAP_LOCK)
    say("installing the locked packages")
    uv = (BIN / "uv", "pip")
    run(*uv, "sync", "--quiet", "--python", python, "--require-hashes", DEV_LOCK)
    editable = ("--no-deps", "--no-build-isolation", "--editable", ROOT)
    run(*uv, "install", "--quiet", "--python", python, *editable)


def need_ensurepip() -> None:
    """Debian keeps the part of Python that puts pip into a venv in a package of its own."""
    if not find_spec("ensurepip"):
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        if not install_debian([package]):
            sys.exit("[dev] Python cannot make virtual environments without it.")


def install_debian(packages: Sequence[str]) -> bool:
    """Install Debian packages when we may; otherwise say in one line what to run."""
    if not packages:
        return True
    by_hand = "apt-get install -y " + " ".join(packages)
    if not shutil.which("apt-get"):
        say(f"missing from this system: {' '.join(packages)} (Debian's names).")
        return False
    if os.geteuid() != 0:
        say(f"missing system packages. Please run:  sudo {by_hand}")
        return False
    say("installing Debian packages:", *packages)
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            [*apt, *command], env=quiet, text=True, capture_output=True, check=False
        )
        if done.returncode:
            say(*done.stderr.strip().splitlines()[-3:])
            say(f"`apt-get {command[0]}` failed. Please run:  {by_hand}")
            return False
    return True


# --- lock -----------------------------------------------------------------------------------------


def lock(*, upgrade: bool) -> None:
    """Resolve the dependencies for every Python and platform, with hashes and without hosts.

    Three files: the installer alone, everything for developers, and what a production image takes.
    `uv.lock` is not used because it writes down the index it was made with.
    """
    uv = BIN / "uv" if (BIN / "uv").exists() else shutil.which("uv")
    if not uv:
        sys.exit("[dev] Run `python3 dev.py setup` first (or have uv on the PATH).")
    compile_ = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    compile_ += ["--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate"]
    compile_ += ["--upgrade"] if upgrade else []
    project = ("pyproject.toml", "--extra", "all")
    DEV_LOCK.parent.mkdir(exist_ok=True)
    run(*compile_, *project, "--group", "dev", "--output-file", DEV_LOCK)
    # The other two may hold nothing that the first one does not.
    pinned = ("--constraint", DEV_LOCK)
    run(*compile_, *project, *pinned, "--output-file", RUNTIME_LOCK)
    run(*compile_, "-", *pinned, "--output-file", BOOTSTRAP_LOCK, feed="uv\n")
    for file in (DEV_LOCK, RUNTIME_LOCK, BOOTSTRAP_LOCK):
        count = sum("==" in line for line in file.read_text(encoding="utf-8").splitlines())
        say(f"{file.relative_to(ROOT)}: {count} packages")


# --- check ----------------------------------------------------------------------------------------


def check(paths: Sequence[str], *, fix: bool) -> int:
    """Run all checks side by side; print what failed, then one line for each."""
    targets = list(paths) or [path for path in CHECKED if (ROOT / path).exists()]
    python = [BIN / "python", "-m"]
    if fix:
        call(*python, "ruff", "check", "--quiet", "--fix", *targets)
        call(*python, "ruff", "format", "--quiet", *targets)
    types = ["--pythonpath", BIN / "python", *targets]
    commands: dict[str, list[object]] = {
        "types": [*python, "basedpyright", *types],
        "format": [*python, "ruff", "format", "--check", "--output-format=concise", *targets],
        "lint": [*python, "ruff", "check", "--quiet", "--output-format=concise", *targets],
        "imports": [BIN / "lint-imports", "--no-cache", "--no-logo"],
        "tidy": [*python, "pytest", "-q", "-rN", "--no-header", "tests/test_tidy.py"],
    }
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outputs = {name: Path(folder) / name for name in commands}
        running = {name: start(command, outputs[name]) for name, command in commands.items()}
        codes = {name: process.wait() for name, process in running.items()}
        for name, code in codes.items():
            if code:
                show(name, outputs[name].read_text(encoding="utf-8", errors="replace"))
    print()
    for name, code in codes.items():
        print(f"{'FAILED' if code else 'ok':>8}  {name}")
    failed = sum(code != 0 for code in codes.values())
    verdict = f"{failed} of {len(codes)} failed" if failed else "all passed"
    print(f"check: {verdict} in {time.monotonic() - started:.1f} s")
    return 1 if failed else 0


def show(name: str, output: str) -> None:
    """Print what a failed check said, with paths from here, and not more than one can read."""
    lines = output.strip().replace(f"{ROOT}/", "").splitlines()
    print(f"\n--- {name} ---", *lines[:LINES_SHOWN_MAX], sep="\n")
    if len(lines) > LINES_SHOWN_MAX:
        print(f"... and {len(lines) - LINES_SHOWN_MAX} more lines; name a path to see only its own")


def start(command: Sequence[object], output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        words = [str(word) for word in command]
        return subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)


# --- small pieces ---------------------------------------------------------------------------------


@contextlib.contextmanager
def one_at_a_time() -> Generator[None]:
    """Two terminals may start at once; the second waits and then finds everything done."""
    import fcntl

    with (ROOT / ".dev.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: object, feed: str | None = None) -> None:
    """Run a command that must succeed."""
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT, text=True, input=feed)


def call(*command: object) -> int:
    """Run a command in the foreground and give its exit code; Ctrl-C is for the child to answer."""
    with subprocess.Popen([str(word) for word in command], cwd=ROOT) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def say(*words: str) -> None:
    print("[dev]", *words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
