"""One connection to one Redis server, kept up: what this replica says goes out on it, what it hears comes in.

Both ways share a connection (RESP3 tells an answer from a message), so that there
is one state: it carries, or it does not.  Redis answers in the order it was asked;
every command waits in one line for its answer, and whatever stands there when
the connection ends did perhaps not get through.  Nothing is asked twice.

The library connects and logs in; what is said after that is written and read here, all
notices of one turn of the loop in one piece (``resp``).

A connection on which nothing is heard although something was asked is dead; it is
noticed within ``TICK_S * 2 + ANSWER_WITHIN_S`` whoever is silent: server, line, or firewall.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol, cast
from urllib.parse import SplitResult, urlsplit, urlunsplit

from msgspec import Struct
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from hub.bus.resp import Answers, Failure, Message, NotRedis, Push
from hub.terms import AccountId

CONNECT_WITHIN_S = 1.0  # with TLS and HELLO
ANSWER_WITHIN_S = 2.0  # Redis is one thread: a slow command of somebody else's holds everybody up
TICK_S = 0.5
AGAIN_AFTER_S_MIN = 0.1
AGAIN_AFTER_S_MAX = 0.5  # so that live is live again within two seconds of Redis being back
UNANSWERED_MAX = 10_000  # notices to one server, sent or not; beyond it they are dropped
UNANSWERED_BYTES_MAX = 8_388_608
READ_BYTES = 262_144  # at once

# A broken connection shows as any of these.
BROKEN = (RedisError, NotRedis, OSError, TimeoutError)


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


class Wire(Protocol):
    """What is used of redis-py's connection, which has no types of its own."""

    _reader: asyncio.StreamReader | None
    _writer: asyncio.StreamWriter | None

    async def connect(self) -> None:
        """Connect and say hello."""

    async def disconnect(self) -> None:
        """Close and wait until it is closed."""

    async def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None:
        """Write, and wait while the other side reads too slowly."""

    async def read_response(self, disable_decoding: bool = False) -> object:
        """The next answer; raises one that is an error."""


class Target:
    """What a URL says: the servers to begin with, whether they are a cluster, and how to log in."""

    def __init__(self, url: str) -> None:
        """Raises ``ValueError`` with a sentence that quotes nothing of the URL, which may hold a password."""
        parts = _split(url)
        scheme, _, suffix = parts.scheme.partition("+")
        self.cluster = suffix == "cluster"
        if scheme not in ("redis", "rediss") or suffix not in ("", "cluster"):
            raise ValueError("The URL of Redis must begin with redis://, rediss://, or one of these with +cluster.")
        login, _, hosts = parts.netloc.rpartition("@")
        if not self.cluster and "," in hosts:
            raise ValueError("The URL of Redis names several servers, but only that of a cluster may.")
        if not parts.path.strip("/").isdecimal() and parts.path.strip("/"):
            raise ValueError("The URL of Redis ends in something that is not the number of a database.")
        if self.cluster and parts.path.strip("/") not in ("", "0"):
            raise ValueError("The URL of Redis names a database, but a cluster has only number 0.")
        each = [
            urlunsplit((scheme, f"{login}@{host}" if login else host, parts.path, parts.query, ""))
            for host in hosts.split(",")
        ]
        options = [_options(url) for url in each]
        self.seeds = tuple(Address(str(one.pop("host")), cast(int, one.pop("port", 6379))) for one in options)
        self._options = options[0]
        self.connection(self.seeds[0])

    def connection(self, address: Address) -> Wire:
        """A connection to one server, not yet connected.  It has no deadlines and no retries: its user has."""
        kwargs = {name: value for name, value in self._options.items() if name != "connection_class"}
        make = cast(Callable[..., Wire], self._options.get("connection_class", Connection))
        try:
            return make(
                host=address.host,
                port=address.port,
                protocol=3,
                socket_timeout=None,
                socket_connect_timeout=CONNECT_WITHIN_S,
                # What it would tell the server about itself needs a right that a careful operator does not give.
                driver_info=None,
                **kwargs,
            )
        except (TypeError, RedisError):
            raise ValueError("The URL of Redis has an option that is not known.") from None


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise ValueError("The URL of Redis has a host that cannot be read.") from None


def _options(url: str) -> dict[str, object]:
    try:
        options = cast(dict[str, object], parse_url(url))
        port = options.get("port", 6379)
    except ValueError:
        raise ValueError("The URL of Redis has a port or an option that cannot be read.") from None
    if not options.get("host") or not isinstance(port, int):
        raise ValueError("The URL of Redis names no server.")
    for ours in ("protocol", "socket_timeout", "socket_connect_timeout", "driver_info"):
        options.pop(ours, None)
    return options


