"""How often something may happen: sliding windows, token buckets, and the table of limits on codes, without I/O.

Time comes in as ``now``, in seconds of any one clock.  Every answer is a wait: 0.0
means "yes, and it is counted", anything else the seconds until it would be.  What
is refused is not counted, so nobody prolongs a wait by asking again.  Memory is
bounded: beyond ``keys_max`` the keys that were quiet longest are forgotten.

Limits on connections and messages guard one replica and are counted in it.  Limits on
codes guard people and mailboxes; here they are only named, and ``Store.spend`` counts.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hub.store import Charge
from hub.terms import Limits, Span

KEYS_MAX = 50_000


def wait_within(times: Sequence[float] | deque[float], spans: Iterable[Span], now: float) -> float:
    """Seconds until one more would fit all ``spans``, given the earlier ``times``, oldest first; 0.0 = now."""
    # The most-th newest must have left the span; when exactly is a property of that one time alone.
    waits = (times[-span.most] + span.seconds - now for span in spans if len(times) >= span.most)
    return max(0.0, max(waits, default=0.0))


class SlidingWindow:
    """Counts exactly, for few times: it remembers each within the longest span."""

    def __init__(self, spans: Sequence[Span], keys_max: int = KEYS_MAX) -> None:
        self._spans = tuple(spans)
        self._keys_max = keys_max
        self._most = max(span.most for span in spans)
        self._times_by_key: OrderedDict[bytes, deque[float]] = OrderedDict()

    def take(self, key: bytes, now: float) -> float:
        """Count one for ``key`` if it may."""
        # Older times than the last few decide nothing.
        times = self._times_by_key.get(key) or deque(maxlen=self._most)
        if wait := wait_within(times, self._spans, now):
            return wait
        times.append(now)
        self._times_by_key[key] = times
        self._times_by_key.move_to_end(key)
        if len(self._times_by_key) > self._keys_max:
            self._times_by_key.popitem(last=False)
        return 0.0

    def __len__(self) -> int:
        return len(self._times_by_key)


class Waiting:
    """Who was told to wait until when, so that asking again costs no second look."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._until_by_key: OrderedDict[bytes, float] = OrderedDict()

    def tell(self, key: bytes, until: float) -> None:
        """Remember that ``key`` was told so."""
        self._until_by_key[key] = until
        self._until_by_key.move_to_end(key)
        if len(self._until_by_key) > self._keys_max:
            self._until_by_key.popitem(last=False)

    def wait(self, key: bytes, now: float) -> float:
        """Seconds that ``key`` still has to wait, as far as is known here."""
        return max(0.0, self._until_by_key.get(key, now) - now)

    def __len__(self) -> int:
        return len(self._until_by_key)


class FrameBudget:
    """What one connection may send: frames and their bytes, each at a rate in the long run and a burst at once.

    Two token buckets in one call, since every frame is charged to both.
    """

    __slots__ = ("_bytes", "_filled_at", "_frames", "_limits")

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._frames: float = limits.messages_burst
        self._bytes: float = limits.bytes_burst
        self._filled_at = now

    def take(self, now: float, size: int) -> float:
        """Use one frame and ``size`` bytes if they are there.  More bytes than the burst count as the burst.

        A frame that one of the two refuses uses up its part of the other.
        """
        limits = self._limits
        passed_s = now - self._filled_at
        frames, left = self._frames, self._bytes
        if passed_s > 0:
            self._filled_at = now
            frames += passed_s * limits.messages_per_s
            if frames > limits.messages_burst:
                frames = limits.messages_burst
            left += passed_s * limits.bytes_per_s
            if left > limits.bytes_burst:
                left = limits.bytes_burst
        if size > limits.bytes_burst:
            size = limits.bytes_burst
        wait_s = 0.0
        if frames < 1.0:
            wait_s = (1.0 - frames) / limits.messages_per_s
        else:
            frames -= 1.0
        if left < size:
            wait_s = max(wait_s, (size - left) / limits.bytes_per_s)
        else:
            left -= size
        self._frames, self._bytes = frames, left
        return wait_s


# --- whose it is -----------------------------------------------------------------------------


class Prefixes(NamedTuple):
    """What one subscriber has (IPv4 address, IPv6 /64), and what one network has (/24, /48)."""

    near: bytes
    wide: bytes


def prefixes_of(ip: str) -> Prefixes:
    """The prefixes of an address as text; an IPv4 address mapped into IPv6 is the IPv4 address.

    What is no IP address (a Unix socket) is one subscriber of its own.
    """
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return Prefixes(b"?" + ip.encode(), b"?" + ip.encode())
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    packed = address.packed
    return Prefixes(packed, packed[:3]) if address.version == 4 else Prefixes(packed[:8], packed[:6])


