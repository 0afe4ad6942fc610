"""The collector is as safe where the kernel lacks `openat2`, but for mounts in one file system."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.mark.timeout(300)
async def test_the_collector_without_openat2() -> None:
    """No job can mount anything, so that this is not missed."""
    words = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "older_kernel.py"), *words),
        *(str(HERE / "test_collector.py"), "-k", "not mounted"),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-6000:]
