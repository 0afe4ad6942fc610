"""What a program sees of being run: arguments, environment, streams, and how its end is told."""

import asyncio

import pytest

from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Limits, Program, Sandbox, Stream
from tests.worker.sandbox.backends import ON_EACH
from tests.worker.sandbox.runs import Watcher, bash, python, run

pytestmark = [pytest.mark.asyncio(loop_scope="module"), ON_EACH]

ECHO = {
    "python": "import os, sys\nprint(sys.argv[1:], os.environ['K'], sys.stdin.read(), end='')",
    "javascript": (
        "const fs = require('fs');"
        "process.stdout.write(JSON.stringify(process.argv.slice(2)) + ' ' + process.env.K + ' '"
        " + fs.readFileSync(0, 'utf8'))"
    ),
    "bash": 'printf "%s|" "$@"; printf " %s " "$K"; cat',
}
ECHOED = {
    "python": "['a b', 'ü\\n'] v\n in\nput",
    "javascript": '["a b","ü\\n"] v\n in\nput',
    "bash": "a b|ü\n| v\n in\nput",
}


@pytest.mark.parametrize("language", ECHO)
async def test_arguments_environment_and_stdin_arrive(sandbox: Sandbox, language: str) -> None:
    program = Program(language, ECHO[language], ("a b", "ü\n"), {"K": "v\n"}, "in\nput")
    ran = await run(sandbox, program)
    assert ran.end == (0, None), ran
    assert ran.stdout.decode() == ECHOED[language]


async def test_the_largest_input_the_contract_allows(sandbox: Sandbox) -> None:
    program = Program(
        "python",
        "import os, sys\nprint(len(sys.stdin.read()), [len(a) for a in sys.argv[1:]],"
        " sum(len(v) for k, v in os.environ.items() if k.startswith('K')))",
        tuple("x" * 120 * 1024 for _ in range(4)),
        {f"K{n}": "y" * (120 * 1024 - 2) for n in range(4)},
        "z" * (1 << 20),
    )
    ran = await run(sandbox, program)
    assert ran.end == (0, None), ran.stderr
    assert ran.stdout.decode() == f"{1 << 20} {[122880] * 4} {4 * 122878}\n"
    cold = Program("bash", "echo $# ${#1}; wc -c", program.args, program.env, program.stdin)
    ran = await run(sandbox, cold)
    assert ran.stdout.decode().split() == ["4", "122880", str(1 << 20)], ran


async def test_code_of_a_megabyte(sandbox: Sandbox) -> None:
    code = "print(1)\n" + "#" * ((1 << 20) - 20)
    ran = await run(sandbox, Program("python", code), Limits(disk_mb=1))
    assert (ran.end, ran.stdout) == ((0, None), b"1\n"), ran


async def test_no_stdin_is_an_empty_one(sandbox: Sandbox) -> None:
    ran = await bash(sandbox, "wc -c; test -t 0 || echo no terminal")
    assert ran.stdout.split(b"\n")[1] == b"no terminal"
    assert ran.stdout.split()[0] == b"0"


async def test_the_world_of_a_job(sandbox: Sandbox) -> None:
    ran = await bash(sandbox, "pwd; echo $HOME $TMPDIR $LANG; ls -A; hostname; id -un; echo $PPID")
    lines = ran.stdout.decode().split("\n")
    assert lines[:5] == ["/work", "/work /tmp C.UTF-8", "main.sh", "job", "job"]


async def test_only_the_jobs_own_environment(sandbox: Sandbox) -> None:
    ran = await run(sandbox, Program("bash", "env | cut -d= -f1 | sort", env={"MINE": "1"}))
    own = {"HOME", "LANG", "MINE", "PATH", "TMPDIR", "USER"}
    assert set(ran.stdout.decode().split()) == own | {"PWD", "SHLVL", "_"}
    ran = await python(sandbox, "import os; print(*sorted(os.environ))")
    assert set(ran.stdout.decode().split()) == own - {"MINE"}


async def test_modules_beside_the_program_can_be_imported(sandbox: Sandbox) -> None:
    code = "open('json.py', 'w').write('x = 5')\nimport json\nprint(json.x)"
    assert (await python(sandbox, code)).stdout == b"5\n"


@pytest.mark.parametrize(
    ("language", "code", "exit_code"),
    [
        ("bash", "exit 7", 7),
        ("bash", "exit 300", 300 & 0xFF),
        ("python", "import sys; sys.exit(256)", 0),
        ("python", "import sys; sys.exit(-1)", 255),
        ("python", "raise SystemExit('said')", 1),
        ("python", "1/0", 1),
        ("python", "def f(:", 1),
        ("javascript", "process.exit(9)", 9),
        ("javascript", "throw new Error('said')", 1),
        ("bash", "kill -KILL $$", 137),
        ("bash", "kill -SEGV $$", 139),
        ("python", "import os; os.abort()", 134),
        ("python", "import os; os.kill(os.getpid(), 15)", 143),
        ("python", "import os; os.kill(os.getpid(), 2)", 130),
        ("bash", "nonexistent_command", 127),
        ("javascript", "process.kill(process.pid, 'SIGTERM'); setInterval(() => 0, 1000)", 143),
    ],
)
async def test_exit_codes_and_signals(
    sandbox: Sandbox, language: str, code: str, exit_code: int
) -> None:
    ran = await run(sandbox, Program(language, code))
    assert ran.end == (exit_code, Reason.EXIT_CODE if exit_code else None), ran


