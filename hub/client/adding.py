"""Carries out a pairing on a line: frames out and in, enrolling, keeping the key, and the person's answers.

What it means is thought in ``pairing.py``; ``HubClient.pair`` makes one of these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from hub.client.pairing import (
    Effect,
    Failed,
    Giver,
    Grant,
    Hand,
    Named,
    Paired,
    PairingFailed,
    Show,
    Take,
    Taker,
    Vouch,
)
from hub.terms import AccountId, DeviceId


class Line(Protocol):
    """What a pairing needs of the hub and of this device.  Each may raise ``Refusal`` or ``ConnectionError``."""

    async def hand(self, body: bytes) -> None:
        """Hand a frame to the other device."""

    async def vouch(self, device_id: DeviceId, device_pk: bytes) -> None:
        """Enrol the other device; durable on return."""

    async def take(self, grant: Grant, account_id: AccountId) -> None:
        """Prove this device in that account, and keep the key."""


class PairingHandle:
    """One pairing under way: show ``code``, unless the other's was scanned; then ``digits``, ``confirm``, ``done``."""

    def __init__(self, side: Giver | Taker, line: Line) -> None:
        """Use ``HubClient.pair``."""
        self._side = side
        self._line = line
        self._todo: asyncio.Queue[Callable[[], list[Effect]]] = asyncio.Queue()
        self._digits: str | None = None
        self._name: str | None = None
        self._over = False
        self._fault: BaseException | None = None
        self._moved = asyncio.Event()

    @property
    def gives(self) -> bool:
        """Whether this device has the key, and the other one is added."""
        return self._side.has_key

    @property
    def channel(self) -> bytes:
        """Where the two meet."""
        return self._side.channel

    @property
    def code(self) -> str:
        """``CODE/HOST``, for a QR code or to be copied."""
        return self._side.code

    async def digits(self) -> str:
        """The six digits, once the other device is there.  Raises as ``done``."""
        await self._until(lambda: self._digits is not None)
        return self._digits or ""

    async def name(self) -> str:
        """To the device that adds: what the other one calls itself, once that is sure.  Raises as ``done``."""
        await self._until(lambda: self._name is not None)
        return self._name or ""

    async def confirm(self, digits: str = "") -> None:
        """The person agrees.  Where the code was shown, ``digits`` must be those that the other device shows."""
        await self.digits()
        self._todo.put_nowait(lambda: self._side.confirmed(digits))

    def cancel(self) -> None:
        """The person does not want it after all; the other device is told."""
        self._todo.put_nowait(self._side.cancel)

    async def done(self) -> None:
        """Returns when both devices have the key.  Raises ``PairingFailed``, ``Refusal``, ``ConnectionError``."""
        await self._until(lambda: self._over)

    # --- for the client ---

    def came(self, body: bytes) -> None:
        """A frame."""
        self._todo.put_nowait(lambda: self._side.received(body))

    def lost(self, fault: BaseException) -> None:
        """The line is gone."""
        self._end(fault)
        self._todo.put_nowait(list)

    async def run(self) -> None:
        """From the open channel to the end; when it is cancelled, the other device is told if it can be."""
        try:
            await self._carry(self._side.begin())
            while not self._over:
                try:
                    async with asyncio.timeout_at(self._side.ends_at):
                        work = await self._todo.get()
                except TimeoutError:
                    work = self._expire
                await self._carry(work())
        except Exception as exc:
            self._end(exc)
            await self._tell_end()
        except asyncio.CancelledError:
            self._end(PairingFailed("cancelled"))
            await self._tell_end()
            raise

    def _expire(self) -> list[Effect]:
        return self._side.timer_fired(self._side.ends_at)

    async def _carry(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Hand(body=body):
                    await self._line.hand(body)
                case Show(digits=digits):
                    self._digits = digits
                    self._moved.set()
                case Named(name=name):
                    self._name = name
                    self._moved.set()
                case Vouch(device_id=device_id, device_pk=device_pk):
                    assert isinstance(self._side, Giver)
                    await self._line.vouch(device_id, device_pk)
                    await self._carry(self._side.vouched())
                case Take(grant=grant, account_id=account_id):
                    assert isinstance(self._side, Taker)
                    await self._line.take(grant, account_id)
                    await self._carry(self._side.taken())
                case Paired():
                    self._end(None)
                case Failed(name=fault):
                    self._end(PairingFailed(fault))

    async def _tell_end(self) -> None:
        for effect in self._side.cancel():
            if isinstance(effect, Hand):
                try:
                    await self._line.hand(effect.body)
                except Exception:
                    return  # it will find out by the time

    def _end(self, fault: BaseException | None) -> None:
        if not self._over:
            self._over, self._fault = True, fault
        self._moved.set()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            if self._over:
                raise self._fault or PairingFailed("cancelled")
            self._moved.clear()
            await self._moved.wait()
        if self._over and self._fault:
            raise self._fault
