"""The house rules that a program can check and the linter does not.

Each rule looks at one file and yields what it found as `line: what is wrong`. The last test plants a
violation of every rule, so that none of them can quietly stop working.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
PACKAGE_MODULES_MAX = 16
PACKAGE_DEPTH_MAX = 3
TEXT_BYTES_MAX = 1_000_000
VAGUE_NAMES = {"common", "helper", "helpers", "manager", "misc", "util", "utils"}
# Signatures that the standard library gives: there a time-out has no unit in its name.
STDLIB_SIGNATURES = {"src/gridx/client/executor.py"}

# A proxy that delays what passes has to wait for the clock.
MAKES_DELAYS = {"tests/support/proxy.py"}


@dataclass(frozen=True)
class Source:
    """One text file: its path in the checkout, its text, and its syntax tree if it is Python."""

    path: str
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.text)

    def is_under(self, *folders: str) -> bool:
        return self.path.startswith(folders)


Rule = Callable[[Source], Iterator[str]]


@cache
def _parsed(text: str) -> ast.Module:
    """The syntax tree; an empty one for what is no Python, which `modules_parse` tells."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.Module([], [])


# --- rules for Python -----------------------------------------------------------------------------


def modules_parse(source: Source) -> Iterator[str]:
    try:
        compile(source.text, source.path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except SyntaxError as error:
        yield f"{error.lineno}: {error.msg}"


def modules_are_short(source: Source) -> Iterator[str]:
    if len(source.lines) > MODULE_LINES_MAX:
        yield f"1: {len(source.lines)} lines; split it ({MODULE_LINES_MAX} at most)"


def functions_are_short(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{node.lineno}: {node.name} has {length} lines ({FUNCTION_LINES_MAX} at most)"


def modules_say_what_they_own(source: Source) -> Iterator[str]:
    if len((ast.get_docstring(source.tree) or "").split()) < 4:
        yield "1: the module's docstring does not say what it owns"


def names_are_telling(source: Source) -> Iterator[str]:
    stem = Path(source.path).stem
    if VAGUE_NAMES & set(stem.split("_")):
        yield f"1: a module called {stem} owns nothing; name it for its noun"


def background_work_is_tracked(source: Source) -> Iterator[str]:
    """What `banned-api` cannot see: the same call on a loop. A `TaskGroup` awaits its own tasks."""
    if not source.is_under("src/") or source.path == "src/gridx/tasks.py":
        return
    groups = {
        ast.unparse(item.optional_vars)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if item.optional_vars and ast.unparse(item.context_expr) == "asyncio.TaskGroup()"
    }
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"create_task", "ensure_future"}
            and ast.unparse(node.func.value) not in groups
        ):
            yield f"{node.lineno}: {node.func.attr} outside tasks.py; use gridx.tasks"


def bans_are_not_silenced(source: Source) -> Iterator[str]:
    if source.is_under("src/"):
        for number, line in enumerate(source.lines, 1):
            if "noqa" in line and "TID251" in line:
                yield f"{number}: time, ids and tasks come from clock.py and tasks.py, always"


def nothing_sleeps_in_tests(source: Source) -> Iterator[str]:
    """`asyncio.sleep(0)` only lets others run, and is no sleep."""
    if not source.is_under("tests/") or source.path in MAKES_DELAYS:
        return
    sleeps = {"time.sleep", "asyncio.sleep"}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and _dotted(node.func) in sleeps:
            if [ast.unparse(argument) for argument in node.args] != ["0"]:
                yield f"{node.lineno}: a test waits for an event, it does not sleep"


def nothing_skips_or_pretends(source: Source) -> Iterator[str]:
    if not source.is_under("tests/"):
        return
    skips = {"skip", "skipif", "xfail", "importorskip"}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in skips:
            if _dotted(node).startswith("pytest."):
                yield f"{node.lineno}: {_dotted(node)}: what is missing fails, it does not skip"
        elif isinstance(node, ast.ImportFrom) and node.module in {"unittest", "unittest.mock"}:
            yield f"{node.lineno}: no mocks; run the real thing"


def units_stand_last(source: Source) -> Iterator[str]:
    if not source.is_under("src/"):
        return
    for line, name, annotation in _defined_names(source.tree):
        if re.fullmatch(r"_?(max|min)_\w+_(s|ms|mb|bytes)", name):
            yield f"{line}: {name}: the bound goes last, as in frame_bytes_max"
        elif re.search(r"_(sec|secs|seconds|millis|msec|milliseconds|megabytes)$", name):
            yield f"{line}: {name}: units are written _s, _ms, _mb, _bytes"
        elif source.path not in STDLIB_SIGNATURES and re.match(r"(float|int)\b", annotation):
            if re.search(r"(^|_)(timeout|interval|delay|duration|grace)$", name):
                yield f"{line}: {name}: a time needs its unit in its name, as in {name}_s"