class Words(NamedTuple):
    """The commands of pub/sub: a cluster has its own."""

    publish: bytes
    subscribe: bytes
    unsubscribe: bytes


PLAIN = Words(b"PUBLISH", b"SUBSCRIBE", b"UNSUBSCRIBE")
SHARDED = Words(b"SPUBLISH", b"SSUBSCRIBE", b"SUNSUBSCRIBE")


class Asked(Struct, gc=False):
    """A command that waits for its answer.  One is made for every notice, so the collector is not told of them."""

    word: bytes
    at: float  # of the loop's clock
    channel: bytes = b""
    account_id: AccountId | None = None  # whom a notice concerns; None: every account
    size: int = 0  # of a notice
    answered: asyncio.Future[None] | None = None


class Ear(Protocol):
    """Whom a link tells what happens on it.  Plain calls; what they raise ends the connection."""

    async def came_up(self, link: Link) -> None:
        """It carries; commands may be given.  Cancelled when it breaks."""

    def went_down(self, link: Link, unsure: list[Asked], why: Exception) -> None:
        """It carries no more; ``unsure`` are the notices without an answer."""

    def failed(self, link: Link, why: Exception) -> None:
        """It could not be brought up; it is tried again."""

    def message(self, channel: bytes, parcel: bytes) -> None:
        """A notice came in."""

    def confirmed(self, link: Link, channel: bytes) -> None:
        """From here on the channel is heard."""

    def taken_away(self, link: Link, channel: bytes) -> None:
        """The server hears this channel no more for us: its slot has moved."""

    def published(self, notices: Sequence[Asked]) -> None:
        """Redis has passed these notices on."""

    def refused(self, link: Link, asked: Asked, error: ResponseError) -> None:
        """The server answered a command with an error."""


