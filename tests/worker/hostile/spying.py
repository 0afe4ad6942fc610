"""Spying: on the machine, the worker, its owner's files, and the jobs beside it.

`{port}`, `{socket}`, `{file}`, `{folder}`, `{pid}` and the halves of `{secret}` stand for real things
of this machine: a service, a listening socket, a file of the worker's, a process, a variable.
"""

from tests.worker.hostile.programs import (
    GUEST_ONLY,
    PRELUDE,
    Expected,
    Hostile,
    shell,
    tries,
)

_ATTEMPTS = {
    "reads the password file's shadow": "read('/etc/shadow')",
    "lists the owner's home": "os.listdir('/home') or os.listdir('/nowhere')",
    "lists what programs keep": "os.listdir('/var')",
    "lists what services run": "os.listdir('/run')",
    "lists the hardware": "os.listdir('/sys')",
    "reads a file of the worker's": "read('{file}')",
    "reads the worker's folder": "os.listdir('{folder}')",
    "calls a service of the machine": "socket.create_connection(('127.0.0.1', {port}), 2)",
    "calls a service over the newer protocol": "socket.create_connection(('::1', {port}), 2)",
    "calls out": "socket.create_connection(('192.0.2.1', 80), 2)",
    "asks for a name": "socket.getaddrinfo('example.org', 80)",
    "sends a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
    "calls an abstract socket of the machine": (
        "socket.socket(socket.AF_UNIX).connect('\\0{socket}')"
    ),
    "looks at a process of the machine": "os.kill({pid}, 0)",
    "looks into a process of the machine": "read('/proc/{pid}/environ')",
    "asks the container engine": "socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
    "asks the system's bus": "socket.socket(socket.AF_UNIX).connect('/run/dbus/system_bus_socket')",
}

_OTHERS = [
    Hostile(
        "lists the processes",
        "import os\npids = sorted(int(n) for n in os.listdir('/proc') if n.isdigit())\n"
        "print('refused' if pids == [1, 2] else pids)",
        elsewhere={"gvisor": Expected(says=b"[1]\n")},
    ),
    Hostile(
        "lists the users",
        "import pwd\nnames = {p.pw_name for p in pwd.getpwall()}\n"
        "print('refused' if names == {'job', 'nobody'} else names)",
    ),
    Hostile(
        "lists the network's devices",
        "lines = open('/proc/net/dev').read().split('\\n')[2:-1]\n"
        "print('refused' if [l.split(':')[0].strip() for l in lines] == ['lo'] else lines)",
    ),
    Hostile(
        "lists the sockets",
        "text = ''.join(open(f'/proc/net/{n}').read() for n in ('unix', 'tcp', 'udp'))\n"
        "print('refused' if len(text.splitlines()) == 3 else text)",
    ),
    Hostile(
        "reads the environment of its world",
        "import os\nown = {'HOME', 'LANG', 'PATH', 'TMPDIR', 'USER'}\n"
        "print('refused' if set(os.environ) == own else 'HARM')",
    ),
    Hostile(
        "searches its own memory for a secret",
        "first, second = b'{secret_start}', b'{secret_end}'\nfound = 0\n"
        "memory = open('/proc/self/mem', 'rb', buffering=0)\n"
        "for line in open('/proc/self/maps'):\n"
        "  start, end = (int(n, 16) for n in line.split()[0].split('-'))\n"
        "  if 'r' not in line.split()[1] or '[v' in line: continue\n"
        "  memory.seek(start)\n  try: held = memory.read(end - start)\n"
        "  except OSError: continue\n"
        "  at = held.find(first)\n"
        "  while at >= 0:\n"
        "    found += held[at + len(first):at + len(first) + len(second)] == second\n"
        "    at = held.find(first, at + 1)\n"
        "print('HARM' if found else 'refused')",
    ),
    Hostile(
        "reads the control group's path",
        "lines = open('/proc/self/cgroup').read().split('\\n')[:-1]\n"
        "print('refused' if all(l.endswith(':/') for l in lines) else lines)",
    ),
    Hostile(
        "reads the mounts' sources",
        "text = open('/proc/self/mountinfo').read()\n"
        "print('refused' if '{folder}' not in text and '/home' not in text else text)",
    ),
    Hostile(
        "reads the host's name",
        "import socket\nprint('refused' if socket.gethostname() == 'job' else 'HARM')",
    ),
    Hostile(
        "reads how long the machine runs",
        "up = float(open('/proc/uptime').read().split()[0])\nprint('refused' if up < 300 else up)",
    ),
    Hostile(
        "finds the template's code among its modules",
        "import sys\nprint('refused' if not [n for n in sys.modules if 'gridx' in n] else 'HARM')",
    ),
    Hostile(
        "finds an earlier job's program in its memory",
        "import gc\nmark = 'an earlier ' + 'program was here'\n"
        "here = [o for o in gc.get_objects() if isinstance(o, dict) and mark in map(str, o)]\n"
        "print('refused' if not here else 'HARM')",
    ),
    shell(
        "finds the owner's programs on its path",
        'echo $PATH | tr : "\\n" | grep -E "^/(home|work/|opt/venv)|\\.venv" || echo refused',
    ),
    shell(
        "finds its sandbox's tools", "ls /usr/local/sbin/gridx* /gridx* 2>/dev/null; echo refused"
    ),
]

MEETINGS = [
    Hostile(
        "meets its neighbour in the temporary folders",
        "import os, time\nseen = []\nopen('/tmp/here', 'w'); open('/dev/shm/here', 'w')\n"
        "print('refused' if os.listdir('/tmp') == os.listdir('/dev/shm') == ['here'] else 'HARM')",
    ),
    Hostile(
        "meets its neighbour at an abstract socket",
        "import socket, time\ns = socket.socket(socket.AF_UNIX); s.bind('\\0meeting'); s.listen()\n"
        "time.sleep(0.3); s.setblocking(False)\n"
        "try: s.accept(); print('HARM')\nexcept BlockingIOError: print('refused')",
    ),
    Hostile(
        "meets its neighbour at a port",
        "import socket\ns = socket.create_server(('127.0.0.1', 40001)); s.settimeout(0.3)\n"
        "try: s.accept(); print('HARM')\nexcept TimeoutError: print('refused')",
    ),
    Hostile(
        "meets its neighbour in the kernel's shared memory",
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "print('refused' if libc.shmget(4242, 4096, 0o3666) >= 0 else 'HARM')",
    ),
    Hostile(
        "meets its neighbour in a message queue",
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "print('refused' if libc.msgget(4242, 0o3666) >= 0 else 'HARM')",
    ),
    Hostile(
        "sees its neighbour's user",
        f"{PRELUDE}\nlines = [l for l in open('/proc/self/status') if l.startswith('Uid')]\n"
        "print('refused' if len(set(lines[0].split()[1:])) == 1 else lines)",
    ),
]
"""What each tries needs another of its kind beside it."""

_HARDWARE = "lists the hardware"  # a made-up one, where the job has a kernel of its own

PROGRAMS = [
    *(
        tries(name, attempt, GUEST_ONLY if name == _HARDWARE else None)
        for name, attempt in _ATTEMPTS.items()
    ),
    *_OTHERS,
    *MEETINGS,
]