def _defined_names(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Line, name and annotation (or nothing) of each parameter, field and variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg, ast.unparse(node.annotation) if node.annotation else ""
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.lineno, node.target.id, ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield node.lineno, target.id, ""


def _dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of names, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (front := _dotted(node.value)):
        return f"{front}.{node.attr}"
    return ""


# --- rules for every text file --------------------------------------------------------------------


def nothing_is_left_open(source: Source) -> Iterator[str]:
    # Written in two halves, so that this file passes its own rule.
    pattern = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    for number, line in enumerate(source.lines, 1):
        if pattern.search(line):
            yield f"{number}: open ends belong in the issue tracker: {line.strip()[:60]}"


def machines_stay_outside(source: Source) -> Iterator[str]:
    """No path of the machine this runs on, nor an index that the packages came from."""
    private = [f"{ROOT}/"] if len(ROOT.parts) > 2 else []
    private += [sys.base_prefix] if not sys.base_prefix.startswith("/usr") else []
    private += [f"{host}/" for host in ("files.python" + "hosted.org", "registry.npm" + "js.org")]
    for number, line in enumerate(source.lines, 1):
        for word in private:
            if word in line:
                yield f"{number}: {word} belongs to one machine or index"


def locks_name_no_host(source: Source) -> Iterator[str]:
    if source.path.endswith(".lock"):
        for number, line in enumerate(source.lines, 1):
            if "://" in line or line.startswith("-"):
                yield f"{number}: a lock file holds names, versions and hashes only: {line[:60]}"


PYTHON_RULES: list[Rule] = [
    modules_parse,
    modules_are_short,
    functions_are_short,
    modules_say_what_they_own,
    names_are_telling,
    background_work_is_tracked,
    bans_are_not_silenced,
    nothing_sleeps_in_tests,
    nothing_skips_or_pretends,
    units_stand_last,
]
TEXT_RULES: list[Rule] = [nothing_is_left_open, machines_stay_outside, locks_name_no_host]


# --- the tests ------------------------------------------------------------------------------------


@cache
def checked_files() -> tuple[Source, ...]:
    """Every text file that git knows or would add."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    sources: list[Source] = []
    for path in sorted(set(listing.stdout.split("\0")) - {""}):
        file = ROOT / path
        if file.is_file() and "/vendor/" not in path and file.stat().st_size < TEXT_BYTES_MAX:
            content = file.read_bytes()
            if b"\0" not in content:
                sources.append(Source(path, content.decode("utf-8", errors="replace")))
    return tuple(sources)


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_python_follows(rule: Rule) -> None:
    fail_on(rule, (source for source in checked_files() if source.path.endswith(".py")))


@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: rule.__name__)
def test_every_file_follows(rule: Rule) -> None:
    fail_on(rule, checked_files())


def test_packages_are_small_and_flat() -> None:
    modules: dict[str, set[str]] = {}
    for source in checked_files():
        path = Path(source.path)
        if source.is_under("src/") and path.suffix == ".py" and path.parent.name != "versions":
            modules.setdefault(str(path.parent), set()).add(path.stem)
    found: list[str] = []
    for package, names in modules.items():
        owned = sorted(names - {"__init__", "__main__"})
        if len(owned) > PACKAGE_MODULES_MAX:
            found.append(
                f"{package}: {len(owned)} modules, more than {PACKAGE_MODULES_MAX}: {owned}"
            )
        if len(Path(package).parts) - len(("src", "gridx")) > PACKAGE_DEPTH_MAX:
            found.append(f"{package}: more than {PACKAGE_DEPTH_MAX} packages deep")
    fail_with(found)


def fail_on(rule: Rule, sources: Iterable[Source]) -> None:
    fail_with([f"{source.path}:{finding}" for source in sources for finding in rule(source)])


def fail_with(found: Sequence[str]) -> None:
    if found:
        pytest.fail("\n".join(found), pytrace=False)


PLANTED: list[tuple[Rule, str, str]] = [
    (modules_parse, "src/a.py", "def f(:"),
    (modules_are_short, "src/a.py", "a = 1\n" * (MODULE_LINES_MAX + 1)),
    (functions_are_short, "src/a.py", "def f():\n" + "    a = 1\n" * FUNCTION_LINES_MAX),
    (modules_say_what_they_own, "src/a.py", '"""Things."""'),
    (names_are_telling, "src/job_utils.py", ""),
    (background_work_is_tracked, "src/a.py", "loop.create_task(work())"),
    (bans_are_not_silenced, "src/a.py", "time.time()  # noqa: TID251"),
    (nothing_sleeps_in_tests, "tests/a.py", "await asyncio.sleep(0.1)"),
    (nothing_skips_or_pretends, "tests/a.py", "@pytest.mark.skipif(True)\ndef f(): ..."),
    (nothing_skips_or_pretends, "tests/b.py", "from unittest.mock import Mock"),
    (units_stand_last, "src/a.py", "def f(max_frame_bytes: int): ..."),
    (units_stand_last, "src/b.py", "wait_seconds = 3"),
    (units_stand_last, "src/c.py", "class A:\n    stop_timeout: float = 1"),
    (nothing_is_left_open, "docs/a.md", "TO" + "DO: finish"),
    (machines_stay_outside, "docs/b.md", f"see {ROOT}/dev.py and files.python" + "hosted.org/x"),
    (locks_name_no_host, "a.lock", "--index-url https://example.org/simple"),
]


@pytest.mark.parametrize(
    ("rule", "path", "text"), PLANTED, ids=[f"{rule.__name__}-{path}" for rule, path, _ in PLANTED]
)
def test_a_planted_violation_is_found(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule for rule, _, _ in PLANTED} == {*PYTHON_RULES, *TEXT_RULES}
