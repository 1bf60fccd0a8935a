"""The load generator counts right: against a real hub, and against a hub that does everything wrong."""

import contextlib
import ctypes
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import threading

import pytest

from hub.client.keys import SpaceKeys
from hub.wire import messages as m
from hub.wire.codec import decode_from_device, encode
from loadtest import driving, pump
from loadtest.dial import Line, collection_id
from loadtest.pump import BUCKETS, NoCompiler, Pump, Times
from loadtest.sealed import REQUEST_FIRST, SEALED_BYTES, record_key, seal_drafts
from loadtest.seed import SeededDevice

ACCOUNTS, DEVICES = 4, 3

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None, reason="cc is not on this machine: the load generator is compiled when it is wanted"
)


async def test_every_append_of_a_small_run_is_answered_once_and_delivered_to_all_others_and_a_client_opens_it():
    async with driving.ground(store="sqlite", accounts=ACCOUNTS, devices=DEVICES, check=True) as here:
        assert len(here.devices) == ACCOUNTS * DEVICES
        # Fewer drafts than the messages a device may say at once, and more than it can say in that time.
        async with driving.driven(here, 180) as running:
            open_loop = await driving.measured(here, running, 0.5, rate=400)
            first = running.times("delivery")
            closed_loop = await driving.measured(here, running, 0.1)
            notes = await driving.check(here, running, 0)
            total = running.total
            written = [running.written(index) for index in range(len(here.devices))]
            known = [running.upto(index) for index in range(len(here.devices))]
            second = running.times("ack")
    assert open_loop.notes == closed_loop.notes == []
    assert total["sent"] == total["acked"] == total["placed"] == sum(written) > 150
    assert total["delivered"] == (DEVICES - 1) * total["acked"]
    # The log of an account has each of its devices' drafts, and every device knows it to its head.
    heads = [sum(written[n : n + DEVICES]) for n in range(0, len(written), DEVICES)]
    assert known == [head for head in heads for _ in range(DEVICES)]
    assert notes == [f"a client of one account opened all of its {heads[0]} records, and they are what was sent"]
    assert open_loop.batched + closed_loop.batched <= total["acked"]
    # Each interval's times are of what began in it, whole after the drain.
    assert first.count + (DEVICES - 1) * second.count == total["delivered"]


async def test_overwrites_go_among_so_many_records():
    async with (
        driving.ground(store="sqlite", accounts=1, devices=2, check=True) as here,
        driving.driven(here, 40, records=7) as running,
    ):
        await driving.measured(here, running, 5.0)  # ends when the drafts are used up
        notes = await driving.check(here, running, 7)
    assert notes == ["a client of one account opened all of its 7 records, and they are what was sent"]


def test_records_that_are_missing_or_wrong_or_too_many_are_told():
    sent = {"one": {b"1"}, "two": {b"2", b"3"}, "three": {b"4"}}
    assert driving.differences({"one": b"1", "two": b"3", "three": b"4"}, sent) == []
    assert driving.differences({"one": b"2", "two": b"3", "four": b"4"}, sent) == [
        "FAULT: 2 of 3 records are not what was sent",
        "FAULT: 1 records that nobody sent",
    ]


# --- against a hub that does as the test says ------------------------------------------------


class Scripted:
    """Devices of one account whose hub is the test: it reads what they send, and says what it likes."""

    def __init__(self, devices: int, drafts: int) -> None:
        account_id, app_key = os.urandom(16), secrets.token_bytes(32)
        self.devices = [SeededDevice(account_id, os.urandom(16), os.urandom(32), app_key) for _ in range(devices)]
        self.keys = SpaceKeys.derive(app_key)
        self.drafts = seal_drafts(self.devices, drafts)
        pairs = [socket.socketpair() for _ in self.devices]
        for ours, theirs in pairs:
            ours.setblocking(False)
            theirs.settimeout(5.0)
        self.hub = [theirs for _, theirs in pairs]
        self.appends: list[m.Append] = []
        self._answering: list[threading.Thread] = []
        self.lines = [Line(each, ours, None, None, b"") for each, (ours, _) in zip(self.devices, pairs, strict=True)]

    def __enter__(self) -> "Scripted":
        self.pump = Pump(self.lines, self.drafts)
        return self

    def __exit__(self, *_: object) -> None:
        self.pump.close()
        for thread in self._answering:
            thread.join()
        for line in self.hub:
            line.close()

    def say(self, index: int, message: m.Message | bytes, *, opcode: int = 2) -> None:
        payload = message if isinstance(message, bytes) else encode(message)
        size = len(payload)
        head = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
        self.hub[index].sendall(bytes([0x80 | opcode]) + head + payload)

    def heard(self, index: int) -> bytes:
        """The payload of the next frame from a device."""
        line = self.hub[index]
        head = line.recv(2, socket.MSG_WAITALL)
        size = head[1] & 127
        if size == 126:
            size = int.from_bytes(line.recv(2, socket.MSG_WAITALL), "big")
        mask, masked = line.recv(4, socket.MSG_WAITALL), line.recv(size, socket.MSG_WAITALL)
        return bytes(byte ^ mask[at & 3] for at, byte in enumerate(masked))

    def append(self, index: int) -> m.Append:
        message = decode_from_device(self.heard(index))
        assert isinstance(message, m.Append)
        return message

    def answer(self, index: int, append: m.Append, **answer: object) -> None:
        self.say(index, m.Appended(append.request, append.space_id, [m.DraftAnswer(**answer)]))  # type: ignore[arg-type]

    def answer_all(self, index: int, *, after_s: float = 0.0) -> None:
        """Acknowledge whatever this device sends until it hangs up, beginning after so long."""

        def work() -> None:
            with contextlib.suppress(OSError, IndexError):
                for seq in itertools.count(1):
                    self.appends.append(self.append(index))
                    self.answer(index, self.appends[-1], seq=seq)

        self._answering.append(threading.Timer(after_s, work))
        self._answering[-1].start()

    def deliver(self, index: int, after: int, *changes: tuple[int, bytes], upto: int = 0) -> None:
        parts = [m.ChangePart(seq, 1, sealed) for seq, sealed in changes]
        upto = upto or changes[-1][0]
        self.say(index, m.Changes(self.keys.space_id, collection_id(self.keys), after, upto, upto, parts))

    def send_one_each(self) -> list[bytes]:
        """Every device sends one draft, unanswered; the sealed drafts."""
        self.pump.run(0.02)
        return [self.append(index).drafts[0] for index in range(len(self.hub))]

    def listen(self) -> dict[str, int]:
        """Let the devices read what was said; the counts of what they found."""
        return self.pump.rest(0.05).counts


