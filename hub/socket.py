"""The transport of a session: whole messages in by plain calls, frames out once a turn of the loop.

The port is the `websockets` library's: it answers HTTP, upgrades, and carries out everything
rare.  Beside it stands one fast path for what a busy hub does all day.  A small masked binary
frame that is no fragment is taken apart here and handed over by a call, several out of one read;
outgoing frames are collected and written with one call a socket.  A message of 420 bytes in costs
1.0 us so, where the library with its queue and its coroutines takes 9; one out 1 to 2 where it takes 5.5.

The seam: the library is given whole frames, one at a time, and only those that are not such a
frame; from the first byte on that is wrong, and once a closing is under way, it is given
everything.  So it stands between two frames whenever the fast path looks at the stream, and its
limits, its answers to control frames and its closing codes are the ones that count.
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import Any, Protocol

from websockets.asyncio.messages import MAX_FRAGMENTS
from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, TEXT, CloseCode, Frame, Opcode
from websockets.protocol import Event, State

try:
    from websockets.speedups import apply_mask as unmasked
except ImportError:  # where the library was built without its part in C
    from websockets.utils import apply_mask as unmasked

WRITE_BYTES_MAX = 65_536  # handed to the transport at once, and what it may hold before frames wait here
EARLY_BYTES_MAX = 65_536  # behind a request that has no answer yet; nobody has a reason to send any

_REQUEST_ENDS = b"\r\n\r\n"
_OPCODES = frozenset(Opcode)
_WHOLE_BINARY = 0x82  # final, no reserved bits, binary
_MASKED_MIDDLE = 0x80 | 126  # masked, 126 to 65,535 bytes
_middle_head = Struct("!BBH").pack
_long_head = Struct("!BBQ").pack
_SHORT_HEADS = tuple(bytes((_WHOLE_BINARY, length)) for length in range(126))


class _NoMessages:
    """In the place of the library's queue of messages, in which none is put."""

    def close(self) -> None:
        """Nobody waits for one."""


_NO_MESSAGES = _NoMessages()


class Receiver(Protocol):
    """Whom a socket tells what happens; nothing here may block."""

    def received(self, message: bytes | str) -> None:
        """A message has come, in its order."""

    def sent(self, count: int) -> None:
        """Messages of ``count`` bytes together have left for the network, in the order of ``send_soon``."""

    def failed(self, exc: Exception) -> None:
        """One of the calls above raised; the socket does nothing more by itself."""

    def lost(self) -> None:
        """The connection is gone; nothing more is told."""


class Sockets:
    """The sockets of one port, and which of them have something to write."""

    def __init__(self) -> None:
        self.all: set[Socket] = set()  # also those that have not asked for anything yet
        self.closed = False  # True: who was accepted a moment before the port closed is cut off
        self._loop = asyncio.get_running_loop()
        self._to_write: list[Socket] = []

    def write_soon(self, socket: Socket) -> None:
        """Write what ``socket`` has by then, at the end of the loop's next turn."""
        if not self._to_write:
            # Two turns: the answers to a batch come in this one and its notices in the next, and leave together.
            self._loop.call_soon(self._loop.call_soon, self._write)
        self._to_write.append(socket)

    def _write(self) -> None:
        sockets, self._to_write = self._to_write, []
        for socket in sockets:
            socket.write()


