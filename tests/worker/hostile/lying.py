"""Lying: about how it ended, about what it wrote, about who speaks."""

from gridx.domain.attempt import Reason
from tests.worker.hostile.programs import OTHER_ERROR, PATIENT, Hostile

_RECORD = "\\x01\\x00\\x00\\x00" * 9

PROGRAMS = [
    Hostile(
        "exits above 255", "import sys; sys.exit(256 + 7)", ends=((7, Reason.EXIT_CODE),), says=b""
    ),
    Hostile(
        "exits as if a signal had ended it", "exit 137", "bash", ((137, Reason.EXIT_CODE),), b""
    ),
    Hostile("exits as if out of time", "exit 124", "bash", ((124, Reason.EXIT_CODE),), b""),
    Hostile(
        "kills itself as the grid would", "kill -9 $$", "bash", ((137, Reason.EXIT_CODE),), b""
    ),
    Hostile(
        "says that it ran out of memory",
        "import sys; print('Killed', file=sys.stderr); raise MemoryError",
        ends=((1, Reason.EXIT_CODE),),
        says=b"",
    ),
    Hostile(
        "says that its disk is full",
        "import errno; raise OSError(errno.ENOSPC, 'No space left on device')",
        ends=((1, Reason.EXIT_CODE),),
        says=b"",
    ),
    Hostile(
        "writes what its supervisor would",
        "import os\nfor n in range(3, 64):\n"
        f"  try: os.write(n, b'ready'); os.write(n, b'{_RECORD}')\n  except OSError: pass\n"
        "print('unheard'); os._exit(9)".replace("print('unheard')", "os.write(1, b'unheard')"),
        ends=((9, Reason.EXIT_CODE),),
        says=b"unheard",
    ),
    Hostile(
        "writes a result of its own",
        "for name in ('result', 'exit_code', 'outcome.json'): open(name, 'w').write('0')\n"
        "raise SystemExit(5)",
        ends=((5, Reason.EXIT_CODE),),
        says=b"",
    ),
    Hostile(
        "rewrites its own program",
        "open(__file__, 'w').write('print(2)')\nprint(1)",
        says=b"1\n",
    ),
    Hostile("writes no text", "printf '\\xff\\xfe\\xc0\\x80'", "bash", says=b"\xff\xfe\xc0\x80"),
    Hostile(
        "writes to the reader's terminal",
        "printf '\\033]0;owned\\007\\033[2J\\033[6n'",
        "bash",
        says=b"\x1b]0;owned\x07\x1b[2J\x1b[6n",
    ),
    Hostile("writes nulls", "printf 'a\\0b'", "bash", says=b"a\0b"),
    Hostile("closes stdout and goes on", "exec >&-; exit 4", "bash", ((4, Reason.EXIT_CODE),), b""),
    Hostile(
        "makes its output block nobody",
        "import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK)\nsent = 0\n"
        "while sent < 90_000:\n  try: sent += os.write(1, b'x' * 1000)\n"
        "  except BlockingIOError: pass",
        says=b"x" * 90_000,
    ),
    Hostile(
        "makes its pipe small",
        "import fcntl, os\nfcntl.fcntl(1, 1031, 4096)\nfor _ in range(50): os.write(1, b'x' * 1000)",
        says=b"x" * 50_000,
        elsewhere=OTHER_ERROR,
    ),
    Hostile(
        "reads what it wrote itself",
        "import os\nos.write(1, b'mine')\ntry: os.read(1, 10)\nexcept OSError: pass",
        says=b"mine",
    ),
    Hostile(
        "changes its own input",
        "import os\ntry: os.pwrite(os.open('/proc/self/fd/0', os.O_RDWR), b'x', 0)\n"
        "except OSError: print('refused')",
    ),
    Hostile(
        "a million tiny writes",
        "import os\nfor _ in range(50_000): os.write(1, b'x')",
        says=b"x" * 50_000,
        limits=PATIENT,
    ),
    Hostile(
        "sets its clock ahead",
        "import ctypes, time\nbefore = time.time()\n"
        "ctypes.CDLL(None).settimeofday((ctypes.c_long * 2)(0, 0), None)\n"
        "print('refused' if abs(time.time() - before) < 60 else 'HARM')",
    ),
    Hostile(
        "names itself the worker",
        "exec -a gridx bash -c 'exit 6'",
        "bash",
        ((6, Reason.EXIT_CODE),),
        b"",
    ),
]