class Link:
    """Keeps a connection to one address up, until ``run`` is cancelled."""

    def __init__(self, address: Address, connection: Callable[[], Wire], words: Words, ear: Ear) -> None:
        self.address = address
        self.up = False
        self._connection = connection
        self._words = words
        self._publish_head = b"*3\r\n$%d\r\n%b\r\n" % (len(words.publish), words.publish)
        self._ear = ear
        self._unsent: list[bytes] = []
        self._more = asyncio.Event()
        self._asked: deque[Asked] = deque()
        self._notices = 0  # of those in _asked
        self._notice_bytes = 0
        self._heard_at = 0.0  # 0.0: not connected since the last end

    # --- commands: they only queue, on a link that is up ---

    def publish(self, channel: bytes, parcel: bytes, account_id: AccountId | None) -> bool:
        """Send, soon; False, and nothing is sent, when too much waits."""
        full = self._notices >= UNANSWERED_MAX or self._notice_bytes + len(parcel) > UNANSWERED_BYTES_MAX
        if full:
            return False
        self._notices += 1
        self._notice_bytes += len(parcel)
        packed = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (self._publish_head, len(channel), channel, len(parcel), parcel)
        self._ask(Asked(self._words.publish, _now(), channel, account_id, len(parcel)), packed)
        return True

    def subscribe(self, channel: bytes) -> None:
        """Hear this channel."""
        self._ask(Asked(self._words.subscribe, _now(), channel), _packed(self._words.subscribe, channel))

    def unsubscribe(self, channel: bytes) -> None:
        """Hear it no more."""
        self._ask(Asked(self._words.unsubscribe, _now(), channel), _packed(self._words.unsubscribe, channel))

    async def settled(self) -> None:
        """Wait until everything asked before is answered, or the connection has ended."""
        if self.up:
            answered = asyncio.get_running_loop().create_future()
            self._ask(Asked(b"PING", _now(), answered=answered), _packed(b"PING"))
            await answered

    def _ask(self, asked: Asked, packed: bytes) -> None:
        assert self.up, "asked on a link that is down"
        self._asked.append(asked)
        if not self._unsent:
            self._more.set()
        self._unsent.append(packed)

    # --- the connection ---

    async def run(self) -> None:
        """Connect, again and again; ends by cancellation only."""
        again_after_s = AGAIN_AFTER_S_MIN
        while True:
            started_at = _now()
            why: Exception = RedisError("no longer wanted")
            try:
                why = await self._live()
            finally:
                self._end(why)
            lived = _now() - started_at > CONNECT_WITHIN_S + TICK_S
            again_after_s = AGAIN_AFTER_S_MIN if lived else min(2 * again_after_s, AGAIN_AFTER_S_MAX)
            await asyncio.sleep(again_after_s * random.uniform(0.5, 1.0))  # so that replicas do not all come at once

    async def _live(self) -> Exception:
        """One connection from its first to its last moment; why it ended."""
        connection = self._connection()
        transport: asyncio.WriteTransport | None = None
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                await connection.connect()
            reader, writer = connection._reader, connection._writer
            assert reader and writer
            transport = writer.transport
            self.up, self._heard_at = True, _now()
            async with asyncio.TaskGroup() as work:
                work.create_task(self._read(reader))
                work.create_task(self._write(writer))
                work.create_task(self._watch())
                work.create_task(self._ear.came_up(self))
        except Exception as exc:  # of any kind: a bus that died of a surprise would be silent for ever
            return exc.exceptions[0] if isinstance(exc, ExceptionGroup) else exc
        finally:
            self.up = False
            # At once: to close politely, as the library does, waits for a peer that may never read what is unsent.
            if transport:
                transport.abort()
            await _hang_up(connection)
        raise AssertionError("a connection has no good end")

    def _end(self, why: Exception) -> None:
        unanswered = list(self._asked)
        self._asked.clear()
        self._unsent.clear()
        self._notices = self._notice_bytes = 0
        for asked in unanswered:
            _answer(asked)
        was_up, self._heard_at = self._heard_at > 0.0, 0.0
        if was_up:
            self._ear.went_down(self, [asked for asked in unanswered if asked.size], why)
        else:
            self._ear.failed(self, why)

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            # All that was asked since the last turn of the loop, such as the notices of one batch of appends.
            batch, self._unsent = self._unsent, []
            writer.write(b"".join(batch))
            await writer.drain()

    async def _watch(self) -> None:
        """Raise ``TimeoutError`` when the other side is silent."""
        while True:
            # When this process itself was held up, what came meanwhile is read before this goes on.
            await asyncio.sleep(TICK_S)
            now = _now()
            if not self._asked:
                self._ask(Asked(b"PING", now), _packed(b"PING"))
            elif now - max(self._asked[0].at, self._heard_at) > ANSWER_WITHIN_S:
                raise TimeoutError

    async def _read(self, reader: asyncio.StreamReader) -> None:
        answers = Answers()
        while data := await reader.read(READ_BYTES):
            self._heard_at = _now()
            self._take(answers.feed(data))
        raise RedisError("the server hung up")

    def _take(self, heard: Sequence[object]) -> None:
        published: list[Asked] = []
        for each in heard:
            if type(each) is Message:
                self._ear.message(each.channel, each.body)
            elif type(each) is int and self._asked and self._asked[0].size:
                published.append(self._next())
            elif type(each) is Push:
                self._take_push(each.parts)
            else:
                self._take_answer(each)
        if published:
            self._ear.published(published)

    def _take_push(self, push: Sequence[object]) -> None:
        kind, channel = (push[0], push[1]) if len(push) > 1 else (b"", b"")
        if not isinstance(kind, bytes) or not isinstance(channel, bytes):
            return  # nothing that was asked for
        kind = kind.upper()
        if kind == self._words.subscribe:
            self._next()
            self._ear.confirmed(self, channel)
        elif kind == self._words.unsubscribe:
            if self._asked and self._asked[0].word == kind and self._asked[0].channel == channel:
                self._next()
            else:
                self._ear.taken_away(self, channel)

    def _take_answer(self, answer: object) -> None:
        asked = self._next()
        if isinstance(answer, Failure):
            self._ear.refused(self, asked, _error(answer))
        _answer(asked)

    def _next(self) -> Asked:
        if not self._asked:
            raise RedisError("an answer to nothing")
        asked = self._asked.popleft()
        if asked.size:
            self._notices -= 1
            self._notice_bytes -= asked.size
        return asked


def _now() -> float:
    return asyncio.get_running_loop().time()


def _packed(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _error(failure: Failure) -> ResponseError:
    # What an operator has to mend has a name of its own in the log, which shows no sentences.
    kind = NoPermissionError if failure.sentence.startswith("NOPERM") else ResponseError
    return kind(failure.sentence)


def _answer(asked: Asked) -> None:
    if asked.answered and not asked.answered.done():
        asked.answered.set_result(None)


async def ask_once(connection: Wire, *words: bytes) -> object:
    """Connect, ask one thing, hang up.  Raises one of ``BROKEN``; the deadline is the caller's."""
    try:
        await connection.connect()
        await connection.send_packed_command([_packed(*words)], check_health=False)
        return await connection.read_response(disable_decoding=True)
    finally:
        await _hang_up(connection)


async def _hang_up(connection: Wire) -> None:
    with suppress(*BROKEN):
        await connection.disconnect()
