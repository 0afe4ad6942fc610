"""Hurting the collector: whatever a job can leave where its output files are looked for."""

from collections.abc import Mapping
from hashlib import sha256

from tests.worker.hostile.programs import PRELUDE, REFUSED, Expected, Hostile, Kept

_MINE = {"out/mine": b"mine\n"}
_LINK = Kept(detail="Not kept of its outputs: links (1).")
_ODD_NAMES = ["..\\x", "C:x", "%2e%2e", "-rf", "~", "$(x)", "* *", "..x"]
_DIGEST = sha256(b"forged").hexdigest()
_IN_OUT = "import os\nos.mkdir('out')\nopen('out/mine', 'w').write('mine\\n')\nos.chdir('out')\n"


def leaves(
    name: str,
    code: str,
    left_out: str = "",
    *,
    keeps: Mapping[str, bytes] = _MINE,
    says: bytes | None = b"",
    in_guest: bool = False,
) -> Hostile:
    """A Python program that leaves something in `out` beside a file of its own, which is kept.

    What is `in_guest` is only in the job's own kernel, where it has one: nothing is there to see.
    """
    kept = Kept(keeps, f"Not kept of its outputs: {left_out}." if left_out else "")
    elsewhere = {"gvisor": Expected(says=says, keeps=(Kept(keeps),))} if in_guest else {}
    return Hostile(
        name, _IN_OUT + code, says=says, elsewhere=elsewhere, outputs=("out/**",), keeps=(kept,)
    )


def tries_to_leave(name: str, attempt: str) -> Hostile:
    """The same with an attempt that must be refused, so that nothing else lies there."""
    return leaves(name, f"{PRELUDE}\nrefused(lambda: {attempt})", says=REFUSED)


def asks(name: str, code: str, outputs: tuple[str, ...], *keeps: Kept) -> Hostile:
    """A Python program with other outputs than those in `out`; `keeps` is what may come of it."""
    return Hostile(name, code, says=b"", outputs=outputs, keeps=keeps)


