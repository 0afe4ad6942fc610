"""The API keeps what its own document says: schemathesis asks, with all of its checks on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import api_reference

from tests.server.running import Running

CONFIG = Path(__file__).with_name("schemathesis.toml")
# Streams and waits do not end by themselves; log-ins and passwords would end the run's own token.
LEFT_OUT = "(events$|/auth/token|/auth/password|/wait$"


@pytest.mark.parametrize(
    ("phases", "left_out"),
    [
        # Its boundary cases of a spec are megabytes each; test_input_rules.py has them.
        ("examples,coverage", LEFT_OUT + "|^/jobs$|^/jobs/batch$)"),
        ("fuzzing,stateful", LEFT_OUT + ")"),
    ],
)
@pytest.mark.timeout(240)
def test_schemathesis_finds_nothing(
    own_sqlite: Running, tmp_path: Path, phases: str, left_out: str
) -> None:
    command = [
        str(Path(sys.executable).with_name("st")), "--config-file", str(CONFIG),
        "run", f"{own_sqlite.url}/openapi.json",
        "--header", f"Authorization: Bearer {own_sqlite.admin.token}",
        "--checks", "all", "--mode", "all", "--phases", phases, "--max-examples", "4",
        "--seed", "20261125", "--exclude-path-regex", left_out, "--no-color",
    ]  # fmt: skip
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONUTF8": "1"}

    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    assert own_sqlite.admin.get("/admin/ledger/verify").json()["ok"] is True


def test_every_operation_declares_its_errors(shared: Running) -> None:
    document = shared.client.get("/openapi.json").json()
    shape = {"$ref": "#/components/schemas/ErrorView"}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            statuses = set(operation["responses"])
            assert {"400", "413", "500", "503"} <= statuses, (method, path)
            assert ("401" in statuses) or not operation.get("security"), (method, path)
            assert ("404" in statuses) or "{" not in path, (method, path)
            for status, answer in operation["responses"].items():
                if status >= "400" and (path, status) != ("/health", "503"):
                    assert answer["content"]["application/json"]["schema"] == shape
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_every_reference_of_the_document_leads_somewhere(shared: Running) -> None:
    document = shared.client.get("/openapi.json").json()
    names = set(document["components"]["schemas"])

    def references(node: object) -> set[str]:
        found: set[str] = set()
        if isinstance(node, dict):
            for key, value in node.items():  # pyright: ignore[reportUnknownVariableType]
                found |= {value} if key == "$ref" else references(value)  # pyright: ignore[reportUnknownArgumentType, reportAssignmentType]
        elif isinstance(node, list):
            for value in node:  # pyright: ignore[reportUnknownVariableType]
                found |= references(value)  # pyright: ignore[reportUnknownArgumentType]
        return found

    assert {ref.rpartition("/")[2] for ref in references(document)} <= names


def test_the_page_of_the_api_is_what_the_document_says() -> None:
    assert api_reference.PAGE.read_text(encoding="utf-8") == api_reference.page(), (
        "run: python scripts/api_reference.py"
    )
