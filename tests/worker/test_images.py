"""A whole worker that offers containers: what it says of images, and jobs that name one."""

import pytest
from msgspec.structs import replace

from gridx.domain.sandbox import Backend
from gridx.protocol.frames import Assign, Finished, Log, Started, WireSpec
from gridx.worker.sandbox.backends import Choice, Containers
from tests.support.docker import IMAGE, DockerEngine
from tests.worker.conftest import StartWorker
from tests.worker.coordinator import Coordinator
from tests.worker.frames import assignment, new_key, spec

pytestmark = pytest.mark.xdist_group("docker")


def in_image(image: str | None) -> WireSpec:
    return replace(spec("echo $USER", language="bash"), sandbox="docker", image=image)


async def test_a_worker_runs_the_images_that_its_owner_allows(
    coordinator: Coordinator, start_worker: StartWorker, docker: DockerEngine
) -> None:
    containers = Containers(docker.socket, image=IMAGE, allowed=("lab/*",))
    start_worker(
        coordinator.url, token="t", sandbox=Choice((Backend.DOCKER,), containers=containers)
    )
    connection = await coordinator.next()
    offer = coordinator.hellos[0].capabilities
    assert (offer.sandboxes, offer.images) == (["docker"], [IMAGE, "lab/*"])
    for image in (None, IMAGE):
        await connection.say(Assign([assignment(new_key(), in_image(image))]))
        assert (await connection.take(Started)).sandbox == "docker"
        assert (await connection.take(Log)).data == b"job\n"
        assert (await connection.take(Finished)).exit_code == 0


async def test_an_image_that_is_not_allowed_is_the_workers_failure(
    coordinator: Coordinator, start_worker: StartWorker, docker: DockerEngine
) -> None:
    containers = Containers(docker.socket, image=IMAGE)
    start_worker(
        coordinator.url, token="t", sandbox=Choice((Backend.DOCKER,), containers=containers)
    )
    connection = await coordinator.next()
    await connection.say(Assign([assignment(new_key(), in_image("evil/image:1"))]))
    end = await connection.take(Finished)
    assert (end.exit_code, end.reason) == (None, "sandbox_error")
    assert end.detail is not None
    assert "evil/image:1 is not on this worker's list" in end.detail
    assert "--allow-image" in end.detail
