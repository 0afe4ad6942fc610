"""What holds on a host that gives the worker no control groups; run by `test_ordinary_user`."""

import pytest

from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Enforcement, Limits
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from tests.worker.sandbox.runs import python

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_report_says_what_cannot_be_enforced(sandbox: Bubblewrap) -> None:
    report = await sandbox.probe()
    assert report.works
    assert set(report.lacks) == {Enforcement.MEMORY, Enforcement.CPU, Enforcement.IO}
    assert any("Delegate=yes" in hint for hint in report.advice)
    assert any("bfq" in hint for hint in report.advice)


@pytest.mark.parametrize(
    "code",
    [
        "import os, time\nfor _ in range(30):\n  if os.fork() == 0: time.sleep(60)",
        "import os\nwhile True: os.fork()",
    ],
    ids=["children", "fork bomb"],
)
async def test_a_job_is_refused_more_than_its_share_of_tasks(
    sandbox: Bubblewrap, code: str
) -> None:
    ran = await python(sandbox, code, Limits(processes=10, memory_mb=500))
    assert ran.end == (1, Reason.EXIT_CODE), ran
    assert b"Resource temporarily unavailable" in ran.stderr


async def test_exactly_as_many_as_allowed(sandbox: Bubblewrap) -> None:
    code = "import os, time\nfor _ in range({}):\n  if os.fork() == 0: time.sleep(60)"
    assert (await python(sandbox, code.format(9), Limits(processes=10))).end == (0, None)
    assert (await python(sandbox, code.format(10), Limits(processes=10))).end[0] == 1