async def test_streams_are_told_apart_and_come_as_they_are_written(sandbox: Sandbox) -> None:
    watcher, cancel = Watcher(), asyncio.Event()
    program = Program("bash", "echo out; echo err >&2; echo ready; sleep 60")

    async def cancel_when_ready() -> None:
        await watcher.until(b"ready")
        cancel.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(cancel_when_ready())
        ran = await run(sandbox, program, cancel=cancel, watcher=watcher)
    assert ran.end == (None, Reason.CANCELLED)
    assert (ran.stdout, ran.stderr) == (b"out\nready\n", b"err\n")


async def test_bytes_that_are_no_text(sandbox: Sandbox) -> None:
    ran = await bash(sandbox, r"printf '\xff\xfe\x00\x80'; printf '\x1b[2J' >&2")
    assert (ran.stdout, ran.stderr) == (b"\xff\xfe\x00\x80", b"\x1b[2J")


async def test_very_many_small_writes(sandbox: Sandbox) -> None:
    writes = 50_000 if sandbox.name == "gvisor" else 1_000_000  # each call costs more there
    code = f"import os\nfor _ in range({writes}): os.write(1, b'x')"
    ran = await python(sandbox, code, Limits(timeout_s=20.0))
    assert ran.end == (0, None), ran.outcome
    assert len(ran.stdout) == writes


async def test_output_written_at_the_very_end_is_not_lost(sandbox: Sandbox) -> None:
    code = "import sys; sys.stdout.write('x' * 60000); sys.stderr.write('y' * 60000)"
    ran = await python(sandbox, code)
    assert (len(ran.stdout), len(ran.stderr)) == (60000, 60000)


async def test_many_at_the_same_time(sandbox: Sandbox) -> None:
    codes = [f"import os; print({n}, os.listdir('/work'))" for n in range(12)]
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(python(sandbox, code)) for code in codes]
    for number, task in enumerate(runs):
        assert task.result().stdout.decode() == f"{number} ['main.py']\n"


async def test_usage_is_plausible(sandbox: Sandbox) -> None:
    code = (
        "import time\nkeep = b'x' * (50 << 20)\nend = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass"
    )
    usage = (await python(sandbox, code)).outcome.usage
    assert 0.3 <= usage.cpu_s <= usage.wall_s * 2
    assert 0.3 <= usage.wall_s < 10
    assert 50 <= usage.peak_memory_mb < 80


async def test_cpu_time_of_children_counts(sandbox: Sandbox) -> None:
    busy = "python3 -c 'import time\nwhile time.process_time() < 0.3: pass'"
    usage = (await bash(sandbox, f"{busy} & {busy}; wait")).outcome.usage
    assert usage.cpu_s > 0.5  # by the machine's count; a kernel of the job's own counts coarsely


async def test_what_cannot_be_run_is_an_outcome(sandbox: Sandbox) -> None:
    ran = await run(sandbox, Program("cobol", "x"))
    assert ran.end == (None, Reason.SANDBOX_ERROR)
    assert "cobol" in ran.outcome.detail
    ran = await run(sandbox, Program("bash", "x", args=("x" * (20 << 20),)))
    # A kernel of the job's own tries to hold what no kernel takes, and may have no room for it.
    reasons = {Reason.SANDBOX_ERROR, *([Reason.OUT_OF_MEMORY] if sandbox.name == "gvisor" else [])}
    assert ran.outcome.reason in reasons


async def test_the_detail_never_holds_a_word_of_the_jobs(sandbox: Sandbox) -> None:
    for code in ("echo hunter2; exit 3", "echo hunter2 >&2; kill -9 $$"):
        assert "hunter2" not in (await bash(sandbox, code)).outcome.detail


async def test_a_job_cancelled_before_it_starts_does_not_run(sandbox: Sandbox) -> None:
    cancel = asyncio.Event()
    cancel.set()
    ran = await run(sandbox, Program("bash", "echo ran"), cancel=cancel)
    assert (ran.end, ran.stdout) == ((None, Reason.CANCELLED), b"")


async def test_a_piece_of_output_is_never_empty(sandbox: Sandbox) -> None:
    ran = await bash(sandbox, "echo a; echo b >&2")
    assert all(piece for _, piece in ran.pieces)
    assert {stream for stream, _ in ran.pieces} == {Stream.STDOUT, Stream.STDERR}
