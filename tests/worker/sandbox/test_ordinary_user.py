"""The same promises hold when the worker is an ordinary user, without control groups of its own."""

import asyncio
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
AS_USER = [sys.executable, str(HERE / "ordinary_user.py")] if os.geteuid() == 0 else []
SUITES = ("test_running.py", "without_groups.py", "../hostile")


async def test_the_suite_as_an_ordinary_user() -> None:
    """Where the tests themselves run as one, this runs them once more, which does no harm."""
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-x",
    ]
    process = await asyncio.create_subprocess_exec(
        *(*AS_USER, *pytest, *(str(HERE / each) for each in SUITES)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-6000:]
