"""The history checker: a good history has no breach, and one edit makes exactly the breach it should."""

from __future__ import annotations

import pytest

from hub.terms import ZERO_ID, Kind
from hub.wire import messages as m
from hub.wire.header import FLAG_PADDED, Header
from tests.history import Answer, Change, Frame, Place, Recorder, Sent, Start, Violation, change_of, violations

LOG = b"c" * 16
LIFE = b"i" * 16


def change(device: Recorder, counter: int) -> Change:
    name = device.name.encode() + bytes([counter])
    return Change(name, device.device_id, counter, b"bytes of " + name)


def good() -> tuple[Recorder, Recorder]:
    """Two devices write three changes each: a writes 1, 2 and 5; b writes 3, 4 and 6, and b reconnects at 2."""
    a, b = Recorder("a", b"a" * 16), Recorder("b", b"b" * 16)
    a1, a2, a3 = (change(a, counter) for counter in (1, 2, 3))
    b1, b2, b3 = (change(b, counter) for counter in (1, 2, 3))
    a.notes = [
        Start(LOG, LIFE, 0),
        Sent(LOG, a1), Sent(LOG, a2), Answer(LOG, a1, 1), Answer(LOG, a2, 2),
        Frame(LOG, 0, 2, (Place(1, None), Place(2, None))),
        Frame(LOG, 2, 3, (Place(3, b1),)),
        Sent(LOG, a3),
        Frame(LOG, 3, 5, (Place(4, b2), Place(5, None))), Answer(LOG, a3, 5),
        Frame(LOG, 5, 6, (Place(6, b3),)),
    ]  # fmt: skip
    b.notes = [
        Start(LOG, LIFE, 0),
        Frame(LOG, 0, 2, (Place(1, a1), Place(2, a2))),
        Sent(LOG, b1), Sent(LOG, b2),
        # The answer was lost with the line; the same drafts go out again.
        Start(LOG, LIFE, 2),
        Sent(LOG, b1), Sent(LOG, b2), Answer(LOG, b1, 3), Answer(LOG, b2, 4),
        Frame(LOG, 2, 4, (Place(3, None), Place(4, None))),
        Sent(LOG, b3), Answer(LOG, b3, 6),
        Frame(LOG, 4, 6, (Place(5, a3), Place(6, None))),
    ]  # fmt: skip
    a.contents = b.contents = {"x": 1, "y": 2}
    a.written, b.written = {"x": 1}, {"y": 2}
    return a, b


def names(found: list[Violation]) -> set[str]:
    return {violation.name for violation in found}


def test_a_good_history_has_no_breach():
    assert violations(good()) == []


def edit(device, index, note):
    def apply(devices):
        devices[device].notes[index] = note(devices[device].notes[index], *devices)

    return apply


def drop(device, *indexes):
    def apply(devices):
        devices[device].notes[:] = [n for i, n in enumerate(devices[device].notes) if i not in indexes]

    return apply


def insert(device, index, note):
    def apply(devices):
        devices[device].notes.insert(index, note(*devices))

    return apply


def contents(device, **what):
    def apply(devices):
        devices[device].contents = {"x": 1, "y": 2} | what

    return apply


def both(**what):
    def apply(devices):
        for device in devices:
            device.contents = {"x": 1, "y": 2} | what

    return apply


def other(change):
    return change._replace(digest=b"other bytes")


EDITS = {
    "a frame leaves out a change that was acknowledged": (
        "lost",
        edit(1, 1, lambda n, a, b: n._replace(places=n.places[1:])),
    ),
    "the only frame with a change is empty": ("lost", edit(0, 6, lambda n, a, b: n._replace(places=()))),
    "the log goes on after a number that was never given": (
        "gap",
        insert(0, 11, lambda a, b: Frame(LOG, 6, 8, (Place(8, Change(b"z", b"z" * 16, 1, b"z")),))),
    ),
    "a change is in the log at two places": (
        "twice",
        insert(0, 11, lambda a, b: Frame(LOG, 6, 7, (Place(7, change(b, 1)),))),
    ),
    "two changes have the same counter": (
        "twice",
        insert(0, 11, lambda a, b: Frame(LOG, 6, 7, (Place(7, change(b, 3)._replace(change_id=b"new")),))),
    ),
    "a draft that is sent again is acknowledged with another seq": (
        "twice",
        insert(1, 9, lambda a, b: Answer(LOG, change(b, 1), 7)),
    ),
    "a draft is acknowledged where another change stands": (
        "moved",
        edit(1, 7, lambda n, a, b: n._replace(seq=2)),
    ),
    "a change arrives with other bytes than were acknowledged": (
        "swap",
        edit(1, 1, lambda n, a, b: n._replace(places=(Place(1, other(change(a, 1))), n.places[1]))),
    ),
    "two changes have changed places on one device": (
        "swap",
        edit(1, 1, lambda n, a, b: n._replace(places=(Place(1, change(a, 2)), Place(2, change(a, 1))))),
    ),
    "a device is told that another's change is its own": (
        "swap",
        edit(0, 6, lambda n, a, b: n._replace(places=(Place(3, None),))),
    ),
    "a change comes to all with bytes that its device never sent": (
        "forged",
        edit(1, 10, lambda n, a, b: Sent(LOG, other(change(b, 3)))),
    ),
    "a change that was refused as a conflict is kept": (
        "kept",
        insert(1, 4, lambda a, b: Answer(LOG, change(b, 1), 0, "conflict")),
    ),
    "a frame is missing": ("jump", drop(1, 9)),
    "a frame comes twice": ("jump", insert(0, 7, lambda a, b: Frame(LOG, 2, 3, (Place(3, change(b, 1)),)))),
    "a reconnect starts too late, and goes on from there": (
        "jump",
        lambda devices: (
            edit(1, 4, lambda n, a, b: n._replace(after=3))(devices),
            edit(1, 9, lambda n, a, b: Frame(LOG, 3, 4, n.places[1:]))(devices),
        ),
    ),
    "a reconnect starts too early and goes on where it was": (
        "jump",
        edit(1, 4, lambda n, a, b: n._replace(after=1)),
    ),
    "a frame is turned round": (
        "order",
        edit(1, 1, lambda n, a, b: n._replace(places=n.places[::-1])),
    ),
    "a frame holds what lies outside its range": (
        "order",
        edit(0, 6, lambda n, a, b: n._replace(places=(*n.places, Place(4, change(b, 2))))),
    ),
    "the log begins anew": ("life", edit(1, 4, lambda n, a, b: n._replace(incarnation=b"j" * 16))),
    "a device stops before the end": ("behind", drop(0, 10)),
    "two devices hold different values": ("content", contents(0, z=3)),
    "all devices have forgotten what was written last": ("expected", both(x=0)),
}


