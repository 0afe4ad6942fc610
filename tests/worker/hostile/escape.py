"""Ways out: of the namespaces, of the root folder, of the user, of the system call filter."""

from collections.abc import Mapping

from gridx.domain.attempt import Reason
from tests.worker.hostile.programs import (
    GUEST_ONLY,
    OTHER_ERROR,
    PRELUDE,
    Expected,
    Hostile,
    shell,
    tries,
)

_CALLS = {
    "enters a new user namespace": "call(272, 97, 0x10000000)",
    "enters a new mount namespace": "call(272, 97, 0x20000)",
    "enters the mount namespace of process 1": (
        "call(308, 268, os.open('/proc/1/ns/mnt', os.O_RDONLY), 0)"
    ),
    "mounts a tmpfs": "call(165, 40, b'x', b'/tmp', b'tmpfs', 0, 0)",
    "mounts the host's proc": "call(165, 40, b'proc', b'/tmp', b'proc', 0, 0)",
    "unmounts what hides": "call(166, 39, b'/proc/sys', 2)",
    "pivots to another root": "call(155, 41, b'/work', b'/work')",
    "changes its root": "call(161, 51, b'/work')",
    "opens a mount as a tree": "call(428, 428, -100, b'/', 1)",
    "opens a file system": "call(430, 430, b'tmpfs', 0)",
    "changes a mount's attributes": "call(442, 442, -100, b'/', 0, 0, 32)",
    "traces process 1": "call(101, 117, 16, 1, 0, 0)",
    "reads another process's memory": "call(310, 270, 1, 0, 0, 0, 0, 0)",
    "writes another process's memory": "call(311, 271, 1, 0, 0, 0, 0, 0)",
    "takes a descriptor of another process": "call(438, 438, 0, 0, 0)",
    "loads a BPF program": "call(321, 280, 5, 0, 0)",
    "watches performance events": "call(298, 241, 0, 0, -1, -1, 0)",
    "handles page faults": "call(323, 282, 0)",
    "sets up an io_uring": "call(425, 425, 1, 0)",
    "adds a kernel key": "call(248, 217, b'user', b'x', b'y', 1, -3)",
    "asks for a kernel key": "call(249, 218, b'user', b'x', 0, 0)",
    "reads the session's keyring": "call(250, 219, 11, -3, 0, 0)",
    "opens a file by handle": "call(304, 265, -100, 0, 0)",
    "makes a handle of a file": "call(303, 264, -100, b'/', 0, 0, 0)",
    "loads a kernel module": "call(313, 273, 0, b'', 0)",
    "loads another kernel": "call(320, 294, 0, 0, 0, b'', 0)",
    "reboots": "call(169, 142, 0xfee1dead, 672274793, 0x1234567, 0)",
    "sets the clock": "call(227, 112, 0, 0)",
    "adjusts the clock": "call(159, 171, 0)",
    "names the host": "call(170, 161, b'x', 1)",
    "reads the kernel's log": "call(103, 116, 3, 0, 0)",
    "swaps to a file": "call(167, 224, b'/work/main.py', 0)",
    "accounts processes": "call(163, 89, b'/work/main.py')",
    "gets at the ports": "call(172, None, 3)",
    "changes its descriptor table": "call(154, None, 0, 0, 0)",
    "hides memory from the kernel": "call(447, 447, 0)",
    "watches the whole file system": "call(300, 262, 0, 0)",
    "places its memory": "call(238, 237, 0, 0, 0)",
    "clones into a user namespace": "call(56, 220, 0x10000011, 0, 0, 0, 0)",
    "clones by the newer call": "call(435, 435, 0, 0)",
    "takes an odd personality": "call(135, 92, 0x0040000)",
    "calls by the x32 table": "call(0x40000000 + 39, None)",
    "puts input into a terminal": "call(16, 29, 0, 0x5412, b'x')",
    "opens a packet socket": "call(41, 198, 17, 3, 0)",
    "opens a netlink socket": "call(41, 198, 16, 3, 0)",
    "opens a socket to the hypervisor": "call(41, 198, 40, 1, 0)",
    "opens a raw socket": "call(41, 198, 2, 3, 1)",
    "loads a protocol's module": "call(41, 198, 2, 1, 132)",
    "opens a crypto socket": "call(41, 198, 38, 5, 0)",
}

