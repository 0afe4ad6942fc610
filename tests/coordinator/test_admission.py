"""Which workers run others' jobs at once, away from loopback."""

import pytest

from gridx.domain.user import Principal
from tests.coordinator.driving import Driver

PASSWORD = "carol's password"


@pytest.mark.parametrize("invited", [True, False])
async def test_an_invitation_vouches_for_its_users_workers(
    driver: Driver, admin: Principal, invited: bool
) -> None:
    await driver.restart(admission="approve", registration="invite" if invited else "open")
    invite = await driver.grid.users.create_invite(admin, None, None) if invited else None
    await driver.grid.users.register("carol", PASSWORD, invite)
    carol = await driver.login("carol")

    await driver.worker(carol)

    page = await driver.grid.workers.list_workers(carol, 10, None)
    assert [state.worker.admitted for state in page.items] == [invited]
