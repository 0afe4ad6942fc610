"""A coordinator as a process with its store, the people who use it, and workers as processes.

A house is started on a port of its own choice and keeps it over restarts. When it closes, its
ledger is verified over HTTP and by `gridx ledger verify`, and none of its processes is left.
"""

import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.e2e.people import PASSWORD, Json, Person
from tests.support.processes import Process, clean_environment, free_port
from tests.support.waiting import until

GRIDX = str(Path(sys.executable).with_name("gridx"))
QUICK = {
    "GRIDX_LEASES__HEARTBEAT_S": "0.4",
    "GRIDX_LEASES__LEASE_S": "4",
    "GRIDX_SERVER__LOGINS_PER_MINUTE_LOOPBACK": "100000",
}
"""A lease that ends soon, and still not because a loaded machine stood for a moment."""
COMMAND_S = 60.0
END_S = 30.0
"""Ten seconds are meant; a loaded machine gets more."""


@dataclass
class Worker:
    """A worker's process, and the folder of its state."""

    name: str
    process: Process
    state: Path
    worker_id: str = ""
    url: str | None = None


@dataclass
class House:
    """One coordinator over one store."""

    folder: Path
    storage_url: str
    settings: dict[str, str] = field(default_factory=dict[str, str])
    flags: tuple[str, ...] = ()
    process: Process | None = None
    port: int = 0
    url: str = ""
    people: list[Person] = field(default_factory=list[Person])
    workers: list[Worker] = field(default_factory=list[Worker])
    _count: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """What its own programs see."""
        settings = QUICK | {"GRIDX_STORAGE__URL": self.storage_url} | self.settings
        return clean_environment(self.folder, GRIDX_ADMIN_PASSWORD=PASSWORD, **settings)

    def initialise(self) -> None:
        """Make the store with its administrator."""
        done = subprocess.run(
            [GRIDX, "init"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Serve; on the same port as before if it did before, which nobody else was given."""
        self.port = self.port or free_port()
        words = (GRIDX, "coordinator", "--port", str(self.port), *self.flags)
        self.process = Process(*words, env=self.environment)
        self.url = self.process.wait_for(r"\"url\": \"(http[^\"]+)\"").group(1)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the coordinator in order, or with any signal; its exit code."""
        assert self.process is not None
        try:
            return self.process.stop(number, END_S)
        finally:
            self.process.close()

    # ------------------------------------------------------------------ people

    def log_in(self, user_id: str, password: str = PASSWORD) -> Person:
        """A new token of a user."""
        with httpx2.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            body = {"user_id": user_id, "password": password}
            answer = client.post("/auth/token", json=body)
        assert answer.status_code == 200, answer.text
        self.people.append(person := Person(self.url, user_id, answer.json()["token"]))
        return person

    @property
    def admin(self) -> Person:
        """The administrator."""
        for person in self.people:
            if person.user_id == "admin":
                return person
        return self.log_in("admin")

    def person(self, user_id: str | None = None) -> Person:
        """A new user with the initial grant."""
        self._count += 1
        name = user_id or f"person-{self._count}"
        with httpx2.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            answer = client.post("/users", json={"user_id": name, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        return self.log_in(name)

    def gridx(
        self, person: Person, *words: str, feed: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """One command of this person, to its end."""
        return subprocess.run(
            [GRIDX, *words],
            env=self.environment_of(person) | more,
            input=feed,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def environment_of(self, person: Person) -> dict[str, str]:
        """What a person's commands see."""
        home = self.folder / "homes" / person.user_id
        home.mkdir(parents=True, exist_ok=True)
        return clean_environment(
            home, GRIDX_URL=person.url, GRIDX_TOKEN=person.token, GRIDX_USER=person.user_id
        )

    # ------------------------------------------------------------------ workers

    def worker(
        self, owner: str, *flags: str, url: str | None = None, state: Path | None = None
    ) -> Worker:
        """Start a worker with a password, and wait until the coordinator says it is online."""
        worker = self.start_worker(owner, *flags, url=url, state=state)
        until(lambda: self.is_online(worker), f"worker {worker.name} is online")
        return worker

    def start_worker(
        self, owner: str, *flags: str, url: str | None = None, state: Path | None = None
    ) -> Worker:
        """Start a worker's process, and wait for nothing."""
        self._count += 1
        name = state.name if state else f"worker-{self._count}"
        home = self.folder / "machines"
        home.mkdir(exist_ok=True)
        password = home / "password"
        password.write_text(f"{PASSWORD}\n")
        state = state or home / name
        words = (GRIDX, "worker", "--url", url or self.url, "--user", owner, "--name", name)
        if "--slots" not in flags:
            flags = ("--slots", "2", *flags)
        process = Process(
            *(*words, "--password-file", password, "--no-cli", "--state-dir", state, *flags),
            env=clean_environment(home),
        )
        self.workers.append(worker := Worker(name, process, state, url=url))
        return worker

    def is_online(self, worker: Worker) -> bool:
        """Whether the coordinator lists it as online; notes its id."""
        assert worker.process.exit_code is None, worker.process.output
        for found in self.admin.items("/workers?limit=500"):
            if found["name"] == worker.name and found["status"] == "online":
                worker.worker_id = found["worker_id"]
                return True
        return False

    def view(self, worker: Worker) -> Json:
        """What the coordinator says of it."""
        return self.admin.ask(f"/workers/{worker.worker_id}")

    # ------------------------------------------------------------------ the end

    def verify(self) -> None:
        """The ledger is exact, says the API."""
        report = self.admin.ask("/admin/ledger/verify")
        assert report["ok"] is True, report
        assert report["differences"] == []

    def close(self) -> None:
        """Verify, also by the command, and end everything."""
        try:
            if self.process is not None and self.process.exit_code is None:
                self.verify()
                done = self.gridx(self.admin, "ledger", "verify")
                assert done.returncode == 0, done.stdout + done.stderr
        finally:
            for person in self.people:
                person.close()
            for worker in self.workers:
                worker.process.close()
            if self.process is not None:
                self.process.close()
