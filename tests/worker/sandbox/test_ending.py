"""How an attempt ended, decided from what was seen of it: a table of cases."""

import pytest

from gridx.domain.attempt import REPORTABLE, Reason
from gridx.worker.sandbox.base import Limits
from gridx.worker.sandbox.cgroups.groups import Counters
from gridx.worker.sandbox.ending import Seen, outcome

OOM, FORKS = Counters(oom_kills=1), Counters(refused_forks=3)


@pytest.mark.parametrize(
    ("seen", "exit_code", "reason"),
    [
        (Seen(), 0, None),
        (Seen(exit_code=1), 1, Reason.EXIT_CODE),
        (Seen(exit_code=137), 137, Reason.EXIT_CODE),
        (Seen(stopped=Reason.TIMEOUT), None, Reason.TIMEOUT),
        (Seen(exit_code=143, stopped=Reason.CANCELLED), None, Reason.CANCELLED),
        (Seen(exit_code=137, counters=OOM), None, Reason.OUT_OF_MEMORY),
        (Seen(counters=OOM), None, Reason.OUT_OF_MEMORY),
        (Seen(stopped=Reason.OUTPUT_LIMIT, counters=OOM), None, Reason.OUTPUT_LIMIT),
        (Seen(exit_code=1, counters=FORKS), 1, Reason.PROCESS_LIMIT),
        (Seen(counters=FORKS), 0, None),
        (Seen(exit_code=1, disk_was_full=True), 1, Reason.DISK_LIMIT),
        (Seen(disk_was_full=True), 0, None),
        (Seen(exit_code=1, disk_was_full=True, counters=FORKS), 1, Reason.DISK_LIMIT),
        (Seen(failure="it broke"), None, Reason.SANDBOX_ERROR),
        (Seen(failure="it broke", stopped=Reason.TIMEOUT), None, Reason.TIMEOUT),
    ],
)
def test_the_verdict(seen: Seen, exit_code: int | None, reason: Reason | None) -> None:
    verdict = outcome(seen, Limits())
    assert (verdict.exit_code, verdict.reason) == (exit_code, reason)
    assert reason is None or reason in REPORTABLE


def test_the_kernels_accounts_go_before_those_of_wait() -> None:
    seen = Seen(wall_s=2.0, cpu_s=1.0, peak_memory_bytes=1 << 20)
    assert outcome(seen, Limits()).usage.cpu_s == 1.0
    assert outcome(seen, Limits()).usage.peak_memory_mb == 1.0
    counted = Seen(wall_s=2.0, cpu_s=1.0, counters=Counters(1.5, 3 << 20))
    assert outcome(counted, Limits()).usage.cpu_s == 1.5
    assert outcome(counted, Limits()).usage.peak_memory_mb == 3.0


def test_details_name_the_limit() -> None:
    limits = Limits(timeout_s=7.5, memory_mb=33, output_bytes=44, disk_mb=55, processes=66)
    named = {
        Reason.TIMEOUT: "7.5 s",
        Reason.OUT_OF_MEMORY: "33 MB",
        Reason.OUTPUT_LIMIT: "44 bytes",
    }
    for reason, text in named.items():
        assert text in outcome(Seen(stopped=reason), limits).detail
    assert "55 MB" in outcome(Seen(exit_code=1, disk_was_full=True), limits).detail
    assert "66" in outcome(Seen(exit_code=1, counters=FORKS), limits).detail
