"""The sandboxes that the tests run on; what every one of them must do is tested on each."""

from collections.abc import Callable

import pytest

from gridx.worker.sandbox.base import Sandbox
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from gridx.worker.sandbox.docker.backend import Docker
from gridx.worker.sandbox.gvisor import Gvisor
from tests.support.docker import IMAGE, DockerEngine


def _docker(request: pytest.FixtureRequest) -> Sandbox:
    engine: DockerEngine = request.getfixturevalue("docker")
    return Docker(socket=engine.socket, image=IMAGE)


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], Sandbox]] = {
    "bubblewrap": lambda request: Bubblewrap(),
    "gvisor": lambda request: Gvisor(),
    "docker": _docker,
}
PARAMETERS = [
    "bubblewrap",
    "gvisor",
    pytest.param("docker", marks=pytest.mark.xdist_group("docker")),  # one engine is enough
]
ON_EACH = pytest.mark.parametrize("sandbox", PARAMETERS, indirect=True, scope="module")
