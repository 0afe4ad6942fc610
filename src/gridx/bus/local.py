"""The bus of one coordinator: hints inside its own event loop."""

import asyncio

from gridx.bus.base import Bus, Listener
from gridx.domain.errors import InvalidInput


class _LocalListener:
    def __init__(self, bus: "LocalBus", topic: str) -> None:
        self._bus = bus
        self._topic = topic
        self._event = asyncio.Event()

    def hint(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def close(self) -> None:
        self._bus.forget(self._topic, self)


class LocalBus:
    """Hints delivered at once; used from the loop's own thread only."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[_LocalListener]] = {}

    def publish(self, topic: str) -> None:
        for listener in self._listeners.get(topic, ()):
            listener.hint()

    def listen(self, topic: str) -> Listener:
        listener = _LocalListener(self, topic)
        self._listeners.setdefault(topic, set()).add(listener)
        return listener

    def forget(self, topic: str, listener: _LocalListener) -> None:
        """Take a listener away; called by its `close`."""
        listeners = self._listeners.get(topic, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(topic, None)


def make_bus(url: str) -> Bus:
    """The bus a setting names; `InvalidInput` for one this version does not have."""
    if url == "local://":
        return LocalBus()
    raise InvalidInput("bus.url: this version has only local:// (one coordinator)")
