"""A real container engine for tests: Debian's dockerd in a folder of its own, with one image.

It listens on a socket in that folder alone, touches no firewall and makes no network. The image is
built from files of this host (its interpreters, a shell, a few commands, the libraries they need),
because nothing is pulled. dockerd wants root; run as anybody else, the tests that need it fail.
"""

import io
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gridx.worker.sandbox.languages import find_interpreters
from tests.support.processes import Process

IMAGE = "gridx-test:latest"
COMMANDS = (
    *("bash", "cat", "chmod", "cp", "cut", "date", "dash", "dd", "echo", "env", "false", "grep"),
    *("head", "hostname", "id", "ln", "ls", "mkdir", "mount", "nohup", "printf", "rm", "seq"),
    *("setsid", "sh", "sleep", "sort", "su", "touch", "tr", "true", "unshare", "wc", "yes"),
)
LEFT_OUT = {
    *("__pycache__", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test"),
    *("tests", "tkinter", "turtledemo"),
}
TEXTS = {
    "etc/passwd": "".join(f"job:x:{uid}:{uid}::/work:/bin/sh\n" for uid in range(50_000, 50_100))
    + "nobody:x:65534:65534::/:/bin/false\n",
    "etc/group": "nogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
LIBRARIES = Path("/lib/x86_64-linux-gnu")


class DockerEngine:
    """One engine; `stop` and `start` are an engine that goes away and comes back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.process: Process | None = None

    def start(self) -> None:
        folder = self.folder
        (folder / "config.json").write_text("{}")  # none of the machine's
        self.process = Process(
            # Its mounts are its own, so that tests which count mounts do not meet them.
            *("unshare", "--mount", "--propagation", "private", "--", "dockerd"),
            *("--host", f"unix://{self.socket}", "--pidfile", folder / "pid"),
            *("--data-root", folder / "data", "--exec-root", folder / "exec"),
            *("--config-file", folder / "config.json", "--storage-driver", "overlay2"),
            *("--iptables=false", "--ip-masq=false", "--bridge=none", "--shutdown-timeout", "1"),
        )
        self.process.wait_for("API listen on")

    def stop(self) -> None:
        """As at a shutdown: every container ends."""
        assert self.process is not None
        self.process.stop(signal.SIGTERM)
        self.process.close()
        self.process = None

    def import_image(self, name: str, root: Path, *changes: str) -> None:
        """Make an image of a root file system (a tar file), with lines as of a Dockerfile."""
        options = [word for each in changes for word in ("--change", each)]
        self.ask("import", *options, str(root), name)

    def ask(self, *words: str) -> str:
        """Run the engine's own command line."""
        command = ["docker", "--host", f"unix://{self.socket}", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def containers(self) -> list[str]:
        """Every container it has, whatever its state."""
        return self.ask("ps", "--all", "--quiet", "--no-trunc").split()


@contextmanager
def docker_engine() -> Generator[DockerEngine]:
    """A fresh engine for the length of a `with` block, that has `IMAGE`."""
    folder = Path(tempfile.mkdtemp(prefix="gridx-docker-"))
    engine = DockerEngine(folder)
    try:
        write_root(folder / "root.tar")
        engine.start()
        engine.import_image(IMAGE, folder / "root.tar")
        yield engine
    finally:
        if engine.process is not None:
            engine.stop()
        for mount in _mounts_below(folder):
            subprocess.run(["umount", "--lazy", mount], check=True)
        shutil.rmtree(folder)


def write_root(file: Path) -> None:
    """Write a root file system of this host's programs; about 180 MB, most of it Node."""
    programs = {f"usr/bin/{name}": _command(name) for name in COMMANDS}
    for language, name in (("python", None), ("javascript", "node")):
        path = Path(find_interpreters()[language].host_path)
        programs[f"usr/local/bin/{name or path.name}"] = path
    python = Path(find_interpreters()["python"].host_path)
    standard_library = dict(_library_of(python.parent.parent / "lib", python.name))
    natives = [path for path in standard_library.values() if path.suffix == ".so"]
    libraries = dict(_libraries_of([*programs.values(), *natives]))
    with tarfile.open(file, "w") as tar:
        _add_link(tar, "bin", "usr/bin")
        _add_link(tar, "usr/local/bin/python3", python.name)
        for name, path in (programs | standard_library | libraries).items():
            tar.add(path.resolve(), name, recursive=False)
        for name, text in TEXTS.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))


def _command(name: str) -> Path:
    found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    assert found is not None, f"this host has no {name}"
    return Path(found)


def _library_of(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    for path in (folder / name).rglob("*"):
        inside = path.relative_to(folder)
        if path.is_file() and not LEFT_OUT & set(inside.parts) and "config-" not in str(inside):
            yield f"usr/local/lib/{inside}", path


def _libraries_of(programs: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """The libraries that programs load, at places where any loader looks."""
    answer = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    for word in {word for word in answer.stdout.split() if word.startswith("/lib")}:
        yield word.lstrip("/"), Path(word)
    for word in {word for word in answer.stdout.split() if "/libpython" in word}:
        yield str(LIBRARIES / Path(word).name).lstrip("/"), Path(word)


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [place for line in lines if (place := line.split()[4]).startswith(f"{folder}/")][::-1]