_FILES = {
    "writes into the system": "write('/usr/bin/env')",
    "makes a file in the root": "open('/x', 'w')",
    "makes a file in the system": "open('/usr/x', 'w')",
    "makes a file in a device folder": "open('/dev/x', 'w')",
    "makes a device": "os.mknod('/work/disk', 0o60666, os.makedev(8, 0))",
    "opens the disk": "read('/dev/sda') or read('/dev/vda')",
    "opens the machine's memory": "read('/dev/mem')",
    "opens the kernel's memory": "seen('/proc/kcore')",
    "reads the kernel's addresses": "seen('/proc/kallsyms')",
    "reads the machine's command line": "seen('/proc/cmdline')",
    "reads the kernel's keys": "seen('/proc/keys')",
    "reads the kernel's log file": "seen('/proc/kmsg')",
    "reads the kernel's timers": "seen('/proc/timer_list')",
    "opens a control group's release agent": "write('/sys/fs/cgroup/release_agent')",
    "sets the core pattern": "write('/proc/sys/kernel/core_pattern', b'|/work/x')",
    "sets a kernel helper": "write('/proc/sys/kernel/modprobe', b'/work/x')",
    "writes a sysctl of its own network": "write('/proc/sys/net/ipv4/ip_forward')",
    "writes its own uid map": "write('/proc/self/uid_map', b'0 0 1')",
    "lowers its own score with the killer": "write('/proc/self/oom_score_adj', b'-1000')",
    "opens process 1's root": "os.listdir('/proc/1/root/')",
    "opens process 1's folder": "os.listdir('/proc/1/cwd/')",
    "opens process 1's descriptors": "os.listdir('/proc/1/fd')",
    "reads process 1's memory file": "read('/proc/1/mem')",
    "reads process 1's environment": "read('/proc/1/environ')",
    "becomes root": "os.setuid(0)",
    "becomes root's group": "os.setgid(0)",
    "joins a group": "os.setgroups([0])",
    "gives a file away": "os.chown('/work/main.py', 0, 0)",
    "raises its priority": "os.nice(-5)",
    "raises its limit of open files": (
        "call(302, 261, 0, 7, (ctypes.c_ulong * 2)(1 << 20, 1 << 20), 0)"
    ),
    "binds a port below 1024": "socket.socket().bind(('127.0.0.1', 80)) and 0",
    "configures its network": (
        "__import__('fcntl').ioctl(socket.socket(), 0x8914, b'lo'.ljust(16, b'\\0') + bytes(24))"
    ),
}

# On a kernel of its own a job is process 1, may make namespaces and ports of that kernel, and finds
# made-up texts where the machine's kernel would tell of itself.
_GUEST_ONLY = {
    "enters a new user namespace",
    "enters a new mount namespace",
    "clones into a user namespace",
    "places its memory",
    "reads the kernel's log",
    "opens a netlink socket",
    "reads the machine's command line",
    "lowers its own score with the killer",
    "opens process 1's root",
    "opens process 1's folder",
    "opens process 1's descriptors",
    "reads process 1's environment",
    "raises its priority",
    "binds a port below 1024",
}
_OTHER_ERROR = {
    "watches performance events",
    "sets up an io_uring",
    "adds a kernel key",
    "asks for a kernel key",
    "reads the session's keyring",
    "opens a file by handle",
    "makes a handle of a file",
    "takes an odd personality",
    "puts input into a terminal",
    "loads a protocol's module",
}


def _elsewhere(name: str) -> Mapping[str, Expected]:
    if name in _OTHER_ERROR:
        return OTHER_ERROR
    return GUEST_ONLY if name in _GUEST_ONLY else {}


_OTHERS = [
    Hostile(
        "sends a signal to everybody",
        "import os\nprint('refused')\nos.sys.stdout.flush()\ntry: os.kill(-1, 9)\n"
        "except ProcessLookupError: pass",
    ),
    Hostile(
        "kills process 1",
        "import os\nos.kill(1, 9)\nprint('refused')",
        elsewhere={"gvisor": Expected(((137, Reason.EXIT_CODE),), b"")},  # that is itself
    ),
    Hostile(
        "follows process 1's links",
        f"{PRELUDE}\nrefused(lambda: os.readlink('/proc/1/exe'))",
        elsewhere=GUEST_ONLY,
    ),
    Hostile(
        "uses every descriptor it was not given",
        "import os\nopen_ones = sorted(map(int, os.listdir('/proc/self/fd')))\n"
        "print('refused' if open_ones == [0, 1, 2, 3] else open_ones)",
    ),
    Hostile(
        "holds a capability",
        "lines = [l.split()[1] for l in open('/proc/self/status') if l.startswith('Cap')]\n"
        "print('refused' if set(lines) == {'0' * 16} else lines)",
    ),
    Hostile(
        "finds a way back to privileges",
        "t = open('/proc/self/status').read()\n"
        "print('refused' if 'NoNewPrivs:\\t1' in t and 'Seccomp:\\t2' in t else t)",
        elsewhere=GUEST_ONLY,  # which has neither: no file gives rights there
    ),
    Hostile(
        "runs a set-uid program",
        "import os, subprocess\nos.mkdir('b')\nopen('b/id', 'wb').write(open('/usr/bin/id', 'rb')"
        ".read())\nos.chmod('b/id', 0o6755)\n"
        "print('refused' if int(subprocess.check_output(['b/id', '-u'])) == os.getuid() else 'HARM')",
    ),
    shell(
        "runs the system's set-uid programs",
        "su -c id root </dev/null >/dev/null 2>&1 && echo HARM || echo refused",
    ),
    shell(
        "unshares by its command",
        "unshare -Ur id 2>/dev/null && echo HARM || echo refused",
        elsewhere=GUEST_ONLY,
    ),
    shell(
        "mounts by its command", "mount -t tmpfs x /tmp 2>/dev/null && echo HARM || echo refused"
    ),
    shell(
        "has a controlling terminal", "(exec </dev/tty) 2>/dev/null && echo HARM || echo refused"
    ),
    shell(
        "climbs out of its folder",
        "cd ../../../../..; for each in home var run sys boot media srv lost+found; do "
        '[ -e "$each" ] && echo "HARM $each"; done; echo refused',
        elsewhere={"gvisor": Expected(says=b"HARM sys\nrefused\n")},  # its own kernel's
    ),
    shell(
        "makes a hard link to the system's file",
        "ln /usr/bin/env env 2>/dev/null && echo HARM || echo refused",
    ),
]

PROGRAMS = [
    *(tries(name, attempt, _elsewhere(name)) for name, attempt in (_CALLS | _FILES).items()),
    *_OTHERS,
]
