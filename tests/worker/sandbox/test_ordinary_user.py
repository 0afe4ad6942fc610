"""The same promises hold when the worker is an ordinary user, without control groups of its own."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
AS_USER = [sys.executable, str(HERE / "ordinary_user.py")] if os.geteuid() == 0 else []
SUITES = {
    "running": ("test_running.py", "-k", "bubblewrap"),  # gVisor's own tests come with the next
    "without groups": ("without_groups.py", "test_gvisor.py"),
    "files": ("test_collector.py", "test_keeping.py"),
    "hostile": ("../hostile", "-k", "bubblewrap or model"),  # the others take minutes more
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
async def test_the_suite_as_an_ordinary_user(suite: tuple[str, ...]) -> None:
    """Where the tests themselves run as one, this runs them once more, which does no harm."""
    words = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--assert=plain")
    process = await asyncio.create_subprocess_exec(
        *(*AS_USER, *words, *suite),
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-6000:]
