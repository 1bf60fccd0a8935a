"""Adding a device by one scan, without I/O: the app key goes from one device to another through a hub that cannot.

One device shows a code, the other scans it; either may be the one that has the key.
The code carries a secret and an X25519 key that the hub never sees.  Both devices
derive their keys from these and from everything that names them (the *transcript*:
the hub's address, the account, both devices), so whoever stands between can neither
read what is handed over nor put anything else in its place.  Six digits, which follow
from the same secrets, are compared by the person: they catch whoever has
photographed the code.  docs/protocol.md "Pairing".

``Giver`` has the key, ``Taker`` wants it.  What happens goes in, effects come out.
After ``Failed`` or ``Paired`` nothing more comes.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt as _decrypt,
)
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_encrypt as _encrypt,
)
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from hub.client.keycode import CodeKind, WrongKeyCode, qr_text
from hub.client.keys import APP_KEY_BYTES, SpaceKeys, hkdf
from hub.client.sealing import padded_bytes
from hub.signing import LABEL, lp
from hub.terms import ID_BYTES, AccountId, CollectionId, DeviceId, Incarnation, Seq, SpaceId
from hub.wire.header import NONCE_BYTES, TAG_BYTES

WITHIN_S = 180.0
LABEL_CHARS_MAX = 64
HEADS_MAX = 32  # of a grant, so that it fits into one frame
SECRET_BYTES = 32
PUBLIC_KEY_BYTES = 32

_CODE = struct.Struct(f">BB{PUBLIC_KEY_BYTES}s{SECRET_BYTES}s")
_VERSION = 1
_HAS_KEY, _WANTS_KEY = 1, 2
PAIRING_CODE = CodeKind("HUBPAIR", "pairing code", _CODE.size)

# The first byte of each frame.
_GIVER_OFFER, _TAKER_OFFER, _NAME, _GRANT, _TAKEN, _CANCEL = range(1, 7)
_GIVER = struct.Struct(f">B{PUBLIC_KEY_BYTES}s{ID_BYTES}s{ID_BYTES}s32s")  # then the app id as UTF-8
_TAKER = struct.Struct(f">B{PUBLIC_KEY_BYTES}s{ID_BYTES}s32s")
_LENGTH = struct.Struct(">I")

FAULTS = {
    "cancelled": "Pairing was cancelled.",
    "expired": "Pairing took too long; please start again with a new code.",
    "wrong_digits": "These are not the six digits of the other device. Nothing was handed over.",
    "interfered": "What came over the hub was not made by the device with this code. Nothing was handed over.",
    "two_devices": "Two devices have used the same pairing code. Nothing was handed over; please make a new code.",
    "other_app": "That device belongs to another app.",
    "other_key": "That device's key opens other data than this device has.",
    "other_account": "The hub took this device into another account than the one it was added to.",
}


class PairingFailed(Exception):
    """The pairing came to nothing; ``name`` is one of ``FAULTS``, the text a sentence for the person."""

    def __init__(self, name: str) -> None:
        super().__init__(FAULTS[name])
        self.name = name


# --- the code that is shown ------------------------------------------------------------------


class Scan(NamedTuple):
    """What a pairing code says."""

    has_key: bool  # whether the device that shows it has the key
    public_key: bytes
    secret: bytes
    host: str  # of the hub, with its port if it has one; empty when the code was typed without it


def pairing_code(public_key: bytes, secret: bytes, hub_url: str, *, has_key: bool) -> str:
    """``CODE/HOST``, upper case: what the QR code shows.  Both byte strings have 32 bytes."""
    payload = _CODE.pack(_VERSION, _HAS_KEY if has_key else _WANTS_KEY, public_key, secret)
    return qr_text(PAIRING_CODE.write(payload), hub_url)


def parse_pairing_code(text: str) -> Scan:
    """What the code says.  Raises ``WrongKeyCode`` with a sentence."""
    version, role, public_key, secret = _CODE.unpack(PAIRING_CODE.read(text))
    if version != _VERSION or role not in (_HAS_KEY, _WANTS_KEY):
        raise WrongKeyCode("This pairing code was made by a newer app; please update this one.")
    return Scan(role == _HAS_KEY, public_key, secret, text.partition("/")[2].strip().lower())


def channel_of(secret: bytes) -> bytes:
    """Where the two devices meet; it tells the hub nothing of the secret."""
    return hkdf(secret, b"", LABEL + b"pair-chan", ID_BYTES)


# --- the keys --------------------------------------------------------------------------------


class Transcript(NamedTuple):
    """Everything that both devices must agree on, the giver always first."""

    hub_url: str
    shown_by_giver: bool
    giver_public_key: bytes
    taker_public_key: bytes
    account_id: AccountId
    giver_id: DeviceId
    giver_pk: bytes
    taker_id: DeviceId
    taker_pk: bytes
    app_id: str

    def packed(self) -> bytes:
        """The bytes that are hashed."""
        role = _HAS_KEY if self.shown_by_giver else _WANTS_KEY
        return lp(
            LABEL + b"pair", self.hub_url.encode(), bytes([role]), self.giver_public_key, self.taker_public_key,
            self.account_id, self.giver_id, self.giver_pk, self.taker_id, self.taker_pk, self.app_id.encode(),
        )  # fmt: skip


class PairingKeys(NamedTuple):
    """One key for each thing that is sealed, each used once; and what the person compares."""

    to_taker: bytes
    to_giver: bytes
    digits: str
    name: bytes

    @classmethod
    def derive(cls, shared: bytes, secret: bytes, transcript: Transcript) -> PairingKeys:
        """``shared`` is the X25519 of the two."""
        salt = hashlib.sha256(transcript.packed()).digest()
        keys = hkdf(shared + secret, salt, LABEL + b"pair", 102)
        return cls(keys[:32], keys[32:64], f"{int.from_bytes(keys[64:70]) % 10**6:06}", keys[70:])


def _seal(key: bytes, plaintext: bytes) -> bytes:
    padded = (_LENGTH.pack(len(plaintext)) + plaintext).ljust(padded_bytes(len(plaintext)), b"\0")
    return _encrypt(padded, b"", bytes(NONCE_BYTES), key)  # the key is used for nothing else, ever


def _open(key: bytes, sealed: bytes) -> bytes:
    """Raises ``PairingFailed``."""
    if len(sealed) < TAG_BYTES + _LENGTH.size:
        raise PairingFailed("interfered")
    try:
        padded = _decrypt(sealed, b"", bytes(NONCE_BYTES), key)
    except CryptoError:
        raise PairingFailed("interfered") from None
    end = _LENGTH.size + int.from_bytes(padded[: _LENGTH.size])
    if end > len(padded) or padded[end:].strip(b"\0"):
        raise PairingFailed("interfered")
    return padded[_LENGTH.size : end]


# --- what is handed over ---------------------------------------------------------------------


class Grant(msgspec.Struct, frozen=True):
    """The app key and what goes with it; unknown keys of the map are ignored."""

    space_id: SpaceId
    key_epoch: int
    app_key: bytes
    key_id: bytes
    incarnation: Incarnation = b""
    heads: list[tuple[CollectionId, Seq]] = []  # how far the giver was, in this life of the log

    def fits(self) -> bool:
        """Whether all of it follows from the app key, and this program understands it."""
        if len(self.app_key) != APP_KEY_BYTES or self.key_epoch != 0:
            return False
        keys = SpaceKeys.derive(self.app_key)
        return (self.space_id, self.key_id) == (keys.space_id, keys.key_id) and all(
            len(collection_id) == ID_BYTES and seq >= 0 for collection_id, seq in self.heads
        )


class Me(NamedTuple):
    """What this device is to the other one."""

    device_id: DeviceId
    device_pk: bytes
    app_id: str
    hub_url: str  # canonical, as dialled


# --- effects ---------------------------------------------------------------------------------


class Hand(NamedTuple):
    """Hand this frame to the other device."""

    body: bytes


class Show(NamedTuple):
    """The other device is there: show these six digits."""

    digits: str


class Named(NamedTuple):
    """To the giver: what the other device calls itself, of any characters, so show it with care.

    Where the other device showed the code, this says too that the digits were right there.
    """

    name: str


class Vouch(NamedTuple):
    """Enrol this device on the hub, then call ``vouched``."""

    device_id: DeviceId
    device_pk: bytes


class Take(NamedTuple):
    """Prove this device to the hub, make sure of the account, keep the key; then call ``taken``."""

    grant: Grant
    account_id: AccountId


class Paired(NamedTuple):
    """Both devices have the key."""


class Failed(NamedTuple):
    """It came to nothing: a name of ``FAULTS``."""

    name: str


Effect = Hand | Show | Named | Vouch | Take | Paired | Failed


# --- the two sides ---------------------------------------------------------------------------


class Side:
    """What both sides do alike."""

    has_key: bool

    def __init__(self, me: Me, fresh: Callable[[int], bytes], now: float, scanned: Scan | None = None) -> None:
        """``scanned`` is the other device's code, if this one did not show its own; ``fresh`` gives random bytes.

        ``now`` is steady time.  Raises ``WrongKeyCode`` for a code of another hub, or of
        a device that has the key when this one has it too.
        """
        if scanned:
            _check_scan(scanned, me, has_key=self.has_key)
        self._me = me
        self._scanned = scanned
        self._private_key = fresh(32)
        self._secret = scanned.secret if scanned else fresh(SECRET_BYTES)
        self._keys: PairingKeys | None = None
        self._heard: set[bytes] = set()
        self._confirmed = False
        self._ended = False
        self.ends_at = now + WITHIN_S
        self.public_key = crypto_scalarmult_base(self._private_key)
        self.channel = channel_of(self._secret)

    @property
    def code(self) -> str:
        """What to show when nothing was scanned."""
        assert self._scanned is None, "this device has scanned the other one's code"
        return pairing_code(self.public_key, self._secret, self._me.hub_url, has_key=self.has_key)

    def begin(self) -> list[Effect]:
        """The channel is open."""
        return [Hand(self._offer())] if self._scanned else []

    def received(self, body: bytes) -> list[Effect]:
        """A frame of the other device, or of somebody who says so."""
        if self._ended or body in self._heard:
            return []  # a frame may come twice
        self._heard.add(body)
        if body[:1] == bytes([_CANCEL]):
            return self._fail("cancelled", tell=False)
        try:
            return self._on_frame(body[0] if body else 0, body)
        except PairingFailed as fault:
            return self._fail(fault.name)

    def confirmed(self, digits: str) -> list[Effect]:
        """The person agrees, after ``Show``, and has typed the digits that the other device shows.

        The device that scanned knows whom it talks to; there ``digits`` may be empty.
        """
        if self._ended or self._confirmed:
            return []
        assert self._keys is not None, "there are no digits yet"
        given = "".join(letter for letter in digits if letter not in " -\u00a0")
        if (given or not self._scanned) and not hmac.compare_digest(given.encode(), self._keys.digits.encode()):
            return self._fail("wrong_digits")
        self._confirmed = True
        return self._go_on()

    def cancel(self) -> list[Effect]:
        """The person does not agree, or something else came in between."""
        return [] if self._ended else self._fail("cancelled")

    def timer_fired(self, now: float) -> list[Effect]:
        """It may be ``ends_at``."""
        return self._fail("expired") if now >= self.ends_at and not self._ended else []

    def _offer(self) -> bytes:
        raise NotImplementedError

    def _on_frame(self, kind: int, body: bytes) -> list[Effect]:
        raise NotImplementedError

    def _go_on(self) -> list[Effect]:
        raise NotImplementedError

    def _meet(self, public_key: bytes, transcript: Callable[[], Transcript]) -> PairingKeys:
        """The other device's offer has come.  Raises ``PairingFailed``."""
        if self._keys is not None:
            raise PairingFailed("two_devices")
        if self._scanned and public_key != self._scanned.public_key:
            raise PairingFailed("interfered")
        try:
            shared = crypto_scalarmult(self._private_key, public_key)
        except CryptoError:  # a point of low order: all would come out the same
            raise PairingFailed("interfered") from None
        self._keys = PairingKeys.derive(shared, self._secret, transcript())
        return self._keys

    def _end(self) -> list[Effect]:
        self._ended = True
        return [Paired()]

    def _fail(self, name: str, *, tell: bool = True) -> list[Effect]:
        self._ended = True
        return [*([Hand(bytes([_CANCEL]))] if tell else []), Failed(name)]


