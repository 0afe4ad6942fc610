"""The collector against every kind of thing that may lie in a work folder, also while it changes.

Run once more as an ordinary user, and once without the kernel's `openat2`.
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

import pytest

from gridx.worker.sandbox.base import Wanted
from gridx.worker.sandbox.collector import ENTRIES_MAX, FOLDERS_MAX, Why, _collect
from gridx.worker.sandbox.patterns import CHARACTERS_MAX
from tests.worker.sandbox.folders import MB, Folders, at_call


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def in_memory() -> Generator[Folders]:
    """On a file system like a job's own; removed at once, however much lies there."""
    root = Path(mkdtemp(dir="/dev/shm"))
    yield Folders(root)
    subprocess.run(["rm", "-r", "--", root], check=True)  # goes deeper than Python does


# --- what is taken --------------------------------------------------------------------------------


def test_files_by_pattern_in_the_order_of_their_paths(folders: Folders) -> None:
    for path in ("out/b.png", "out/a.png", "out/deep/c.png", "main.py", "out/d.txt"):
        folders.write(path, path.encode())
    kept, left_out = folders.take(folders.wanted("out/**/*.png"))
    assert list(kept) == ["out/a.png", "out/b.png", "out/deep/c.png"]
    assert all(content == path.encode() for path, content in kept.items())
    assert not left_out


def test_the_same_content_is_copied_once(folders: Folders) -> None:
    for path in ("a", "b", "empty", "void"):
        folders.write(path, b"" if len(path) > 1 else b"same")
    collected = _collect(os.open(folders.work, os.O_PATH), folders.wanted(), lambda: None)
    assert len(list(folders.into.iterdir())) == 2
    assert folders.emptied(collected) == {"a": b"same", "b": b"same", "empty": b"", "void": b""}


def test_what_nobody_asked_for_is_neither_taken_nor_told(folders: Folders) -> None:
    folders.write("out/file")
    (folders.work / "link").symlink_to("/etc/passwd")
    os.mkfifo(folders.work / "out" / "fifo")
    (folders.work / "out" / "folder.png").mkdir()
    assert folders.take(folders.wanted("out/*.png")) == ({}, {})
    assert folders.take(Wanted((), folders.into, 100, 100)) == ({}, {})


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o644, 0o777, 0o1644])
def test_any_mode_that_lets_its_owner_read(folders: Folders, mode: int) -> None:
    folders.write("file").chmod(mode)
    assert folders.take() == ({"file": b"mine"}, {})


# --- what is not ----------------------------------------------------------------------------------


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one, Inside(path.parent):
        one.bind(path.name)