@pytest.mark.parametrize("what", EDITS)
def test_one_edit_makes_a_breach(what):
    name, apply = EDITS[what]
    devices = good()
    apply(devices)
    assert name in names(violations(devices))


def test_counters_that_do_not_rise_along_the_log_are_out_of_order():
    a, b = good()
    swapped = {1: 4, 2: 3}
    b.notes = [
        note._replace(seq=swapped[note.change.counter]) if isinstance(note, Answer) and note.seq in (3, 4) else note
        for note in b.notes
    ]
    a.notes[6:7] = [Frame(LOG, 2, 3, (Place(3, change(b, 2)),))]
    a.notes[8] = Frame(LOG, 3, 5, (Place(4, change(b, 1)), Place(5, None)))
    assert names(violations([a, b])) == {"order"}


def test_a_subscription_to_live_changes_only_may_leave_out_what_was_replaced():
    a, b = good()
    b.notes[0] = b.notes[0]._replace(live_only=True)
    b.notes[1] = b.notes[1]._replace(places=b.notes[1].places[1:])
    assert violations([a, b]) == []


def test_two_spaces_need_not_hold_the_same():
    a, b = good()
    a.space, b.space = "one", "other"
    a.contents, b.contents = {"x": 1}, {"y": 2}
    assert violations([a, b]) == []


# --- notes are taken from the wire -----------------------------------------------------------


def sealed(device_id: bytes, counter: int) -> bytes:
    change_id = bytes([counter]) * 16
    ids = (b"s" * 16, LOG, b"r" * 16, change_id, device_id)
    header = Header(1, 1, Kind.PUT, FLAG_PADDED, 0, *ids, counter, ZERO_ID)
    return header.pack() + bytes(24) + b"body" + bytes(16)


def test_a_recorder_notes_what_passes():
    device = Recorder("a", b"a" * 16)
    mine, theirs = sealed(b"a" * 16, 1), sealed(b"b" * 16, 1)
    device.tap("sent", m.Hello([1], b"a" * 16, bytes(32)))
    device.tap("sent", m.Subscribe(1, b"s" * 16, [m.CursorPart(LOG, LIFE, 4, True)]))
    device.tap("received", m.Subscribed(1, b"s" * 16, LIFE, [m.SubscribedPart(LOG, 6, 4)]))
    device.tap("sent", m.Append(2, b"s" * 16, [mine]))
    device.tap("received", m.Appended(2, b"s" * 16, [m.DraftAnswer(6)]))
    device.tap("received", m.Changes(b"s" * 16, LOG, 4, 6, 6, [m.ChangePart(5, 0, theirs), m.ChangePart(6, 0, b"")]))
    assert device.notes == [
        Start(LOG, LIFE, 4, True),
        Sent(LOG, change_of(mine)),
        Answer(LOG, change_of(mine), 6),
        Frame(LOG, 4, 6, (Place(5, change_of(theirs)), Place(6, None))),
    ]
    assert device.acknowledged == 1 and device.connections == 1 and device.count(Frame) == 1


def test_an_answer_belongs_to_the_request_of_its_own_connection():
    device = Recorder("a", b"a" * 16)
    first, second = sealed(b"a" * 16, 1), sealed(b"a" * 16, 2)
    device.tap("sent", m.Append(2, b"s" * 16, [first]))
    device.tap("closed", None)
    device.tap("sent", m.Append(2, b"s" * 16, [first, second]))
    device.tap("received", m.Appended(2, b"s" * 16, [m.DraftAnswer(1), m.DraftAnswer(code="conflict")]))
    assert device.notes[-2:] == [Answer(LOG, change_of(first), 1), Answer(LOG, change_of(second), 0, "conflict")]


def test_an_answer_to_a_request_of_an_earlier_connection_is_no_answer():
    device = Recorder("a", b"a" * 16)
    device.tap("sent", m.Append(2, b"s" * 16, [sealed(b"a" * 16, 1)]))
    device.tap("closed", None)
    with pytest.raises(KeyError):
        device.tap("received", m.Appended(2, b"s" * 16, [m.DraftAnswer(1)]))
