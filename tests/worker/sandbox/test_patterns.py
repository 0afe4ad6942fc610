"""Globs of outputs: a table of cases, and the same answers as a matcher that tries everything."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridx.worker.sandbox.patterns import Patterns


def matches(globs: tuple[str, ...], path: str) -> bool:
    patterns = Patterns(globs)
    *folders, name = path.split("/")
    state = patterns.start
    for each in folders:
        state = patterns.inside(patterns.after(state, each))
    return patterns.match(patterns.after(state, name))


@pytest.mark.parametrize(
    ("glob", "taken", "left"),
    [
        ("a.txt", ["a.txt"], ["b.txt", "a.txt2", "a", "x/a.txt"]),
        ("out/*.png", ["out/a.png", "out/.png"], ["out/a.gif", "out/x/a.png", "a.png", "out"]),
        ("*", ["a", ".hidden"], ["a/b"]),
        ("a*c*e", ["ace", "abcde", "aXcYcZe"], ["ac", "acee2", "a/c/e"]),
        ("?", ["a", "ü", "\U0001f600"], ["ab", "a/b"]),
        ("**", ["a", "a/b", "a/b/c"], []),
        ("out/**", ["out/a", "out/a/b"], ["out", "a/out/b"]),
        ("**/x", ["x", "a/x", "a/b/x"], ["ax", "a/bx", "x/a"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b", "a/b/b"], ["ab", "a/xb", "a/x/b/c"]),
        ("**/a/**/*.py", ["a/b.py", "x/a/y/z/b.py"], ["b.py", "xa/b.py"]),
        ("**/**/x", ["x", "a/b/x"], ["xa"]),
        ("a**b", ["ab", "axxb"], ["a/b"]),
        ("[ab]x", ["ax", "bx"], ["cx", "x"]),
        ("[!ab]x", ["cx", "]x"], ["ax", "x"]),
        ("[a-c-]", ["a", "b", "c", "-"], ["d"]),
        ("[]a]", ["]", "a"], ["[", "b"]),
        ("[a", ["[a"], ["a"]),
        ("[c-a]", [], ["a", "b", "c"]),
        ("./out//a/./b", ["out/a/b"], ["./out/a/b"]),
        ("out/", ["out"], ["out/a"]),
        ("/etc/passwd", [], ["etc/passwd", "/etc/passwd"]),
        ("../a", [], ["a"]),
        ("", [], ["a"]),
        (".", [], ["a"]),
        ("\udcff*", ["\udcffx"], ["x"]),
    ],
)
def test_what_a_glob_names(glob: str, taken: list[str], left: list[str]) -> None:
    assert {each: matches((glob,), each) for each in taken} == dict.fromkeys(taken, True)
    assert {each: matches((glob,), each) for each in left} == dict.fromkeys(left, False)


def test_any_of_many() -> None:
    globs = ("a/*.txt", "**/b", "c?")
    assert all(matches(globs, each) for each in ("a/x.txt", "b", "x/y/b", "cc"))
    assert not any(matches(globs, each) for each in ("a/x", "c", "a/b/c", "ab"))
    assert not matches((), "a")


def test_folders_in_which_nothing_can_match_are_told() -> None:
    patterns = Patterns(["out/*/a", "log"])
    assert not patterns.inside(patterns.after(patterns.start, "other"))
    assert not patterns.inside(patterns.after(patterns.start, "log"))
    assert patterns.inside(patterns.after(patterns.start, "out"))


def test_a_glob_made_to_take_for_ever() -> None:
    """Where matchers go back and try again this takes longer than the universe is old."""
    globs = ("a*" * 500 + "b", "**/" * 300 + "c")
    assert not matches(globs, "a" * 255)
    assert not matches(globs, "/".join(["a" * 255] * 32))


PART = st.text("ab-]![*?.", min_size=1, max_size=6) | st.just("**")
NAME = st.text("ab-]![.", min_size=1, max_size=5)


@settings(deadline=None)
@given(
    st.lists(st.lists(PART, min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(NAME, min_size=1, max_size=4),
)
def test_it_says_what_a_simple_matcher_says(globs: list[list[str]], names: list[str]) -> None:
    expected = any(_simply(glob, names) for glob in globs)
    assert matches(tuple("/".join(glob) for glob in globs), "/".join(names)) == expected


def _simply(glob: list[str], names: list[str]) -> bool:
    """Every way of reading `names`, part by part."""
    glob = [part for part in glob if part != "."]
    if not glob or not names:
        return not glob and not names
    if glob[0] == "**":
        rest = glob[1:] or ["*"]
        return _simply(rest, names) or _simply(["**", *rest], names[1:])
    return fnmatchcase(names[0], glob[0]) and _simply(glob[1:], names[1:])