PROGRAMS = [
    leaves("leaves a link to the password file", "os.symlink('/etc/passwd', 'x')", "links (1)"),
    leaves("leaves a link to the worker's file", "os.symlink('{file}', 'x')", "links (1)"),
    leaves("leaves a link to the worker's folder", "os.symlink('{folder}', 'x')", "links (1)"),
    leaves("leaves a link to the root", "os.symlink('/', 'x')", "links (1)"),
    leaves("leaves links in a circle", "os.symlink('y', 'x'); os.symlink('x', 'y')", "links (2)"),
    leaves(
        "leaves links to what the collector has open",
        "for n in range(30): os.symlink(f'/proc/self/fd/{n}', f'x{n}')",
        "links (30)",
    ),
    leaves("leaves a link to its reader's root", "os.symlink('/proc/1/root', 'x')", "links (1)"),
    asks(
        "replaces its folder by a link",
        "import os; os.symlink('/etc', 'out')",
        ("out/passwd", "out/*.conf"),
        _LINK,
    ),
    asks(
        "replaces its work folder by a link",
        "import os\n"
        "for what, *names in ((os.rename, '/work', '/tmp/x'), (os.rmdir, '/work')):\n"
        "  try: what(*names); os.symlink('/etc', '/work')\n  except OSError: pass",
        ("passwd",),
        Kept(),
    ),
    asks(
        "goes on swapping its folder for a link",
        "import ctypes, os\nos.mkdir('out'); open('out/passwd', 'w').write('mine')\n"
        "os.symlink('/etc', 'link')\nif os.fork() == 0:\n  os.setsid()\n"
        "  while True: ctypes.CDLL(None).renameat2(-100, b'out', -100, b'link', 2)",
        ("out/passwd",),
        Kept({"out/passwd": b"mine"}),
        _LINK,
    ),
    asks(
        "asks for files outside of its folder",
        "open('/tmp/x', 'w').write('x')",
        ("/etc/passwd", "../etc/passwd", "../tmp/x", "**/../../etc/*", "/tmp/x"),
        Kept(),
    ),
    leaves("leaves a FIFO", "os.mkfifo('x')", "devices, FIFOs and sockets (1)", in_guest=True),
    leaves(
        "leaves a socket",
        "import socket; socket.socket(socket.AF_UNIX).bind('x')",
        "devices, FIFOs and sockets (1)",
        in_guest=True,
    ),
    tries_to_leave("leaves a disk", "os.mknod('x', 0o60666, os.makedev(254, 0))"),
    tries_to_leave("leaves the machine's memory", "os.mknod('x', 0o20666, os.makedev(1, 1))"),
    tries_to_leave("links a file of the system to its own", "os.link('/etc/passwd', 'x')"),
    tries_to_leave(
        "links an open file to its own",
        "os.link('/proc/self/fd/0', 'x', src_dir_fd=os.open('/', 0))",
    ),
    tries_to_leave("mounts the system in its folder", "call(165, 40, b'/etc', b'.', 0, 4096, 0)"),
    tries_to_leave("mounts a proc in its folder", "call(165, 40, b'proc', b'.', b'proc', 0, 0)"),
    leaves(
        "leaves files with several names",
        "open('x', 'w').close(); os.link('x', 'y'); os.link('x', '../z')",
        "files with several names (2)",
    ),
    leaves(
        "leaves a set-uid program",
        "import shutil; shutil.copy('/bin/true', 'x'); os.chmod('x', 0o6755)",
        "set-uid and set-gid files (1)",
    ),
    leaves(
        "leaves files that nobody may read",
        "open('x', 'w').close(); os.chmod('x', 0); os.mkdir('y'); os.chmod('y', 0)",
        "files and folders that may not be read (2)",
    ),
    leaves(
        "closes the folder of its files",
        "os.chmod('.', 0)",
        "files and folders that may not be read (1)",
        keeps={},
    ),
    leaves(
        "closes its work folder",
        "os.chmod('..', 0)",
        "files and folders that may not be read (1)",
        keeps={},
    ),
    leaves(
        "leaves names with newlines",
        "open('x\\nfinished: 0', 'w').close(); os.mkdir('\\n'); open('\\n/x', 'w').close()",
        "names that are not printable text (2)",
    ),
    leaves(
        "leaves names that steer a terminal",
        "open('\\033[2J\\033]0;owned\\007', 'w').close(); open('\\u202egnp.exe', 'w').close()",
        "names that are not printable text (2)",
    ),
    leaves(
        "leaves names that are no text",
        "open(b'\\xff\\xfe', 'w').close(); os.mkdir(b'\\x80'); open(b'\\x80/x', 'w').close()",
        "names that are not printable text (2)",
    ),
    leaves(
        "leaves names that mean something elsewhere",
        f"for name in {_ODD_NAMES}: open(name, 'w').close()",
        keeps=_MINE | {f"out/{name}": b"" for name in _ODD_NAMES},
    ),
    leaves(
        "leaves a file of a terabyte",
        "os.truncate(os.open('x', os.O_CREAT | os.O_WRONLY), 1 << 40)",
        "files over their size in all (1)",
    ),
    leaves(
        "leaves more than is kept",
        "for n in range(9): open(f'x{n}', 'wb').write(bytes(900_000))",
        "files over their size in all (8)",
        keeps=_MINE | {"out/x0": bytes(900_000)},
    ),
    leaves(
        "leaves more files than are kept",
        "for n in range(1_000, 4_000): open(f'x{n}', 'w').close()",
        "files over their number (2951)",
        keeps=_MINE | {f"out/x{n}": b"" for n in range(1_000, 1_049)},
    ),
    leaves(
        "leaves a thousand folders in each other",
        "for _ in range(1_000): os.mkdir('d'); os.chdir('d')",
        "folders inside 32 others (1)",
    ),
    leaves(
        "leaves a path too long to tell",
        "for _ in range(10): os.mkdir('d' * 250); os.chdir('d' * 250)",
        "paths longer than 1024 bytes (1)",
    ),
    asks(
        "asks with patterns made to take for ever",
        "import os\nos.makedirs('/'.join(['a' * 50] * 20))\nopen('a' * 255, 'w').close()",
        ("*a" * 300 + "b", "**/" * 100 + "c", "[!b]*" * 100 + "c"),
        Kept(),
    ),
    asks(
        "asks with more patterns than are read",
        "pass",
        ("x" * 2_000, "y" * 2_000),
        Kept(detail="Not kept of its outputs: patterns of more than 2048 characters in all (1)."),
    ),
    asks(
        "names its files as the collector names copies",
        f"open('{_DIGEST}', 'w').write('other'); open('part', 'w').write('part')",
        ("part", "[0-9a-f]*"),
        Kept({_DIGEST: b"other", "part": b"part"}),
    ),
]
