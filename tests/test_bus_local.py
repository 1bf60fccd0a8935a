"""The bus of one process sits the exam of all buses."""

from __future__ import annotations

from hub.bus import Bus
from hub.bus.local import LocalBus
from tests.bus_exam import BusExam


class TestLocalBus(BusExam):
    async def make(self) -> tuple[Bus, Bus]:
        bus = LocalBus()
        await bus.open()
        return bus, bus