class Giver(Side):
    """The device that has the key, on an account it belongs to."""

    has_key = True

    def __init__(
        self,
        me: Me,
        account_id: AccountId,
        grant: Grant,
        fresh: Callable[[int], bytes],
        now: float,
        scanned: Scan | None = None,
    ) -> None:
        super().__init__(me, fresh, now, scanned)
        self._account_id = account_id
        self._grant = grant
        self._other: tuple[DeviceId, bytes] = (b"", b"")
        self._named = self._given = False

    def vouched(self) -> list[Effect]:
        """The hub has enrolled the other device, durably."""
        if self._ended:
            return []
        assert self._keys is not None and self._confirmed
        self._given = True
        return [Hand(bytes([_GRANT]) + _seal(self._keys.to_taker, msgspec.msgpack.encode(self._grant)))]

    def _offer(self) -> bytes:
        me = self._me
        packed = _GIVER.pack(_GIVER_OFFER, self.public_key, self._account_id, me.device_id, me.device_pk)
        return packed + me.app_id.encode()

    def _on_frame(self, kind: int, body: bytes) -> list[Effect]:
        if kind == _TAKER_OFFER:
            return self._on_offer(body)
        if kind == _NAME and self._keys and not self._named:
            return self._on_name(_open(self._keys.name, body[1:]).decode(errors="replace")[:LABEL_CHARS_MAX])
        if kind == _TAKEN and self._keys and self._given:
            if _open(self._keys.to_giver, body[1:]) != self._other[1]:
                raise PairingFailed("interfered")
            return self._end()
        raise PairingFailed("interfered")

    def _on_offer(self, body: bytes) -> list[Effect]:
        if len(body) != _TAKER.size:
            raise PairingFailed("interfered")
        me = self._me
        _, public_key, device_id, device_pk = _TAKER.unpack(body)
        keys = self._meet(
            public_key,
            lambda: Transcript(
                me.hub_url, self._scanned is None, self.public_key, public_key,
                self._account_id, me.device_id, me.device_pk, device_id, device_pk, me.app_id,
            ),
        )  # fmt: skip
        self._other = (device_id, device_pk)
        return [Show(keys.digits)] if self._scanned else [Hand(self._offer())]

    def _on_name(self, name: str) -> list[Effect]:
        assert self._keys is not None
        self._named = True
        # Only now is it sure that the digits mean anything to the device that scanned this one's code.
        shown: list[Effect] = [] if self._scanned else [Show(self._keys.digits)]
        return [*shown, Named(name), *(self._go_on() if self._confirmed else [])]

    def _go_on(self) -> list[Effect]:
        return [Vouch(*self._other)] if self._named else []


