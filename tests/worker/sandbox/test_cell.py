"""A cell and its supervisor, whose part the test plays where the moment matters."""

import asyncio
import os
import socket
from typing import cast

from gridx.worker.sandbox.box import Box
from gridx.worker.sandbox.cell import Cell, Ended
from gridx.worker.sandbox.inside import wire


async def test_an_end_is_heard_of_a_supervisor_that_was_asked_as_it_ended() -> None:
    ours, template = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    cell = Cell(Box(cast("asyncio.subprocess.Process", None), ours, -1), 0, ())
    _, files, _, _ = socket.recv_fds(template, wire.MESSAGE_BYTES_MAX, 8)
    with socket.socket(fileno=files[0]) as supervisor:
        asking = asyncio.ensure_future(cell.answers())
        await asyncio.sleep(0)
        supervisor.send(wire.ENDED.pack(0, False, 1.0, 2.0, 3))  # and never reads the question
    async with asyncio.timeout(30):
        assert await cell.ended == Ended(0, 3.0, 3)
        assert await asking
    cell.close()
    for each in (ours, template):
        each.close()
    for file in files[1:]:
        os.close(file)
