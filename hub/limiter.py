"""How often something may happen: sliding windows, token buckets, and the table of limits on codes, without I/O.

Time comes in as ``now``, in seconds of any one clock.  Every answer is a wait: 0.0
means "yes, and it is counted", anything else the seconds until it would be.  What
is refused is not counted, so nobody prolongs a wait by asking again.  Memory is
bounded: beyond ``keys_max`` the keys that were quiet longest are forgotten.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

KEYS_MAX = 50_000


class Span(NamedTuple):
    """At most ``most`` times within ``seconds``."""

    most: int
    seconds: float


def wait_within(times: Sequence[float], spans: Iterable[Span], now: float) -> float:
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

    def wait(self, key: bytes, now: float) -> float:
        """Seconds until ``key`` may; nothing is counted."""
        times = self._times_by_key.get(key)
        return wait_within(times, self._spans, now) if times else 0.0

    def count(self, key: bytes, now: float) -> None:
        """Count one for ``key``, whether or not it may."""
        # Older times than these decide nothing.
        self._times_by_key.setdefault(key, deque(maxlen=self._most)).append(now)
        self._times_by_key.move_to_end(key)
        if len(self._times_by_key) > self._keys_max:
            self._times_by_key.popitem(last=False)

    def take(self, key: bytes, now: float) -> float:
        """Count one for ``key`` if it may."""
        return take_all([(self, key)], now)

    def __len__(self) -> int:
        return len(self._times_by_key)


def take_all(wanted: Sequence[tuple[SlidingWindow, bytes]], now: float) -> float:
    """Count one in every window, or in none: the longest wait of them."""
    wait = max((window.wait(key, now) for window, key in wanted), default=0.0)
    if not wait:
        for window, key in wanted:
            window.count(key, now)
    return wait


class TokenBucket:
    """Lets through ``rate_per_s`` in the long run and ``burst`` at once; for many events, in two numbers."""

    __slots__ = ("_burst", "_filled_at", "_rate", "_tokens")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._filled_at = now

    def take(self, now: float, amount: float = 1.0) -> float:
        """Use ``amount`` up if it is there.  More than ``burst`` at once counts as ``burst``."""
        amount = min(amount, self._burst)
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < amount:
            return (amount - self._tokens) / self._rate
        self._tokens -= amount
        return 0.0


class TokenBuckets:
    """One token bucket a key."""

    def __init__(self, rate_per_s: float, burst: float, keys_max: int = KEYS_MAX) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._keys_max = keys_max
        self._bucket_by_key: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def take(self, key: bytes, now: float, amount: float = 1.0) -> float:
        """As ``TokenBucket.take``, of this key's bucket."""
        bucket = self._bucket_by_key.get(key)
        if bucket is None:
            bucket = self._bucket_by_key[key] = TokenBucket(self._rate, self._burst, now)
            if len(self._bucket_by_key) > self._keys_max:
                self._bucket_by_key.popitem(last=False)
        self._bucket_by_key.move_to_end(key)
        return bucket.take(now, amount)

    def __len__(self) -> int:
        return len(self._bucket_by_key)


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


@dataclass(frozen=True, slots=True)
class CodeLimits:
    """How many codes may be asked for.  Every number is tested at n and n+1."""

    address: tuple[Span, ...] = (Span(3, 900.0), Span(5, HOUR_S), Span(10, DAY_S))  # 10 codes = 50 guesses a day
    open_per_address_max: int = 5  # attempts that have not expired
    near: tuple[Span, ...] = (Span(10, HOUR_S), Span(30, DAY_S))  # one IPv4 address or IPv6 /64
    wide: tuple[Span, ...] = (Span(60, HOUR_S),)  # one /24 or /48
    origin: tuple[Span, ...] = (Span(60, HOUR_S),)  # one web page; browsers cannot forge it
    hub: tuple[Span, ...] = (Span(100, HOUR_S),)
    accounts: tuple[Span, ...] = (Span(5, DAY_S),)  # new ones from one IPv4 address or IPv6 /64

    def stranger(self) -> tuple[Span, ...]:
        """What one network may use of an address's budget: half, so that a stranger cannot lock its owner out."""
        return tuple(Span(-(-span.most // 2), span.seconds) for span in self.address)


class CodeLimiter:
    """The limits that need no store: by sender, by network, by page, by hub, by mailbox.

    A mailbox is any bytes that stand for an address without its +tag and dots; the
    limiter never sees an address.
    """

    def __init__(self, limits: CodeLimits, keys_max: int = KEYS_MAX) -> None:
        self._near = SlidingWindow(limits.near, keys_max)
        self._wide = SlidingWindow(limits.wide, keys_max)
        self._origin = SlidingWindow(limits.origin, keys_max)
        self._hub = SlidingWindow(limits.hub, keys_max)
        self._mailbox = SlidingWindow(limits.address, keys_max)
        self._stranger = SlidingWindow(limits.stranger(), keys_max)
        self._accounts = SlidingWindow(limits.accounts, keys_max)

    def take_send(self, ip: str, origin: str, now: float) -> float:
        """One more sending of a code that was asked for before."""
        return take_all(self._sender(ip, origin), now)

    def take_attempt(self, ip: str, origin: str, mailbox: bytes, now: float) -> float:
        """One more code for this mailbox.

        The stranger's share goes by network: a single subscriber has many /64s.
        """
        stranger = mailbox + prefixes_of(ip).wide
        return take_all([*self._sender(ip, origin), (self._mailbox, mailbox), (self._stranger, stranger)], now)

    def take_account(self, ip: str, now: float) -> float:
        """One more new account."""
        return self._accounts.take(prefixes_of(ip).near, now)

    def _sender(self, ip: str, origin: str) -> list[tuple[SlidingWindow, bytes]]:
        prefixes = prefixes_of(ip)
        wanted = [(self._near, prefixes.near), (self._wide, prefixes.wide), (self._hub, b"")]
        # Programs that are no browser send no Origin; they are one page's visitors no more than one another's.
        return [*wanted, (self._origin, origin.encode())] if origin else wanted
