"""The promise of the bus: notices between the replicas of one hub.

A notice is never more than a hint: it may be lost, late, doubled or overtaken.
Whoever gets one and follows on directly may use what it carries; everybody else
reads the store.  A bus delivers to every subscriber of the account on every
replica, the publishing one included, and never raises into the publisher.  When
it knows that notices may have been lost, it says so with ``NoticesLost``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from hub.terms import AccountId, Change


class Notice(Struct, frozen=True, tag_field="type", gc=False):
    """Base of all notices."""


class HeadMoved(Notice, frozen=True, tag="head"):
    """A collection reaches ``head``; ``changes`` are those after ``after``, or none when they are too large."""

    space_id: bytes
    collection_id: bytes
    incarnation: bytes
    after: int
    head: int
    changes: tuple[Change, ...] = ()


class Witnessed(Notice, frozen=True, tag="witness"):
    """A device gave a new witness."""

    space_id: bytes
    collection_id: bytes
    device_id: bytes
    sealed: bytes


class Signalled(Notice, frozen=True, tag="signal"):
    """A device sends its space's other devices (or one of them) an ephemeral message."""

    space_id: bytes
    from_device: bytes
    to_device: bytes | None
    body: bytes


class PairingPassed(Notice, frozen=True, tag="pairing"):
    """A session hands the other one at a pairing's channel a frame; an empty one says that it talks to another."""

    channel: bytes
    sender: bytes  # the session
    trusted: bool  # whether its device had proved itself when it came to the channel
    to: bytes | None
    body: bytes


class DevicesRevoked(Notice, frozen=True, tag="revoked"):
    """These devices are revoked: close them."""

    device_ids: tuple[bytes, ...]


class AccountStopped(Notice, frozen=True, tag="stopped"):
    """The account was suspended, is moving or has moved: close all its sessions with this closing."""

    closing: str


class SessionOpened(Notice, frozen=True, tag="opened"):
    """A device connected; its sessions of a lower ``order`` (``Store.session_orders``) are replaced."""

    device_id: bytes
    session_id: bytes
    order: int = 0


class AccountChanged(Notice, frozen=True, tag="account"):
    """Something happened on the account; every session is told."""

    what: str
    device_id: bytes = b""
    space_id: bytes = b""
    at: float = 0.0


class NoticesLost(Notice, frozen=True, tag="lost"):
    """Notices of this account may have been lost: compare heads and revocations with the store."""


Receiver = Callable[[Notice], None]


class Bus(Protocol):
    """Carries notices of an account to its sessions."""

    async def open(self) -> None:
        """Ready to carry."""

    async def close(self) -> None:
        """Stop carrying; receivers hear no more."""

    def publish(self, account_id: AccountId, notice: Notice) -> None:
        """Send to every receiver of this account, soon; returns at once, never raises."""

    async def subscribe(self, account_id: AccountId, receiver: Receiver) -> None:
        """From now on call ``receiver`` with this account's notices; one receiver an account."""

    async def unsubscribe(self, account_id: AccountId) -> None:
        """Call its receiver no more."""
