"""The bus of one process sits the exam of all buses."""

from __future__ import annotations

import asyncio
from functools import partial

from hub.bus import AccountChanged, AccountStopped, Bus, Notice
from hub.bus.local import LocalBus
from tests.bus_exam import BusExam, new_id


class TestLocalBus(BusExam):
    async def make(self) -> tuple[Bus, Bus]:
        bus = LocalBus()
        await bus.open()
        return bus, bus

    async def test_notices_of_one_turn_come_in_the_next_in_their_order(self) -> None:
        bus, heard = LocalBus(), []
        accounts = [new_id() for _ in range(3)]
        for account_id in accounts:
            await bus.subscribe(account_id, partial(lambda whose, notice: heard.append((whose, notice)), account_id))
        published = [(accounts[number % 3], AccountChanged(str(number))) for number in range(10)]
        for account_id, notice in published:
            bus.publish(account_id, notice)
        assert heard == []
        await asyncio.sleep(0)
        assert heard == published

    async def test_what_is_published_while_notices_are_delivered_waits_for_the_turn_after(self) -> None:
        bus, heard, account_id = LocalBus(), [], new_id()

        def answer(notice: Notice) -> None:
            heard.append(notice)
            if len(heard) == 1:
                bus.publish(account_id, AccountStopped("moved"))

        await bus.subscribe(account_id, answer)
        bus.publish(account_id, AccountStopped("suspended"))
        await asyncio.sleep(0)
        assert heard == [AccountStopped("suspended")]
        await asyncio.sleep(0)
        assert heard == [AccountStopped("suspended"), AccountStopped("moved")]
