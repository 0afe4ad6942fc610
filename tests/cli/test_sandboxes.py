"""What an owner says about sandboxes, and how they are shown: doctor, tables, alarms."""

from types import SimpleNamespace
from typing import Any

import pytest
import typer

from gridx.cli import output
from gridx.cli.service import doctor
from gridx.cli.service.sandboxes import SandboxChoice
from gridx.cli.workers import _status
from gridx.domain.resources import Resources
from gridx.domain.sandbox import Backend
from gridx.worker.probe import MachineReport, Offer
from gridx.worker.sandbox.backends import Choice
from gridx.worker.sandbox.base import Enforcement, Report

NONE, DOCKER, BUBBLEWRAP, GVISOR = Backend
BROKEN = Report("gvisor", works=False, why_not="runsc is missing", advice=("sudo apt-get x",))
WORKS = Report(
    "docker", works=True, enforces=frozenset(Enforcement) - {Enforcement.DISK}, advice=("set y",)
)


def machine(*reports: Report) -> MachineReport:
    offer = Offer(Resources(2, 1024, 0, 512), ("bash",), (), "linux", "x86_64")
    return MachineReport(offer, (), (), reports)


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({}, Choice((), DOCKER)),
        ({"sandbox": ["gvisor"]}, Choice((GVISOR,), DOCKER)),
        ({"sandbox": ["gvisor, docker", "bubblewrap"]}, Choice((GVISOR, DOCKER, BUBBLEWRAP))),
        ({"sandbox_at_least": "gvisor"}, Choice((), GVISOR)),
        ({"sandbox": ["none"], "i_trust_every_submitter": True}, Choice((NONE,), NONE)),
    ],
)
def test_what_an_owner_says(options: dict[str, Any], choice: Choice) -> None:
    assert SandboxChoice(**options).read() == choice


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"sandbox": ["chroot"]}, "none of gvisor, bubblewrap, docker, none"),
        ({"sandbox": ["gvisor,"]}, "none of"),
        ({"sandbox_at_least": "strong"}, "--sandbox-at-least"),
        ({"sandbox_at_least": "none"}, "leave it away"),
        ({"sandbox": ["none"]}, "--i-trust-every-submitter"),
        ({"i_trust_every_submitter": True}, "--sandbox none"),
        ({"sandbox": ["gvisor"], "i_trust_every_submitter": True}, "--sandbox none"),
        ({"sandbox": ["none,gvisor"], "i_trust_every_submitter": True}, "goes with no other"),
    ],
)
def test_what_makes_no_sense(options: dict[str, Any], why: str) -> None:
    with pytest.raises(typer.BadParameter, match=why):
        SandboxChoice(**options).read()


def test_doctor_says_of_each_what_it_lacks_and_what_helps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    doctor._show(machine(BROKEN, WORKS))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown, "no colours where nobody sees them"
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    first = lines.index("SANDBOX STRENGTH STATE CANNOT ENFORCE WHY")
    assert lines[first + 1 : first + 3] == [
        "gvisor 3 broken runsc is missing",
        "docker 1 works disk",
    ]
    assert lines[first + 3].startswith("none 0 UNSANDBOXED all but time and output")
    assert lines[-3:] == ["What helps", "gvisor sudo apt-get x", "docker set y"]


def test_doctor_for_programs() -> None:
    data = doctor.as_data(machine(BROKEN, WORKS))
    assert data["works"] is True
    broken, works = data["sandboxes"]  # type: ignore[misc]
    assert (broken["backend"], broken["strength"], broken["works"]) == ("gvisor", 3, False)
    assert (broken["why_not"], broken["lacks"]) == ("runsc is missing", ())
    assert works["lacks"] == (Enforcement.DISK,)
    assert doctor.as_data(machine(BROKEN))["works"] is False


@pytest.mark.parametrize(
    ("admitted", "serves_others", "unsandboxed", "shown"),
    [
        (True, True, False, "online"),
        (False, False, False, "online (not admitted)"),
        (True, False, False, "online (sandbox too weak)"),
        (True, False, True, "UNSANDBOXED online (sandbox too weak)"),
        (True, True, True, "UNSANDBOXED online"),
    ],
)
def test_a_workers_status(
    admitted: bool, serves_others: bool, unsandboxed: bool, shown: str
) -> None:
    view: Any = SimpleNamespace(
        status="online", admitted=admitted, serves_others=serves_others, unsandboxed=unsandboxed
    )
    assert _status(view) == shown
    assert output.COLOURS[output.UNSANDBOXED] == "red"