# --- codes -----------------------------------------------------------------------------------

HOUR_S = 3_600.0
DAY_S = 86_400.0
KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class CodeLimits:
    """How many codes may be asked for.  Every number is tested at n and n+1."""

    address: tuple[Span, ...] = (Span(5, 900.0), Span(6, HOUR_S), Span(10, DAY_S))  # 10 codes = 50 guesses a day
    near: tuple[Span, ...] = (Span(10, HOUR_S), Span(30, DAY_S))  # one IPv4 address or IPv6 /64
    wide: tuple[Span, ...] = (Span(60, HOUR_S),)  # one /24 or /48
    origin: tuple[Span, ...] = (Span(60, HOUR_S),)  # one web page; browsers cannot forge it
    hub: tuple[Span, ...] = (Span(100, HOUR_S),)
    accounts: tuple[Span, ...] = (Span(5, DAY_S),)  # new ones from one IPv4 address or IPv6 /64
    pairings: tuple[Span, ...] = (Span(3, 180.0), Span(30, DAY_S))  # opened by an account's devices; each lasts 180 s
    newcomers: tuple[Span, ...] = (Span(20, HOUR_S),)  # to pairings, from one IPv4 address or IPv6 /64
    operator: tuple[Span, ...] = (Span(5, 900.0),)  # codes of an authenticator app, by account
    spaces: tuple[Span, ...] = (Span(100, DAY_S),)  # new ones of an account: each leaves a line in its audit list

    def stranger(self) -> tuple[Span, ...]:
        """What one network may use of an address's budget: half, so that a stranger cannot lock its owner out."""
        return tuple(Span(-(-span.most // 2), span.seconds) for span in self.address)

    def longest_s(self) -> float:
        """After so many seconds nothing that was counted decides anything."""
        every = (
            self.address, self.near, self.wide, self.origin, self.hub, self.accounts, self.pairings, self.newcomers,
            self.operator, self.spaces,
        )  # fmt: skip
        return max(span.seconds for spans in every for span in spans)


class CodeLimiter:
    """Which budgets a code is taken from; the store counts them, for all replicas and over restarts.

    The store sees keyed hashes only, each kind of budget by itself, under a key that
    all replicas share.  Whoever steals database and secrets can test which network
    asked for a code within the last day, but not which address did: that takes the
    slow hash for each guess, as the address tag does.
    """

    def __init__(self, limits: CodeLimits, internal_key: bytes) -> None:
        self._limits = limits
        self._key = hashlib.blake2b(b"limits", key=internal_key, digest_size=32).digest()

    def sender(self, ip: str, origin: str) -> list[Charge]:
        """What each sending of a code is taken from: the sender's budgets, its network's, its page's, the hub's."""
        prefixes = prefixes_of(ip)
        charges = [
            self._charge(b"near", prefixes.near, self._limits.near),
            self._charge(b"wide", prefixes.wide, self._limits.wide),
            self.hub(),
        ]
        # Programs that are no browser send no Origin; they are one page's visitors no more than one another's.
        return [*charges, self._charge(b"origin", origin.encode(), self._limits.origin)] if origin else charges

    def mailbox(self, ip: str, hashed: bytes) -> list[Charge]:
        """What a new code is taken from besides; ``hashed`` is the slow hash of the address without +tag and dots.

        The stranger's share goes by network: a single subscriber has many /64s.
        """
        return [
            self._charge(b"mailbox", hashed, self._limits.address),
            self._charge(b"stranger", hashed + prefixes_of(ip).wide, self._limits.stranger()),
        ]

    def account(self, ip: str) -> Charge:
        """What a new account is taken from."""
        return self._charge(b"accounts", prefixes_of(ip).near, self._limits.accounts)

    def pairing(self, account_id: bytes) -> Charge:
        """What a pairing that a device of this account opens is taken from."""
        return self._charge(b"pairings", account_id, self._limits.pairings)

    def newcomer(self, ip: str) -> Charge:
        """What a device that comes to a pairing without being known is taken from."""
        return self._charge(b"newcomers", prefixes_of(ip).near, self._limits.newcomers)

    def operator(self, account_id: bytes) -> Charge:
        """What a code of an authenticator app, typed for this account, is taken from."""
        return self._charge(b"operator", account_id, self._limits.operator)

    def space(self, account_id: bytes) -> Charge:
        """What a new space of this account is taken from."""
        return self._charge(b"spaces", account_id, self._limits.spaces)

    def hub(self) -> Charge:
        """What all codes are taken from."""
        return self._charge(b"hub", b"", self._limits.hub)

    def _charge(self, kind: bytes, what: bytes, spans: tuple[Span, ...]) -> Charge:
        return Charge(hashlib.blake2b(what, key=self._key, person=kind, digest_size=KEY_BYTES).digest(), spans)