class Socket(ServerConnection):
    """One connection; what it hears goes to its receiver from ``start`` on."""

    # The library's own attributes have just room in a dictionary that shares its keys with all others.
    __slots__ = (
        "_emptied",
        "_fragments",
        "_out",
        "_reading",
        "_receiver",
        "_rest",
        "_sockets",
        "_text",
        "_wanted",
        "held",
    )

    def __init__(self, *args: Any, sockets: Sockets, **options: Any) -> None:
        super().__init__(*args, **options)
        self.held = False  # True: no message is handed over, and soon nothing more is read
        self._sockets = sockets
        self._receiver: Receiver | None = None
        self._out: list[bytes] = []  # not empty: either ``sockets`` will write, or the transport is full
        self._emptied: asyncio.Future[None] | None = None
        self._rest = bytearray()  # read and not looked at
        self._wanted = 0  # so many bytes ``_rest`` needs before there is anything to see
        self._reading = True
        self._fragments: list[bytes] = []
        self._text = False  # the fragments are text

    # --- for the owner ---

    def start(self, receiver: Receiver) -> None:
        """Hand messages to ``receiver`` from now on, those that came already first."""
        self._receiver = receiver
        self._let_go()
        self.release()

    def allow(self, message_bytes_max: int) -> None:
        """From now on messages may have up to so many bytes."""
        # Semi-private in websockets 17; a test pins that it works.
        self.protocol.max_message_size = message_bytes_max

    def release(self) -> None:
        """Hand messages over again; what waited first, before this returns."""
        self.held = False
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
        if self._rest:
            self._wanted = 0
            self.data_received(b"")

    def send_soon(self, message: bytes) -> None:
        """Send a message with the next write; ``Receiver.sent`` tells when it has left."""
        if not self._out:
            self._sockets.write_soon(self)
        self._out.append(message)

    async def emptied(self) -> None:
        """Wait until everything has left for the network."""
        while self._out:
            self._emptied = self._emptied or self.loop.create_future()
            await asyncio.shield(self._emptied)

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Perform the closing handshake; who takes no part in it, or reads nothing any more, is cut off in time."""
        self.release()  # the other side's part may stand behind what waits
        try:
            # The library bounds the wait for the answer, but not for the room to ask.
            async with asyncio.timeout(self.close_timeout):
                await super().close(code, reason)
        except TimeoutError:
            self.transport.abort()
            await asyncio.shield(self.connection_lost_waiter)

    # --- in ---

    def data_received(self, data: bytes) -> None:
        """Take apart what was read; what is not for the fast path goes to the library."""
        if self._receiver is None:
            self._early(data)
            return
        if self._rest or self.held:
            self._rest += data
            if self.held:
                self._pause()
                return
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        if self.protocol.state is not State.OPEN:
            super().data_received(data)
            return
        if (taken := self._take(data)) < len(data):
            self._rest += data[taken:] if taken else data

    def _take(self, data: bytes) -> int:
        """Handle whole frames while they are wanted; how many bytes that were.  The fast path of receiving."""
        protocol = self.protocol
        size, at = len(data), 0
        if size > 8 and data[0] == _WHOLE_BINARY and data[1] == _MASKED_MIDDLE and protocol.current_size is None:
            length = data[2] << 8 | data[3]
            if size == length + 8 and length <= protocol.max_message_size:  # type: ignore[operator]
                # What nearly every read is: one such frame and nothing else.
                self._hand_over(data[8:], data[4:8])
                return size
        while not self.held and at < size:
            left = size - at
            if left < 2:
                self._wanted = 2
                break
            length, body = data[at + 1] - 0x80, at + 6
            if length == 126:
                if left < 4:
                    self._wanted = 4
                    break
                length, body = data[at + 2] << 8 | data[at + 3], at + 8
            elif length == 127:
                if left < 10:
                    self._wanted = 10
                    break
                length, body = int.from_bytes(data[at + 2 : at + 10]), at + 14
            within = protocol.current_size or 0  # of a message whose fragments are coming
            if not 0 <= length <= protocol.max_message_size - within:  # type: ignore[operator]
                super().data_received(data[at:])  # it is unmasked or too large: the library ends the connection
                return size
            end = body + length
            if end > size and data[at] & 0x0F in _OPCODES:
                self._wanted = end - at
                break
            if data[at] == _WHOLE_BINARY and protocol.current_size is None:
                self._hand_over(data[body:end], data[body - 4 : body])
                at = end
                continue
            super().data_received(data[at:end])
            at = end
            if protocol.state is not State.OPEN:
                return size  # what stands behind the end of a conversation is not part of it
        return at

    def _hand_over(self, masked: bytes, mask: bytes) -> None:
        try:
            self._receiver.received(unmasked(masked, mask))  # type: ignore[union-attr]
        except Exception as exc:
            self._fail(exc)

    def process_event(self, event: Event) -> None:
        """What the library has made of bytes it was given."""
        if not isinstance(event, Frame):
            super().process_event(event)
        elif event.opcode in DATA_OPCODES and self._receiver is not None:
            self._assemble(event)

    def _assemble(self, frame: Frame) -> None:
        """A text message, or a piece of a message."""
        if not self._fragments:
            self._text = frame.opcode is TEXT
        self._fragments.append(bytes(frame.data))
        if len(self._fragments) > MAX_FRAGMENTS:
            self._refuse(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
        elif frame.fin:
            whole, self._fragments = b"".join(self._fragments), []
            try:
                message = whole.decode() if self._text else whole
            except UnicodeDecodeError as exc:
                self._refuse(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}")
                return
            assert self._receiver is not None
            try:
                self._receiver.received(message)
            except Exception as exc:
                self._fail(exc)

    def _refuse(self, code: CloseCode, reason: str) -> None:
        self._fragments = []
        self.protocol.fail(code, reason)
        self.send_data()

    def _early(self, data: bytes) -> None:
        """Before ``start``: the request is the library's, what stands behind it waits.

        Frames that come before the answer to the request are against the rules of WebSocket, and kept all the same.
        """
        protocol = self.protocol
        if self.request is None and not protocol.eof_sent:
            seam = len(self._rest)  # the end of the request may be cut in two
            found = (bytes(self._rest) + data).find(_REQUEST_ENDS)
            end = len(data) if found < 0 else found + len(_REQUEST_ENDS) - seam
            self._rest[:] = (bytes(self._rest) + data[:end])[-3:] if found < 0 else b""
            super().data_received(data[:end])
            data = data[end:]
        if protocol.eof_sent or protocol.state in (State.CLOSING, State.CLOSED):
            waited = bytes(self._rest)
            self._rest.clear()
            super().data_received(waited + data)
        elif self.request is not None:
            self._rest += data
            if len(self._rest) > EARLY_BYTES_MAX:
                self.transport.abort()

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    # --- out ---

    def write(self) -> None:
        """Hand to the transport what waits, while it has room; called by ``Sockets``."""
        receiver = self._receiver
        if self.protocol.state is not State.OPEN or receiver is None:
            self._out.clear()  # the connection has ended, or is ending by the other side's will
        try:
            while self._out and not self.paused:
                frames, count = self._next_out()
                self.transport.write(frames)
                receiver.sent(count)  # type: ignore[union-attr]
        except Exception as exc:
            self._out.clear()
            self._fail(exc)
        if self._emptied and not self._out:
            self._emptied.set_result(None)
            self._emptied = None

    def _next_out(self) -> tuple[bytes, int]:
        """The frames of one write, and how many bytes their messages are together."""
        messages, self._out = self._out, []
        frames: list[bytes] = []
        count = 0
        for message in messages:
            length = len(message)
            if count and count + length > WRITE_BYTES_MAX:
                self._out = messages[len(frames) // 2 :]
                break
            count += length
            frames.append(_SHORT_HEADS[length] if length < 126 else _head(length))
            frames.append(message)
        return b"".join(frames), count

    def resume_writing(self) -> None:
        """The transport has room again."""
        super().resume_writing()
        if self._out:
            self._sockets.write_soon(self)

    def _fail(self, exc: Exception) -> None:
        self.held = True
        assert self._receiver is not None
        self._receiver.failed(exc)

    # --- beginning and end ---

    def _let_go(self) -> None:
        """Drop what only the opening needed: 5 KiB that an idle session would hold for days."""
        self.request = self.response = None
        # The parser's frame holds the request as well; it stands before the first frame, as a new one does.
        self.protocol.parser = self.protocol.parse()
        next(self.protocol.parser)
        self.recv_messages = _NO_MESSAGES  # type: ignore[assignment]
        self.drain_waiters = []  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The library takes the connection over."""
        super().connection_made(transport)
        self._sockets.all.add(self)
        if self._sockets.closed:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._sockets.all.discard(self)
        super().connection_lost(exc)
        if self._receiver is not None:
            self._receiver.lost()


def _head(length: int) -> bytes:
    """The head of a server's frame of 126 bytes or more: binary, whole, not masked."""
    if length < 65_536:
        return _middle_head(_WHOLE_BINARY, 126, length)
    return _long_head(_WHOLE_BINARY, 127, length)