class Inside:
    """Stands in a folder for a while: a socket's address is short."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._before = folder, Path.cwd()

    def __enter__(self) -> None:
        os.chdir(self._folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)


def _file(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(b"x")
        path.chmod(mode)

    return make


def _folder(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "file").write_bytes(b"x")
        path.chmod(mode)

    return make


def _link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


def _hard_links(path: Path) -> None:
    path.write_bytes(b"x")
    path.with_name("another.name").hardlink_to(path)


REFUSED: Mapping[str, tuple[Callable[[Path], None], dict[Why, int]]] = {
    "link to a file": (_link("/etc/passwd"), {Why.LINK: 1}),
    "link to a folder": (_link("/etc"), {Why.LINK: 1}),
    "link to itself": (_link("thing"), {Why.LINK: 1}),
    "link to nothing": (_link("nowhere"), {Why.LINK: 1}),
    "link to a file beside it": (_link("../mine"), {Why.LINK: 1}),
    "link to an open file": (_link("/proc/self/fd/0"), {Why.LINK: 1}),
    "link to a root": (_link("/proc/1/root"), {Why.LINK: 1}),
    "hard links": (_hard_links, {Why.HARD_LINK: 2}),
    "FIFO": (os.mkfifo, {Why.SPECIAL: 1}),
    "socket": (_socket, {Why.SPECIAL: 1}),
    "set-uid": (_file(0o4755), {Why.SET_ID: 1}),
    "set-gid": (_file(0o2755), {Why.SET_ID: 1}),
    "unreadable file": (_file(0o000), {Why.UNREADABLE: 1}),
    "file that others may read": (_file(0o044), {Why.UNREADABLE: 1}),
    "closed folder": (_folder(0o000), {Why.UNREADABLE: 1}),
    "folder to list only": (_folder(0o400), {Why.UNREADABLE: 1}),
    "folder to pass only": (_folder(0o100), {Why.UNREADABLE: 1}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_file_is_left_out(folders: Folders, kind: str) -> None:
    make, left_out = REFUSED[kind]
    folders.write("mine")
    folder = folders.work / "out"
    folder.mkdir()
    make(folder / "thing")
    try:
        assert folders.take() == ({"mine": b"mine"}, left_out)
    finally:
        if kind.startswith(("closed", "folder")):
            (folder / "thing").chmod(0o700)


def test_a_work_folder_that_is_closed(folders: Folders) -> None:
    folders.write("file")
    folders.work.chmod(0o000)
    try:
        assert folders.take() == ({}, {Why.UNREADABLE: 1})
    finally:
        folders.work.chmod(0o700)


@pytest.mark.parametrize(
    ("work", "pattern", "why"),
    [
        ("/dev", "null", Why.SPECIAL),
        ("/", "proc/version", Why.OUTSIDE),
        ("/proc", "self/maps", Why.LINK),
        ("/proc", "PID/fd/0", Why.LINK),
        ("/proc", "PID/root/etc/passwd", Why.LINK),
        ("/proc", "PID/cwd/**", Why.LINK),
    ],
)
def test_things_of_the_machine(folders: Folders, work: str, pattern: str, why: Why) -> None:
    folders.work.rmdir()
    folders.work = Path(work)
    pattern = pattern.replace("PID", str(os.getpid()))
    assert folders.take(folders.wanted(pattern)) == ({}, {why: 1})


BOUND = """
import os, sys
from pathlib import Path
from gridx.worker.sandbox.base import Wanted
from gridx.worker.sandbox.collector import _collect
from gridx.worker.sandbox.inside import kernel
work, other, into = sys.argv[1:]
kernel.unshare(kernel.NEWUSER | kernel.NEWNS)
kernel.mount("none", "/", None, kernel.PRIVATE | kernel.RECURSIVE)
kernel.mount(other, work + "/out", None, kernel.BIND)
wanted = Wanted(("**",), Path(into), 100, 100)
print(_collect(os.open(work, os.O_PATH), wanted, lambda: None).told())
"""


def test_a_folder_of_the_same_file_system_that_is_mounted_there(folders: Folders) -> None:
    (folders.work / "out").mkdir()
    other = folders.into.with_name("other")
    other.mkdir()
    (other / "secret").write_bytes(b"secret")
    words = [sys.executable, "-c", BOUND, str(folders.work), str(other), str(folders.into)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert said == "Not kept of its outputs: things outside of the work folder (1).\n"


def test_a_file_under_a_lease_does_not_make_it_wait(folders: Folders) -> None:
    file = folders.write("file")
    with file.open("rb+") as held:
        fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert folders.take() == ({}, {Why.UNREADABLE: 1})


@pytest.mark.parametrize(
    "name",
    ["a\nb", "\r", "\x1b[2J", "\x7f", "\x9b", "\udcff", "\u202egnp.exe", "a\u2028b", "\xa0"],
    ids=ascii,
)
def test_names_that_are_no_text(folders: Folders, name: str) -> None:
    folders.write(f"out/{name}")
    folders.write(f"{name}/file")
    folders.write("out/naïve 名前.txt")
    expected = {"out/naïve 名前.txt": b"mine"}, {Why.NAME: 2}
    assert folders.take() == expected
    assert folders.take(folders.wanted("out/n*")) == (expected[0], {})


# --- bounds ---------------------------------------------------------------------------------------


def test_bounds_count_in_the_order_of_paths(folders: Folders) -> None:
    for name in "abcde":
        folders.write(name, name.encode() * 10)
    assert set(folders.take(folders.wanted(files_max=3))[0]) == set("abc")
    kept, left_out = folders.take(folders.wanted(bytes_max=39))
    assert (set(kept), left_out) == (set("abc"), {Why.BYTES: 2})
    folders.write("b", b"b" * 35)
    kept, left_out = folders.take(folders.wanted(bytes_max=39))
    assert (set(kept), left_out) == ({"a", "c", "d"}, {Why.BYTES: 2})
    assert folders.take(folders.wanted(files_max=0)) == ({}, {Why.COUNT: 5})


def test_more_patterns_than_it_reads(folders: Folders) -> None:
    folders.write("x")
    wanted = folders.wanted("x" * (CHARACTERS_MAX - 1), "x")
    assert folders.take(wanted) == ({"x": b"mine"}, {})
    assert folders.take(replace(wanted, patterns=("xy", *wanted.patterns))) == (
        {},
        {Why.PATTERNS: 1},
    )


def test_a_sparse_file_of_a_terabyte(folders: Folders) -> None:
    os.truncate(folders.write("a"), 1 << 40)
    folders.write("b")
    assert folders.take() == ({"b": b"mine"}, {Why.BYTES: 1})


def test_deep_folders(in_memory: Folders) -> None:
    in_memory.write("/".join("d" * FOLDERS_MAX) + "/file")
    assert len(in_memory.take()[0]) == 1
    handle = os.open(in_memory.work, os.O_RDONLY)
    for _ in range(10_000):
        os.mkdir("e", dir_fd=handle)
        below = os.open("e", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(handle)
    kept, left_out = in_memory.take()
    assert (len(kept), left_out) == (1, {Why.DEEP: 1})
    assert in_memory.take(in_memory.wanted("e/*")) == ({}, {})


def test_long_paths(folders: Folders) -> None:
    folders.write("/".join(["n" * 250] * 4) + "/" + "n" * 20)
    assert len(folders.take()[0]) == 1
    folders.write("/".join(["n" * 250] * 4) + "/" + "m" * 21)
    kept, left_out = folders.take()
    assert (len(kept), left_out) == (1, {Why.LONG: 1})


def test_more_entries_than_it_looks_at(in_memory: Folders) -> None:
    for number in range(ENTRIES_MAX + 1):
        os.close(os.open(in_memory.work / str(number), os.O_CREAT | os.O_WRONLY, 0o600))
    assert in_memory.take(in_memory.wanted("x")) == ({}, {Why.UNSEEN: 1})
    kept, left_out = in_memory.take(in_memory.wanted("*", files_max=10))
    assert len(kept) == 10
    assert left_out == {Why.UNSEEN: 1, Why.COUNT: ENTRIES_MAX - 10}


# --- while it changes -----------------------------------------------------------------------------


def test_a_folder_swapped_for_a_link_after_it_was_listed(folders: Folders) -> None:
    outside = folders.into.with_name("outside")
    outside.mkdir()
    (outside / "x").write_bytes(b"secret")
    folders.write("out/x")

    def swap() -> None:
        (folders.work / "out").rename(folders.work / "gone")
        (folders.work / "out").symlink_to(outside)

    link: tuple[dict[str, bytes], dict[Why, int]] = ({}, {Why.LINK: 1})
    for number, expected in enumerate([link, link, ({"out/x": b"mine"}, {})]):
        assert folders.take(folders.wanted("out/x"), at_call(number, swap)) == expected
        (folders.work / "out").unlink()
        (folders.work / "gone").rename(folders.work / "out")


def test_what_disappears_is_not_told(folders: Folders) -> None:
    file = folders.write("out/x")
    assert folders.take(None, at_call(3, file.unlink)) == ({}, {})
    assert folders.take(None, at_call(1, file.parent.rmdir)) == ({}, {})


@pytest.mark.parametrize(("size", "copied"), [(0, MB), (5 * MB, 3 * MB), (2 * MB, 2 * MB)])
def test_a_file_that_changes_while_it_is_copied(folders: Folders, size: int, copied: int) -> None:
    """Cut after its first piece, or grown: what was copied is what its digest says."""
    file = folders.write("x", b"x" * 3 * MB)
    folders.write("y")
    kept, _ = folders.take(None, at_call(3, lambda: os.truncate(file, size)))
    assert (kept["y"], kept["x"]) == (b"mine", b"x" * copied)


SWAPS = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
one, other = (each.encode() for each in sys.argv[1:])
print("ready", flush=True)
while os.getppid() != 1:
    libc.renameat2(-100, one, -100, other, 2)
"""


