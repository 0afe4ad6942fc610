"""Using up: processes, memory by every road, disk, descriptors, output, time."""

from dataclasses import replace

from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Limits
from tests.worker.hostile.programs import PATIENT, SMALL, Expected, Hostile, limited

_MB = 1 << 20
_DISK = Limits(timeout_s=40.0, memory_mb=200, disk_mb=8)
_BRIEF = Limits(timeout_s=0.5, memory_mb=100, processes=24)

_MEMORY = {
    "heap": "x = []\nwhile True: x.append('x' * 100_000)",
    "one great block": "x = b'x' * (300 << 20)",
    "private mapping": (
        "import mmap\nm = mmap.mmap(-1, 300 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "for n in range(0, 300 << 20, 4096): m[n] = 1"
    ),
    "shared mapping": (
        "import mmap\nm = mmap.mmap(-1, 300 << 20)\nfor n in range(0, 300 << 20, 4096): m[n] = 1"
    ),
    "shared memory file": (
        "import time\nfor n in range(4):\n"
        "  with open(f'/dev/shm/{n}', 'wb') as f: f.write(b'x' * (24 << 20))\n"
        "x = b'x' * (60 << 20)\ntime.sleep(9)"
    ),
    "many children": (
        "import os, time\nfor _ in range(8):\n  if os.fork() == 0:\n"
        "    x = b'x' * (20 << 20); time.sleep(9)\ntime.sleep(9)"
    ),
    "threads' stacks": (
        "import threading, time\n"
        "def f(): x = b'x' * (12 << 20); time.sleep(9)\n"
        "for _ in range(12): threading.Thread(target=f).start()"
    ),
    "recursion of a parser": "x = ['']\nwhile True: x += x",
}
_KERNEL_MEMORY = {
    # Memory that the kernel holds for a job counts only where control groups count it.
    "pipes": (
        "import os\nkeep = []\nwhile True:\n  try: r, w = os.pipe()\n  except OSError: break\n"
        "  os.set_blocking(w, False); keep += [r, w]\n"
        "  try: os.write(w, b'x' * 65536)\n  except BlockingIOError: pass\nprint(len(keep))"
    ),
    "sockets": (
        "import socket\nkeep = []\nwhile True:\n  try: a, b = socket.socketpair()\n"
        "  except OSError: break\n  a.setblocking(False); keep += [a, b]\n"
        "  try:\n    while True: a.send(b'x' * 65536)\n  except BlockingIOError: pass\n"
        "print(len(keep))"
    ),
}
_PROCESSES = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "children that wait": "import os, time\nwhile True:\n  if os.fork() == 0: time.sleep(9)",
    "threads": (
        "import threading, time\nwhile True:\n"
        "  threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    ),
    "children of children": (
        "import os, time\nfor _ in range(1000):\n  if os.fork(): time.sleep(3); os._exit(1)"
    ),
}
_DISK_FILLERS = {
    "one file": "open('x', 'wb').write(b'x' * (20 << 20))",
    "a file in the temporary folder": "open('/tmp/x', 'wb').write(b'x' * (20 << 20))",
    "many files": "for n in range(100_000): open(f'{n}', 'w').close()",
    "many folders": "import os\nfor n in range(100_000): os.mkdir(f'{n}')",
    "deep folders": "import os\nfor _ in range(100_000): os.mkdir('d'); os.chdir('d')",
    "symbolic links": "import os\nfor n in range(100_000): os.symlink('x' * 3000, f'{n}')",
    "pipes with names": "import os\nfor n in range(100_000): os.mkfifo(f'{n}')",
    "files that are deleted but open": (
        "import os, time\nkeep = []\ntry:\n  for n in range(20):\n    f = open('x', 'wb', 0)\n"
        "    os.remove('x'); keep.append(f); f.write(b'x' * (1 << 20))\n    os.fsync(f)\n"
        "    if f.tell() < 1 << 20: raise OSError\nexcept OSError: time.sleep(2); raise"
    ),
}
# A kernel of the job's own tells nobody of what it refused, and its forks share less memory.
_UNCOUNTED_FORKS = Expected(((1, Reason.EXIT_CODE), (None, Reason.OUT_OF_MEMORY)), None)

# A kernel of the job's own keeps them in its memory, within the group's bound.
_PIPES_IN_MEMORY = Expected(((0, None), (None, Reason.TIMEOUT), (None, Reason.OUT_OF_MEMORY)), None)

