"""The system calls a job may not make, compiled to a seccomp program by hand.

A deny-list in which every entry is argued for: an allow-list would break interpreters with each new
C library, and what a job must not reach is known. No library is needed, so that `pip install` alone
carries the sandbox. Everything here is belt and braces: the job has no capability either way.

The program looks only at the call's number before it allows, so that the kernel answers permitted
calls from its cache without running it.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

# Call -> its number on x86-64 and on arm64 (None where there is no such call).
_MAKE_NAMESPACES_OR_MOUNTS = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
}
_LOOK_INTO_OTHER_PROCESSES = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
}
# Not bounded by any namespace, or with a long record of kernel bugs.
_LARGE_KERNEL_SURFACE = {
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "fanotify_init": (300, 262),
}
# A file handle opens a file past every mount that hides it.
_BY_HANDLE = {
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
}
_CHANGE_THE_MACHINE = {
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "query_module": (178, None),
    "get_kernel_syms": (177, None),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "nfsservctl": (180, 42),
    "vhangup": (153, 58),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
}
# Processor features of old programs that have broken kernels, and calls nobody misses.
_LEGACY = {
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    "lookup_dcookie": (212, 18),
}
# Where memory lies is the host's to decide; secret memory cannot be swapped or looked at.
_PLACE_MEMORY = {
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "memfd_secret": (447, 447),
}
DENIED = (
    _MAKE_NAMESPACES_OR_MOUNTS
    | _LOOK_INTO_OTHER_PROCESSES
    | _LARGE_KERNEL_SURFACE
    | _BY_HANDLE
    | _CHANGE_THE_MACHINE
    | _LEGACY
    | _PLACE_MEMORY
)


@dataclass(frozen=True)
class _Architecture:
    """What differs between processors: its column in the tables, its tag, special calls."""

    column: int
    tag: int
    clone: int
    socket: int
    ioctl: int
    personality: int


_ARCHITECTURES = {
    "x86_64": _Architecture(0, 0xC000003E, clone=56, socket=41, ioctl=16, personality=135),
    "aarch64": _Architecture(1, 0xC00000B7, clone=220, socket=198, ioctl=29, personality=92),
}

_CLONE3 = 435
_X32_BIT = 0x40000000
NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* that clone(2) takes
FAMILIES = (1, 2, 10)  # unix, inet, inet6: others (vsock, netlink, packet) pass namespaces or bugs
PROTOCOLS = (0, 1, 6, 17, 58)  # default, icmp, tcp, udp, icmpv6: others load kernel modules
TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, 32-bit look, old names; a question

EPERM, ENOSYS, EPROTONOSUPPORT, EAFNOSUPPORT = 1, 38, 93, 97
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


def supported(machine: str) -> bool:
    """Whether a filter can be made for this processor (`os.uname().machine`)."""
    return machine in _ARCHITECTURES


def compile_filter(machine: str) -> bytes:
    """The seccomp program for `machine`, as the kernel takes it."""
    arch = _ARCHITECTURES[machine]
    denied = sorted({n for pair in DENIED.values() if (n := pair[arch.column]) is not None})
    program = [
        _load(_ARCHITECTURE_AT),
        _equal(arch.tag, 1, 0),
        _answer(_KILL),
        _load(_NUMBER_AT),
        *_when(_at_least(_X32_BIT), [_answer(_ERRNO | ENOSYS)]),
        # The flags of clone3 lie in memory, where no filter can see them: C libraries fall back.
        *_when(_equal(_CLONE3), [_answer(_ERRNO | ENOSYS)]),
        *_when(_equal(arch.clone), _clone_rule()),
        *_when(_equal(arch.socket), _socket_rule()),
        *_when(_equal(arch.ioctl), _refuse_when(1, TERMINAL_INJECTION, EPERM)),
        *_when(_equal(arch.personality), _allow_only(0, PERSONALITIES, EPERM)),
    ]
    for index, number in enumerate(denied):
        program.append(_equal(number, len(denied) - index, 0))
    program += [_answer(_ALLOW), _answer(_ERRNO | EPERM)]
    return b"".join(program)


def _clone_rule() -> list[bytes]:
    return [
        _load(_ARGUMENTS_AT),
        _any_bit(NEW_NAMESPACES, 0, 1),
        _answer(_ERRNO | EPERM),
        _answer(_ALLOW),
    ]


def _socket_rule() -> list[bytes]:
    family = _among(FAMILIES, otherwise=_ERRNO | EAFNOSUPPORT)
    protocol = _among(PROTOCOLS, otherwise=_ERRNO | EPROTONOSUPPORT)
    return [
        _load(_ARGUMENTS_AT),
        *family,
        _load(_ARGUMENTS_AT + 2 * 8),
        *protocol,
        _answer(_ALLOW),
    ]


def _allow_only(argument: int, values: tuple[int, ...], errno: int) -> list[bytes]:
    allowed = _among(values, otherwise=_ERRNO | errno)
    return [_load(_ARGUMENTS_AT + argument * 8), *allowed, _answer(_ALLOW)]


def _refuse_when(argument: int, values: tuple[int, ...], errno: int) -> list[bytes]:
    tests = [_equal(value, len(values) - index, 0) for index, value in enumerate(values)]
    refused = _answer(_ERRNO | errno)
    return [_load(_ARGUMENTS_AT + argument * 8), *tests, _answer(_ALLOW), refused]


def _among(values: tuple[int, ...], otherwise: int) -> list[bytes]:
    """Go on behind this block when the value loaded is one of `values`."""
    tests = [_equal(value, len(values) - index, 0) for index, value in enumerate(values)]
    return [*tests, _answer(otherwise)]


def _when(test: bytes, body: Iterable[bytes]) -> list[bytes]:
    """Run `body`, which must end in answers, when `test` holds; else skip it."""
    block = list(body)
    code, _, _, value = struct.unpack("=HBBI", test)
    return [struct.pack("=HBBI", code, 0, len(block), value), *block]


def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", 0x20, 0, 0, offset)


def _equal(value: int, then: int = 0, other: int = 0) -> bytes:
    return struct.pack("=HBBI", 0x15, then, other, value)


def _at_least(value: int) -> bytes:
    return struct.pack("=HBBI", 0x35, 0, 0, value)


def _any_bit(mask: int, then: int, other: int) -> bytes:
    return struct.pack("=HBBI", 0x45, then, other, mask)


def _answer(action: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, action)