@contextmanager
def swapping(one: Path, other: Path) -> Generator[None]:
    """Another process that swaps the two as fast as it can."""
    words = [sys.executable, "-c", SWAPS, str(one), str(other)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("kind", "path", "why"),
    [
        ("folder for a link", "out/x", Why.LINK),
        ("file for a link", "x", Why.LINK),
        ("file for a FIFO", "x", Why.SPECIAL),
        ("file for a hard link", "x", Why.HARD_LINK),
        ("folder for a file", "out/x", None),
    ],
)
def test_races(folders: Folders, kind: str, path: str, why: Why | None) -> None:
    """Two thousand times each: only ever the job's own file, or the reason that it is not.

    And as often as it takes to see both, should the one that swaps them stand still for a while.
    """
    outside = folders.into.with_name("outside")
    outside.mkdir()
    secret = outside / "x"
    secret.write_bytes(b"secret")
    folders.write(path)
    swapped = folders.work / path.partition("/")[0]
    other = outside.with_name("other")
    match kind:
        case "folder for a link":
            other.symlink_to(outside)
        case "file for a link":
            other.symlink_to(secret)
        case "file for a FIFO":
            os.mkfifo(other)
        case "file for a hard link":
            other.hardlink_to(secret)
        case _:
            other.write_bytes(b"secret")
    seen: set[str] = set()
    moved: dict[Why, int] = {Why.OUTSIDE: 1}  # out of the folder, while its handle was made
    refused = {} if why is None else {why: 1}
    with swapping(swapped, other):
        for number in count():
            kept, left_out = folders.take(folders.wanted(path))
            assert kept in ({path: b"mine"}, {})
            assert left_out in ({}, moved, refused) if not kept else not left_out
            seen.add("kept" if kept else "refused")
            if (number >= 2_000 and len(seen) == 2) or number >= 200_000:
                break
    assert seen == {"kept", "refused"}