_OTHERS = [
    limited(
        "memory: memory file",
        "import os\nf = os.memfd_create('x')\nfor _ in range(300): os.write(f, b'x' * (1 << 20))",
        Reason.OUT_OF_MEMORY,
        uncounted=(0, None),
    ),
    Hostile(
        "a fork bomb in the shell",
        "f() { f | f & }; f; wait; sleep 9",
        "bash",
        ends=((None, Reason.TIMEOUT), (254, Reason.EXIT_CODE)),  # a shell may give up to fork
        says=None,
        limits=_BRIEF,
    ),
    limited("spins", "while True: pass", Reason.TIMEOUT, limits=_BRIEF),
    limited("sleeps", "sleep 99", Reason.TIMEOUT, language="bash", limits=_BRIEF),
    limited(
        "spins in every thread",
        "import threading\ndef f():\n  while True: pass\n"
        "for _ in range(8): threading.Thread(target=f).start()",
        Reason.TIMEOUT,
        limits=_BRIEF,
    ),
    limited("floods stdout", "yes", Reason.OUTPUT_LIMIT, language="bash"),
    limited("floods stderr", "yes >&2", Reason.OUTPUT_LIMIT, language="bash"),
    limited(
        "floods both from many processes",
        "for _ in 1 2 3 4 5; do yes & yes >&2 & done; wait",
        Reason.OUTPUT_LIMIT,
        language="bash",
    ),
    limited("a line without an end", "while True: print('x', end='')", Reason.OUTPUT_LIMIT),
    limited(
        "floods through its descriptor's file",
        "while True: open('/proc/self/fd/1', 'w').write('x' * 1000)",
        Reason.OUTPUT_LIMIT,
    ),
    Hostile(
        "a sparse file of a terabyte",
        "f = open('x', 'wb'); f.truncate(1 << 40); f.seek(1 << 39); f.write(b'x')\nprint('held')",
        says=b"held\n",
    ),
    Hostile(
        "every descriptor there is",
        "keep = []\ntry:\n  while True: keep.append(open('/dev/null'))\n"
        "except OSError: n = len(keep); keep.clear(); print('held' if n < 5000 else n)",
        says=b"held\n",
    ),
    Hostile(
        "a name that is too long",
        "try: open('x' * 300, 'w')\nexcept OSError: print('held')",
        says=b"held\n",
    ),
    Hostile(
        "locks its memory",
        "import ctypes\nb = ctypes.create_string_buffer(8 << 20)\n"
        "print('held' if ctypes.CDLL(None).mlock(b, 8 << 20) else 'HARM')",
        says=b"held\n",
    ),
    Hostile(
        "signals without end",
        "import os, signal\nsignal.signal(10, lambda *_: None)\n"
        "for _ in range(20_000): os.kill(os.getpid(), 10)\nprint('held')",
        says=b"held\n",
        limits=PATIENT,
    ),
    Hostile(
        "a core dump",
        "import os, resource\nprint(resource.getrlimit(resource.RLIMIT_CORE), flush=True)\nos.abort()",
        ends=((134, Reason.EXIT_CODE),),
        says=b"(0, 0)\n",
    ),
    Hostile(
        "message queues, semaphores and shared memory of the kernel",
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "ids = [libc.shmget(0, 1 << 20, 0o1600) for _ in range(50)]\n"
        "ids += [libc.semget(0, 8, 0o1600), libc.msgget(0, 0o1600)]\nprint('left in its own world')",
        says=b"left in its own world\n",
    ),
]

PROGRAMS = [
    *(limited(f"memory: {n}", code, Reason.OUT_OF_MEMORY) for n, code in _MEMORY.items()),
    *(
        Hostile(
            f"memory of the kernel: {name}",
            code,
            ends=((0, None), (None, Reason.OUT_OF_MEMORY)),
            says=None,
        )
        for name, code in _KERNEL_MEMORY.items()
    ),
    *(
        limited(
            f"processes: {name}",
            code,
            Reason.PROCESS_LIMIT,
            exit_code=1,
            uncounted=(1, Reason.EXIT_CODE),
            elsewhere={"gvisor": _UNCOUNTED_FORKS},
        )
        for name, code in _PROCESSES.items()
    ),
    *(
        limited(
            f"disk: {name}",
            code,
            Reason.DISK_LIMIT,
            exit_code=1,
            limits=replace(_DISK, timeout_s=10.0) if name == "pipes with names" else _DISK,
            elsewhere={"gvisor": _PIPES_IN_MEMORY} if name == "pipes with names" else None,
        )
        for name, code in _DISK_FILLERS.items()
    ),
    *_OTHERS,
]
assert SMALL.memory_mb * _MB < 300 << 20
