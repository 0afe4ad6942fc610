"""Staying: outliving the attempt, or ending in a way that is hard to end."""

from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Limits
from tests.worker.hostile.programs import Expected, Hostile

_BRIEF = Limits(timeout_s=0.5)
_DONE = b"done\n"
_TIMED_OUT = ((None, Reason.TIMEOUT),)

PROGRAMS = [
    Hostile("leaves a background process", "sleep 999 & echo done", "bash", says=_DONE),
    Hostile("leaves a daemon", "setsid sleep 999 >/dev/null 2>&1 & echo done", "bash", says=_DONE),
    Hostile(
        "forks twice and leaves",
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
        "    os.closerange(0, 99); time.sleep(999)\n  os._exit(0)\nos.wait(); print('done')",
        says=_DONE,
    ),
    Hostile(
        "leaves a child that ignores every signal",
        "import os, signal, time\nif os.fork() == 0:\n"
        "  for n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\n"
        "  time.sleep(999)\nprint('done')",
        says=_DONE,
    ),
    Hostile(
        "leaves a stopped child",
        "import os, signal\nif os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)\nprint('done')",
        says=_DONE,
    ),
    Hostile("leaves a child that holds its output", "sleep 999 & exit 0", "bash", says=b""),
    Hostile(
        "replaces itself for ever",
        "import os, sys\nif os.fork() == 0:\n  while True:\n    if os.fork(): os._exit(0)\nprint('done')",
        says=_DONE,
    ),
    Hostile(
        "leaves a mapping of a deleted file",
        "import mmap, os\nf = open('x', 'w+b'); f.truncate(1 << 20); m = mmap.mmap(f.fileno(), 0)\n"
        "os.remove('x'); print('done')",
        says=_DONE,
    ),
    Hostile(
        "leaves files nobody can delete",
        "mkdir d; touch d/f; chmod 0 d; echo done",
        "bash",
        says=_DONE,
    ),
    Hostile(
        "leaves itself in the temporary folders",
        "cp /proc/self/exe /tmp/x; cp /proc/self/exe /dev/shm/x; echo done",
        "bash",
        says=_DONE,
    ),
    Hostile(
        "asks to be run again later",
        "(crontab - || at now) </dev/null >/dev/null 2>&1; echo done",
        "bash",
        says=_DONE,
    ),
    Hostile(
        "closes its outputs and waits", "exec >&- 2>&-; sleep 99", "bash", _TIMED_OUT, b"", _BRIEF
    ),
    Hostile(
        "waits for its children, who wait",
        "for _ in 1 2 3; do (trap '' HUP INT; sleep 99) & done; wait",
        "bash",
        _TIMED_OUT,
        b"",
        _BRIEF,
    ),
    Hostile(
        "answers TERM with more children",
        "import os, signal, time\nsignal.signal(15, lambda *_: os.fork())\n"
        "signal.setitimer(signal.ITIMER_REAL, 4)\nwhile True: time.sleep(0.01)",
        ends=_TIMED_OUT,
        says=b"",
        limits=_BRIEF,
    ),
    Hostile("stops itself", "kill -STOP $$; echo HARM", "bash", _TIMED_OUT, None, _BRIEF),
    Hostile(
        "stops process 1",
        "kill -STOP 1; echo done",
        "bash",
        says=_DONE,
        limits=Limits(timeout_s=3.0),
        elsewhere={"gvisor": Expected(_TIMED_OUT, None)},  # that is itself
    ),
    Hostile(
        "steals the signal of its reaper",
        "import os\nos.kill(1, 17); os.kill(1, 15)\nprint('HARM')",
        ends=((143, Reason.EXIT_CODE), (0, None)),
        says=None,
    ),
]
