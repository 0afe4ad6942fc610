"""Becomes an ordinary user who sees this checkout and its interpreter, and runs a command.

Run by root as `python ordinary_user.py COMMAND...`; with `--as-root` before the command it stays root.
What lies in a folder that only root may enter (a home, say) is shown at its own place in a mount
namespace of this process's own.
"""

import os
import sys
from pathlib import Path

from gridx.worker.sandbox.inside import kernel

UID = 65_533


def main(command: list[str]) -> None:
    kernel.unshare(kernel.NEWNS)
    kernel.mount("none", "/", None, kernel.PRIVATE | kernel.RECURSIVE)
    needed = [Path(__file__).resolve().parents[3], Path(sys.prefix), Path(sys.base_prefix)]
    for closed in {top for each in needed if (top := _closed_above(each)) is not None}:
        _show_only([each for each in needed if each.is_relative_to(closed)], closed)
    if command[0] == "--as-root":
        command = command[1:]
    else:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    os.execve(command[0], command, environment)


def _closed_above(path: Path) -> Path | None:
    """The outermost folder above `path` that others may not enter."""
    for each in reversed((path, *path.parents)):
        if not each.stat().st_mode & 0o001:
            return each
    return None


def _show_only(paths: list[Path], closed: Path) -> None:
    held = {path: os.open(path, os.O_PATH) for path in paths}
    kernel.mount("open", str(closed), "tmpfs", 0, "mode=0755")
    for path, descriptor in held.items():
        path.mkdir(parents=True, exist_ok=True)
        kernel.mount(f"/proc/self/fd/{descriptor}", str(path), None, kernel.BIND)
        os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1:])
