"""A Python job sees no difference between an interpreter that waited and one that was started.

Each program runs both ways; what it writes and how it ends must be the same, byte for byte.
"""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from gridx.worker.sandbox.base import Limits, Program
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from tests.worker.sandbox.runs import run

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAME = {
    "nothing": "",
    "print": "print(1, 'ü', '\\udcff'.isprintable())",
    "argv": "import sys; print(sys.argv, len(sys.argv))",
    "orig argv": "import sys; print(sys.orig_argv[1:], sys.executable)",
    "main": "print(__name__, __file__, __doc__, __package__, __spec__, __cached__)",
    "main module": "import __main__, sys; print(__main__ is sys.modules['__main__'], dir())",
    "loader": "print(type(__loader__).__name__, __loader__.name, __loader__.path)",
    "builtins": "print(type(__builtins__), exit, quit.__class__, sorted(dir(__builtins__)))",
    "annotations": "x: int = 1\nprint(__annotations__)",
    "path": "import sys; print(sys.path, sys.prefix, sys.base_prefix, sys.flags)",
    "modules": "import sys; print(sorted(sys.modules))",
    "meta path": "import sys; print(sys.meta_path[1:], sys.path_hooks[0])",
    "environ": "import os; print(sorted(os.environ.items())); print(os.environb == os.environb)",
    "putenv": "import os, subprocess as s; os.environ['A'] = 'b'; s.run(['printenv', 'A', 'K'])",
    "cwd": "import os; print(os.getcwd(), os.listdir())",
    "ids": "import os; print(os.getuid() == os.getgid(), os.getgroups(), os.getppid(), os.umask(0))",
    "session": "import os; print(os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid())",
    "descriptors": "import os; print(sorted(os.listdir('/proc/self/fd'))[:3])",
    "status": "print([l for l in open('/proc/self/status') if l[:3] in ('Cap', 'NoN', 'Sec')])",
    "limits": "print(open('/proc/self/limits').read().split('Max nice')[0].split('pending')[0])",
    "signals": "import signal as s; print([(n, s.getsignal(n)) for n in range(1, 32)])",
    "signal mask": "import signal; print(signal.pthread_sigmask(0, []))",
    "stdin": "import sys; print(repr(sys.stdin.read()), sys.stdin.isatty(), sys.stdin.name)",
    "input": "print(input('? ')); print(input())\ntry: input()\nexcept EOFError as e: print(e)",
    "stdin lines": "import sys\nfor line in sys.stdin: print(repr(line))",
    "streams": (
        "import sys\nfor s in (sys.stdin, sys.stdout, sys.stderr): print(s, s.encoding, s.errors,"
        " s.line_buffering, s.write_through, s.newlines, s.mode, s.buffer, s.buffer.raw,"
        " s.seekable(), s.fileno(), s.closed, s is getattr(sys, f'__{s.name[1:-1]}__'))"
    ),
    "stderr": "import sys; print('to err', file=sys.stderr); sys.stderr.write('more \\udcff')",
    "binary": "import sys; sys.stdout.buffer.write(bytes(range(256)))",
    "order": "import os, sys; print('late'); os.write(1, b'early\\n'); sys.stdout.flush()",
    "exit": "import sys; sys.exit(3)",
    "exit none": "import sys; sys.exit()",
    "exit text": "import sys; sys.exit('why')",
    "exit object": "raise SystemExit(['a', 1])",
    "exit negative": "import sys; sys.exit(-3)",
    "exit true": "import sys; sys.exit(True)",
    "os exit": "import os; print('lost'); os._exit(5)",
    "exit in a thread": "import threading, sys; threading.Thread(target=sys.exit, args=(4,)).start()",
    "traceback": "def f(n):\n    return 1 / n\n\nprint('before')\nf(0)",
    "chained": "try:\n    1/0\nexcept Exception as e:\n    raise ValueError('x') from e",
    "group": "raise ExceptionGroup('g', [ValueError('a'), KeyError('b')])",
    "notes": "e = ValueError('x')\ne.add_note('a note')\nraise e",
    "recursion": "def f(): f()\ntry: f()\nexcept RecursionError as e: print(e)",
    "syntax": "print('never')\ndef f(:\n    pass",
    "indentation": "def f():\n  a\n b",
    "null": "x = 1\n\0",
    "cookie": "# -*- coding: latin-1 -*-\nprint('x', __file__)",
    "bad cookie": "# -*- coding: nonsense -*-\nprint(1)",
    "byte order mark": "\ufeffprint('marked')",
    "warning": "import warnings; warnings.warn('careful'); warnings.warn('x', DeprecationWarning)",
    "syntax warning": "x = 1 is 1\nprint(x)",
    "future": "from __future__ import annotations\nx: undefined = 1\nprint(x)",
    "atexit": "import atexit; atexit.register(print, 'last'); atexit.register(print, 'first')",
    "atexit fails": (
        "import atexit\nclass F:\n  def __call__(self): 1/0\n  def __repr__(self): return 'F'\n"
        "atexit.register(F())\nprint('x')"
    ),
    "atexit and error": "import atexit; atexit.register(print, 'last'); 1/0",
    "finalizer": "class A:\n  def __del__(self): print('gone')\na = A()\nprint('end')",
    "finalizer order": (
        "class A:\n  def __init__(s, n): s.n = n\n  def __del__(s): print('gone', s.n)\n"
        "_x = A(1); y = A(2); z = A(3); print('end')"
    ),
    "cycle": "class A:\n  def __del__(self): print('gone')\na = A(); a.a = a; del a; print('end')",
    "thread": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()\nprint('main')"
    ),
    "daemon thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print(threading.current_thread().name, threading.main_thread().name)"
    ),
    "pool": (
        "from concurrent.futures import ThreadPoolExecutor as P\n"
        "with P(2) as p: print(list(p.map(abs, [-1, -2])))"
    ),
    "processes": (
        "from multiprocessing import Pool\nif __name__ == '__main__':\n"
        "  with Pool(2) as p: print(p.map(abs, [-1, -2]))"
    ),
    "spawned": (
        "import multiprocessing as m\ndef f(q): q.put(__name__)\n"
        "if __name__ == '__main__':\n  c = m.get_context('spawn'); q = c.Queue()\n"
        "  p = c.Process(target=f, args=(q,)); p.start(); print(q.get()); p.join()"
    ),
    "asyncio": "import asyncio\nasync def f(): await asyncio.sleep(0); print('x')\nasyncio.run(f())",
    "subprocess": "import subprocess as s; print(s.run(['sh', '-c', 'exit 3']).returncode)",
    "broken pipe": "import subprocess as s; print(s.run('yes | head -1', shell=True).returncode)",
    "interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT)\nprint('x')",
    "terminated": "import os, signal; print('lost'); os.kill(os.getpid(), signal.SIGTERM)",
    "aborted": "import os; os.abort()",
    "excepthook": "import sys\nsys.excepthook = lambda t, v, b: print('hook', t, v)\n1/0",
    "excepthook fails": "import sys\nsys.excepthook = lambda *a: 1/0\nraise ValueError('x')",
    "stdout closed": "import sys; sys.stdout.close()",
    "stdout gone": "import os; os.close(1); print('x')",
    "stdout none": "import sys; sys.stdout = None; print('x')",
    "displayhook": "import sys; print(sys.displayhook, sys.excepthook, sys.warnoptions)",
    "inspect": "import inspect\ndef f(): pass\nprint(inspect.getsource(f), inspect.getfile(f))",
    "pickle": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))))",
    "dataclass": "from dataclasses import dataclass\n@dataclass\nclass A: x: int\nprint(A(1))",
    "import again": "import json, re, socket, ctypes, signal; print(json.loads('[1]'), re.escape('.'))",
    "shadowed": "open('socket.py', 'w').write('x = 1'); import socket; print(vars(socket)['x'])",
    "sockets": "import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))",
    "ctypes": "import ctypes; print(ctypes.CDLL(None).getpid() > 0)",
    "sqlite": "import sqlite3; print(sqlite3.connect('x.db').execute('select 1').fetchone())",
    "temporary": "import tempfile; print(tempfile.gettempdir())",
    "home": "import pathlib; print(pathlib.Path.home(), pathlib.Path('~').expanduser())",
    "locale": "import locale; print(locale.getlocale(), locale.getencoding())",
    "user": "import getpass, pwd, os; print(getpass.getuser(), pwd.getpwuid(os.getuid()).pw_dir)",
    "gc": "import gc; print(gc.isenabled(), gc.get_threshold())",
    "trace": "import sys; print(sys.gettrace(), sys.getprofile(), sys.getrecursionlimit())",
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cold() -> AsyncGenerator[Bubblewrap]:
    backend = Bubblewrap(template=False)
    await backend.open()
    yield backend
    await backend.close()


@pytest.mark.parametrize("name", SAME)
async def test_as_after_a_cold_start(sandbox: Bubblewrap, cold: Bubblewrap, name: str) -> None:
    program = Program("python", SAME[name], ("a", "b c"), {"K": "v"}, "one\ntwo\n")
    limits = Limits(timeout_s=10.0)
    warm_ran, cold_ran = await run(sandbox, program, limits), await run(cold, program, limits)
    assert warm_ran.stdout == cold_ran.stdout
    assert warm_ran.stderr == cold_ran.stderr
    assert warm_ran.end == cold_ran.end