class Taker(Side):
    """The device that wants the key.  ``name`` is what its person calls it; the hub does not learn it."""

    has_key = False

    def __init__(
        self, me: Me, name: str, fresh: Callable[[int], bytes], now: float, scanned: Scan | None = None
    ) -> None:
        super().__init__(me, fresh, now, scanned)
        self._name = name[:LABEL_CHARS_MAX]
        self._account_id = b""
        self._held: Grant | None = None
        self._confirmed = scanned is not None  # the code it scanned says who gives the key

    def taken(self) -> list[Effect]:
        """The hub knows this device, in the right account, and the key is kept."""
        if self._ended:
            return []
        assert self._keys is not None and self._held is not None
        return [Hand(bytes([_TAKEN]) + _seal(self._keys.to_giver, self._me.device_pk)), *self._end()]

    def _offer(self) -> bytes:
        return _TAKER.pack(_TAKER_OFFER, self.public_key, self._me.device_id, self._me.device_pk)

    def _on_frame(self, kind: int, body: bytes) -> list[Effect]:
        if kind == _GIVER_OFFER:
            return self._on_offer(body)
        if kind == _GRANT and self._keys and self._confirmed and not self._held:
            self._held = _grant(_open(self._keys.to_taker, body[1:]))
            return [Take(self._held, self._account_id)]
        raise PairingFailed("interfered")

    def _on_offer(self, body: bytes) -> list[Effect]:
        if len(body) <= _GIVER.size:
            raise PairingFailed("interfered")
        me = self._me
        _, public_key, account_id, device_id, device_pk = _GIVER.unpack_from(body)
        if self._keys is None and body[_GIVER.size :] != me.app_id.encode():
            raise PairingFailed("other_app")
        keys = self._meet(
            public_key,
            lambda: Transcript(
                me.hub_url, self._scanned is not None, public_key, self.public_key,
                account_id, device_id, device_pk, me.device_id, me.device_pk, me.app_id,
            ),
        )  # fmt: skip
        self._account_id = account_id
        return [self._say_name() if self._scanned else Hand(self._offer()), Show(keys.digits)]

    def _say_name(self) -> Hand:
        assert self._keys is not None
        return Hand(bytes([_NAME]) + _seal(self._keys.name, self._name.encode(errors="replace")))

    def _go_on(self) -> list[Effect]:
        """The digits were compared: only now may the giver know, and enrol this device."""
        return [self._say_name()]


def _check_scan(scanned: Scan, me: Me, *, has_key: bool) -> None:
    if scanned.has_key and has_key:
        raise WrongKeyCode("Both devices have a key already; there is nothing to hand over.")
    if not scanned.has_key and not has_key:
        raise WrongKeyCode("Neither device has the key; scan the code of one that is signed in.")
    if scanned.host and scanned.host != urlsplit(me.hub_url).netloc:
        raise WrongKeyCode(f"That device uses another hub: {scanned.host}")


def _grant(packed: bytes) -> Grant:
    """Raises ``PairingFailed``."""
    try:
        grant = msgspec.msgpack.decode(packed, type=Grant)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise PairingFailed("interfered") from None
    if not grant.fits():
        raise PairingFailed("interfered")
    return grant
