"""The system calls a job may not make, as the profile that container engines take.

The same deny-list as in the other sandboxes. A profile cannot say "none but these", so each such
rule is written as what it leaves out; comparisons are of 64 bits while the kernel looks at 32, so
every rule also covers what the kernel would cut off.
"""

import json
from collections.abc import Iterable

from gridx.worker.sandbox.inside import filter as calls

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_WORD = 0xFFFFFFFF
_Rule = dict[str, object]


def profile(machine: str) -> str:
    """The profile for this processor (`os.uname().machine`), as JSON."""
    rules = [
        _deny(sorted(calls.DENIED), calls.EPERM),
        # The flags of clone3 lie in memory, where no filter can see them: C libraries fall back.
        _deny(["clone3"], calls.ENOSYS),
        *(_deny(["clone"], calls.EPERM, _has(0, bit)) for bit in _bits(calls.NEW_NAMESPACES)),
        *_only("socket", 0, calls.FAMILIES, calls.EAFNOSUPPORT),
        *_only("socket", 2, calls.PROTOCOLS, calls.EPROTONOSUPPORT),
        *(
            _deny(["ioctl"], calls.EPERM, _masked(1, _WORD, request))
            for request in calls.TERMINAL_INJECTION
        ),
        *(_deny(["personality"], calls.EPERM, _has(0, bit)) for bit in _bits(_odd_personality())),
    ]
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": [_ARCHITECTURES[machine]],
            "syscalls": rules,
        }
    )


def _only(call: str, argument: int, values: Iterable[int], errno: int) -> list[_Rule]:
    """Deny `call` with any other value of an argument than these."""
    most = max(values)
    others = [value for value in range(most) if value not in values]
    rules = [_deny([call], errno, _compared(argument, "EQ", value)) for value in others]
    return [*rules, _deny([call], errno, _compared(argument, "GT", most))]


def _odd_personality() -> int:
    """The bits that no allowed personality has; the question what it is has all of them."""
    allowed = 0
    for each in calls.PERSONALITIES:
        allowed |= each if each != _WORD else 0
    return _WORD & ~allowed


def _bits(mask: int) -> list[int]:
    return [1 << place for place in range(mask.bit_length()) if mask & (1 << place)]


def _has(argument: int, bit: int) -> _Rule:
    return _masked(argument, bit, bit)


def _masked(argument: int, mask: int, value: int) -> _Rule:
    return {"index": argument, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _compared(argument: int, how: str, value: int) -> _Rule:
    return {"index": argument, "value": value, "op": f"SCMP_CMP_{how}"}


def _deny(names: list[str], errno: int, *conditions: _Rule) -> _Rule:
    return {
        "names": names,
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": errno,
        "args": list(conditions),
    }
