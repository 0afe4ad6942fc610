"""A Python job in the template's own interpreter: as after a cold start, without the cold start.

The template was started like any interpreter that runs a file, so what is left to do is what comes
between that and the file: the standard streams and `__main__`, which are made while it waits, then
the environment and the arguments. What the template had imported for itself is forgotten first. At
the end the interpreter is not taken apart
piece by piece, which would cost more than most jobs: what a program can notice of that is done
(threads, exit functions, its own objects' finalizers, streams), and the process ends.
"""

import atexit
import builtins
import gc
import io
import os
import signal
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from typing import NoReturn

_STATUS_NOT_FLUSHED = 120
_at_start: set[str] = set()
_forgotten: list[types.ModuleType] = []
"""What the template had imported: taking it apart would only cost time."""
_main = types.ModuleType("__main__")


def forget_template(modules_at_start: frozenset[str]) -> None:
    """Leave the interpreter as it was before the template imported what it needs.

    The template does so once for all its children. What it uses it still holds; what that imports
    late is forgotten again before a program runs.
    """
    _at_start.update(modules_at_start)
    _forget_modules()
    sys.path.insert(0, "")
    os.environ.pop("PWD", None)  # which bwrap adds to the environment that every job has


def _forget_modules() -> None:
    late = set(sys.modules) - _at_start
    _forgotten.extend(sys.modules.pop(name) for name in late)


def environment() -> dict[bytes, bytes]:
    """What every job has, before its own."""
    return dict(os.environb)


def prepare() -> None:
    """Make, once the standard streams are the job's, all that does not depend on the program."""
    _open_streams()
    sys.modules["__main__"] = _main
    _main.__dict__.update(__cached__=None, __builtins__=builtins, __annotations__={})
    _rehearse()


def _rehearse() -> None:
    """Do once what every program will need, with an empty one that leaves nothing behind.

    Memory shared with the template is copied page by page where it is first touched: while this
    process waits that is nobody's time.
    """
    exec(compile(b"", "", "exec", dont_inherit=True), {"__builtins__": builtins})
    SourceFileLoader("__main__", "")
    _forget_modules()
    gc.collect()


def compiled(source: bytes, path: str) -> types.CodeType | None:
    """The program of `path`; None when it is none, which a new interpreter tells best."""
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None


def run(
    code: types.CodeType, argv: Sequence[bytes], environment: Mapping[bytes, bytes]
) -> NoReturn:
    """Run `code`, which was compiled, and end the process as the interpreter would."""
    _forget_modules()
    for name, value in environment.items():
        if os.environb.get(name) != value:
            os.environb[name] = value
    path = code.co_filename
    sys.argv = [path, *(os.fsdecode(each) for each in argv)]
    sys.orig_argv = [sys.executable, *sys.argv]
    sys.path[0] = os.path.dirname(path)
    _main.__dict__.update(__file__=path, __loader__=SourceFileLoader("__main__", path))
    _execute(code, _main)


def _execute(code: types.CodeType, main: types.ModuleType) -> NoReturn:
    failure: BaseException | None = None
    status = 0
    try:
        exec(code, main.__dict__)
    except SystemExit as asked:
        status = _status(asked)
    except BaseException as caught:  # noqa: BLE001 - told the way the interpreter tells it
        failure = caught
        status = 1
    if failure is not None:
        _tell(failure)
    then = _die_of_interrupt if isinstance(failure, KeyboardInterrupt) else os._exit
    _end(main, status, then)


def _tell(failure: BaseException) -> None:
    """Show `failure` without the frame of ours that it passed."""
    trace = failure.__traceback__
    trace = failure.__traceback__ = trace.tb_next if trace is not None else None
    sys.last_type, sys.last_value, sys.last_traceback = type(failure), failure, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = failure
    try:
        sys.excepthook(type(failure), failure, trace)
    except Exception as caught:  # noqa: BLE001 - a hook of the job's own
        worse = caught
    else:
        return
    trace = worse.__traceback__
    trace = worse.__traceback__ = trace.tb_next if trace is not None else None
    sys.stderr.write("Error in sys.excepthook:\n")
    sys.__excepthook__(type(worse), worse, trace)
    sys.stderr.write("\nOriginal exception was:\n")
    sys.__excepthook__(type(failure), failure, failure.__traceback__)


def _status(asked: SystemExit) -> int:
    if asked.code is None:
        return 0
    if isinstance(asked.code, int):
        return asked.code & 0xFF if abs(asked.code) <= sys.maxsize else 0xFF
    sys.stderr.write(f"{asked.code}\n")
    return 1


def _die_of_interrupt(_status: int) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(1)


def _end(main: types.ModuleType, status: int, then: Callable[[int], NoReturn]) -> NoReturn:
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()  # noqa: SLF001 - as the interpreter itself does
    atexit._run_exitfuncs()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    flushed = _flush()
    names = list(main.__dict__)
    for underscored in (True, False):
        for name in names:
            if name.startswith("_") is underscored and name != "__builtins__":
                main.__dict__[name] = None
    gc.collect()
    then(status if _flush() and flushed else _STATUS_NOT_FLUSHED)


def _flush() -> bool:
    """Flush what the program wrote; whether that worked for stdout, which alone counts."""
    worked = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception as failure:  # noqa: BLE001 - a stream of the job's own
            worked = False
            if stream is sys.stdout:
                where = (
                    f"in: {stream!r}" if sys.version_info < (3, 13) else "on flushing sys.stdout:"
                )
                told = f"Exception ignored {where}\n{type(failure).__name__}: {failure}\n"
                os.write(2, told.encode("utf-8", "backslashreplace"))
                sys.stdout = None
    return worked


def _open_streams() -> None:
    """Standard streams on the job's own descriptors, made the way the interpreter makes them."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        reading = name == "stdin"
        raw = io.FileIO(descriptor, "rb" if reading else "wb", closefd=False)
        setattr(raw, "name", f"<{name}>")  # noqa: B010 - the type says it cannot be set
        model = getattr(sys, f"__{name}__")
        stream = io.TextIOWrapper(
            io.BufferedReader(raw) if reading else io.BufferedWriter(raw),
            encoding=model.encoding,
            errors=model.errors,
            newline=None if reading else "\n",
            line_buffering=name == "stderr",
        )
        setattr(stream, "mode", "r" if reading else "w")  # noqa: B010
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