def test_what_the_product_sealed_arrives_byte_for_byte_under_any_mask():
    with Scripted(2, 5) as hub:
        (one, two) = hub.send_one_each()
        assert len(one) == len(two) == SEALED_BYTES
        assert encode(m.Append(REQUEST_FIRST, hub.keys.space_id, [one])) == hub.drafts.pools[0][: hub.drafts.stride]
        assert two[72:88] == hub.devices[1].device_id


WRONGS = {
    "a seq is skipped between frames": ("gaps", lambda hub, sealed: hub.deliver(1, 1, (2, sealed))),
    "a seq is skipped inside a frame": ("gaps", lambda hub, sealed: hub.deliver(1, 0, (2, sealed))),
    "a frame ends behind its last change": ("gaps", lambda hub, sealed: hub.deliver(1, 0, (1, sealed), upto=2)),
    "a frame comes twice": ("duplicates", lambda hub, sealed: [hub.deliver(1, 0, (1, sealed)) for _ in range(2)]),
    "a change comes twice": ("duplicates", lambda hub, sealed: hub.deliver(1, 0, (1, sealed), (1, sealed))),
    "two devices hear two seqs of one change": (
        "mismatched",
        lambda hub, sealed: [hub.deliver(1, 0, (1, sealed)), hub.deliver(2, 0, (1, b""), (2, sealed))],
    ),
    "a change is cut": ("unknown", lambda hub, sealed: hub.deliver(1, 0, (1, sealed[:80]))),
    "a change is nobody's": (
        "unknown",
        lambda hub, sealed: hub.deliver(1, 0, (1, sealed[:64] + b"\xff" * 8 + sealed[72:])),
    ),
    "a change was never sent": (
        "unknown",
        lambda hub, sealed: hub.deliver(1, 0, (1, sealed[:71] + b"\4" + sealed[72:])),
    ),
    "a message is cut": ("unknown", lambda hub, sealed: hub.say(1, b"\x81\xa4type")),
    "a map has no end": ("unknown", lambda hub, sealed: hub.say(1, b"\xdf\xff\xff\xff\xff\xa4type\xa7changes")),
    "a frame is text": ("unknown", lambda hub, sealed: hub.say(1, b"text", opcode=1)),
    "it goes away": ("others", lambda hub, sealed: hub.say(1, m.GoingAway(1.0))),
    "it refuses": ("refused", lambda hub, sealed: hub.say(1, m.Refused(REQUEST_FIRST, "overloaded", "later"))),
    "it closes": ("closed", lambda hub, sealed: hub.say(1, (4008).to_bytes(2, "big"), opcode=8)),
    "it hangs up behind its last words": (
        "closed",
        lambda hub, sealed: [hub.deliver(1, 0, (1, sealed)), hub.hub[1].close()],
    ),
    "it hangs up": ("closed", lambda hub, sealed: hub.hub[1].close()),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_what_a_hub_does_wrong_is_counted(wrong):
    fault, do = WRONGS[wrong]
    with Scripted(3, 5) as hub:
        sealed = hub.send_one_each()[0]
        assert hub.pump.faults() == []
        do(hub, sealed)
        assert hub.listen()[fault] == 1
        assert hub.pump.faults()[0] == f"1 {fault}"


def test_an_answer_that_disagrees_with_a_delivery_is_counted():
    with Scripted(2, 5) as hub:
        hub.pump.run(0.02)
        append = hub.append(0)
        hub.answer(0, append, seq=2)
        hub.deliver(1, 0, (1, append.drafts[0]))
        assert hub.listen()["mismatched"] == 1


def test_a_device_whose_draft_is_refused_writes_no_more_and_the_first_refusal_is_kept():
    with Scripted(1, 5) as hub:
        hub.pump.run(0.02)
        hub.answer(0, hub.append(0), code="quota_exceeded")
        assert hub.pump.run(0.05).counts["sent"] == 0
        assert hub.pump.total["refused"] == 1
        assert "quota_exceeded" in hub.pump.odd
        assert not hub.pump.times("ack").count


def test_pings_of_both_kinds_are_answered():
    with Scripted(1, 5) as hub:
        hub.say(0, m.Ping([m.HeadPart(bytes(16), bytes(16), 7)]))
        hub.say(0, b"there?", opcode=9)
        assert hub.listen()["pings"] == 1
        assert decode_from_device(hub.heard(0)) == m.Pong()
        assert hub.heard(0) == b"there?"
        assert hub.pump.faults() == []


def test_a_message_may_come_in_any_pieces_and_with_keys_nobody_knows():
    with Scripted(2, 5) as hub:
        sealed = hub.send_one_each()[0]
        changes = encode(m.Changes(hub.keys.space_id, collection_id(hub.keys), 0, 1, 1, [m.ChangePart(1, 1, sealed)]))
        known = b"\x8b" + changes[1:] + b"\xa3new\x92\xcb" + bytes(8) + b"\xc3\xa1a\x80\xa1b\xc0\xa1c\xd0\x80"
        frame = b"\x82\x7e" + len(known).to_bytes(2, "big") + known
        for at in range(0, len(frame), 50):
            hub.hub[1].sendall(frame[at : at + 50])
            hub.pump.rest(0.002)
        hub.listen()
        assert (hub.pump.total["delivered"], hub.pump.faults()) == (1, [])


def test_times_of_an_open_loop_count_from_the_moment_that_was_intended():
    """The hub answers nothing for 300 ms: what was due meanwhile has waited, sent or not."""
    with Scripted(1, 200) as hub:
        hub.answer_all(0, after_s=0.3)
        hub.pump.run(0.2, rate=200)
        assert hub.pump.total["sent"] == 4  # the protocol's most in flight
        hub.pump.rest(0.6)
        ack = hub.pump.times("ack")
        assert ack.count == hub.pump.total["acked"] == hub.pump.written(0) > 10
        assert 0.25e9 < ack.max_ns < 0.8e9
        assert ack.ms(50) > 150


def test_a_run_ends_when_the_sealed_drafts_are_used_up_and_goes_on_with_new_ones():
    with Scripted(1, 3) as hub:
        hub.answer_all(0)
        assert hub.pump.run(5.0).dry
        assert hub.pump.drain(0.1) is False  # nobody delivered anything
        hub.pump.refill(seal_drafts(hub.devices, 2, first=[hub.pump.written(0)]))
        assert hub.pump.run(5.0).dry
        hub.pump.rest(0.1)
    counters = [int.from_bytes(append.drafts[0][88:96], "big") for append in hub.appends]
    assert counters == [1, 2, 3, 4, 5]
    assert hub.pump.total["acked"] == 5


def test_nothing_begins_behind_the_end_of_a_run():
    with Scripted(1, 3) as hub:
        assert hub.pump.run(0.0).counts["sent"] == 0
        assert hub.pump.run(0.0, rate=1_000).counts["sent"] == 0


def test_a_percentile_is_within_a_hundredth(tmp_path):
    source = tmp_path / "note.c"
    source.write_text(f'#include "{pump.SOURCE}"\nvoid note_lag(pump_t *p, uint64_t ns) {{ note(&p->lag, ns); }}\n')
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", tmp_path / "note.so", source, "-lm"], check=True)
    note = ctypes.CDLL(str(tmp_path / "note.so")).note_lag
    note.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    with Scripted(1, 2) as hub:
        for us in range(1, 10_001):
            note(hub.pump._pump, us * 1000)
        times = hub.pump.times("lag")
    assert (times.count, times.max_ns, times.mean_ns) == (10_000, 10_000_000, 5_000_500.0)
    for percent in (1, 50, 90, 99, 99.9, 100):
        assert times.ms(percent) == pytest.approx(percent / 10, rel=0.01)
    curve = times.curve(100)
    assert len(curve) <= 101 and curve[-1][1] == 1.0 and curve == sorted(curve)
    assert max(times.buckets) < BUCKETS
    assert Times(0, 0, 0.0, {}).ms(99) == 0.0


def test_records_of_different_devices_differ_unless_they_shall_be_shared():
    assert record_key(1, 5, 0) != record_key(2, 5, 0)
    assert record_key(1, 5, 3) == record_key(2, 8, 3)


def test_without_a_compiler_a_sentence_says_so(monkeypatch):
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoCompiler, match="no C compiler"):
        pump._library.__wrapped__()
