"""Three languages race, and their output appears as it is written.

Run it after `gridx login`:  python examples/race.py
"""

import asyncio

from gridx import AsyncClient
from gridx.client.events import LogPiece

RUNNERS = {
    "python": "for n in range(1, 4): print('lap', n, flush=True)",
    "javascript": "for (let n = 1; n < 4; n++) console.log('lap', n)",
    "bash": "for n in 1 2 3; do echo lap $n; done",
}


async def run(grid: AsyncClient, language: str, code: str) -> None:
    """Submit one runner and show what it says."""
    job = await grid.submit(code, language)
    async for told in job.follow():
        if isinstance(told, LogPiece):
            print("".join(f"{language:<10} {line}\n" for line in told.text.splitlines()), end="")
        else:
            print(f"{language:<10} {told.status}")


async def main() -> None:
    async with AsyncClient() as grid, asyncio.TaskGroup() as group:
        for language, code in RUNNERS.items():
            group.create_task(run(grid, language, code))


if __name__ == "__main__":
    asyncio.run(main())
