"""The client engine, one named example for each rule: what is sent, what is kept, and what the person is told."""

from __future__ import annotations

import pytest

from hub.client.device import Wiped
from hub.client.storage import MemoryStorage, SqliteStorage, State
from hub.client.strategies import MISSING, Conflict, last_writer_wins, manual, per_field
from hub.errors import REFUSALS
from hub.terms import Kind
from hub.wire import messages as m
from hub.wire.codec import decode_from_device, decode_from_hub
from hub.wire.header import parse_header
from tests.engine_hub import Line, World


@pytest.fixture
def heard(monkeypatch):
    """Every message that reached the hub, with the device it came from."""
    messages = []
    take = Line.take

    def take_and_note(line, frame):
        messages.append((line.device_id, decode_from_device(frame)))
        take(line, frame)

    monkeypatch.setattr(Line, "take", take_and_note)
    return messages


def synced(strategy=last_writer_wins, names="x"):
    """A world in which these devices have connected and nothing is under way."""
    world = World()
    peers = [world.peer(name, strategy) for name in names]
    world.settle()
    return world, *peers


def log_of(peer):
    return peer.world.hub.log(peer.collections["notes"].row.collection_id)


def rows(peer, key):
    return peer.storage.rows_of(peer.collections["notes"].n, key)


def under_way(peer):
    """The drafts on their way from the device to the hub."""
    messages = [decode_from_device(frame) for frame in peer.to_hub]
    return [sealed for message in messages if isinstance(message, m.Append) for sealed in message.drafts]


def drafts_in(heard, peer):
    appends = [message for device_id, message in heard if device_id == peer.device_id and isinstance(message, m.Append)]
    return [sealed for message in appends for sealed in message.drafts]


def on_its_way_to(peer, kind):
    messages = [decode_from_hub(frame) for frame in peer.line.out]
    return [message for message in messages if isinstance(message, kind)]


def push(peer):
    """Everything the device has to say reaches the hub, and no answer comes back yet."""
    while peer.step_out():
        pass


def where(peer):
    status = peer.status()
    return status.phase, status.unsynced, status.parked


# --- edits and their drafts ---


def test_a_second_edit_of_a_waiting_record_coalesces():
    world, x = synced()
    x.cut()
    first, second = x.put("a", 1), x.put("a", 2)
    assert first == second
    assert x.status().unsynced == 1
    world.settle()
    assert [header.change_id for header in world.hub.appended] == [first]
    assert x.items() == {"a": 2}


def test_a_record_that_never_left_the_device_is_taken_back_without_a_tombstone():
    world, x = synced()
    x.cut()
    x.put("a", 1)
    x.delete("a")
    world.settle()
    assert world.hub.appended == []
    assert x.get("a") is MISSING


@pytest.mark.parametrize("strategy", [last_writer_wins, per_field])
def test_an_edit_behind_a_sealed_one_has_it_as_its_base(strategy):
    world, x = synced(strategy)
    first = x.put("a", {"n": 1})
    second = x.put("a", {"n": 2})
    assert first != second
    world.quiesce()
    assert [(header.change_id, header.counter) for header in world.hub.appended] == [(first, 1), (second, 2)]
    assert world.hub.appended[1].base == first
    assert where(x) == ("synced", 0, 0)


@pytest.mark.parametrize("end", ["cut", "crash"])
@pytest.mark.parametrize("arrived", [False, True])
def test_a_sealed_draft_is_sent_again_byte_for_byte_and_is_in_the_log_once(end, arrived, heard):
    world, x = synced()
    change_id = x.put("a", 1)
    sealed = under_way(x)
    if arrived:
        push(x)
    getattr(x, end)()
    heard.clear()
    world.settle()
    assert drafts_in(heard, x) == sealed
    assert [header.change_id for header in world.hub.appended] == [change_id]
    assert list(log_of(x).kept.values()) == sealed
    assert where(x) == ("synced", 0, 0)


def test_an_edit_and_its_outbox_row_survive_a_crash():
    world, x = synced()
    x.cut()
    change_id = x.put("a", 1)
    x.crash()
    assert x.items() == {"a": 1}
    assert [(row.change_id, row.state) for row in rows(x, "a")] == [(change_id, State.WAITING)]
    assert where(x) == ("offline", 1, 0)
    world.settle()
    assert [header.change_id for header in world.hub.appended] == [change_id]


def test_an_edit_survives_in_the_file_when_it_is_opened_anew(tmp_path):
    world = World()
    x = world.peer("x", storage=SqliteStorage(tmp_path / "x"))
    x.put("a", 1)
    x.storage.close()
    x.storage = SqliteStorage(tmp_path / "x")
    x.crash()
    assert x.items() == {"a": 1}
    world.settle()
    assert where(x) == ("synced", 0, 0)
    x.storage.close()


def test_own_drafts_come_back_without_bytes_and_are_recognised():
    world, x = synced()
    change_id = x.put("a", 1)
    push(x)
    (changes,) = on_its_way_to(x, m.Changes)
    assert [change.sealed for change in changes.changes] == [b""]
    x.changed.clear()
    world.quiesce()
    assert rows(x, "a") == []
    assert x.storage.record(x.collections["notes"].n, "a").change_id == change_id
    assert x.changed == []
    assert where(x) == ("synced", 0, 0)


def test_own_drafts_whose_answer_was_lost_are_recognised_when_they_come_whole():
    world, x = synced()
    x.put("a", 1)
    sealed = under_way(x)
    push(x)
    x.cut()
    x.changed.clear()
    assert x.status().unsynced == 1
    world.hub.refuse_next = ["unavailable"]  # so that the answer to the second sending says nothing
    came = []
    x.connect()
    while x.step_out() or x.line.out:
        came += [change.sealed for changes in on_its_way_to(x, m.Changes) for change in changes.changes]
        x.step_in()
    assert set(came) == set(sealed)
    assert rows(x, "a") == []
    assert x.changed == []
    world.pass_time(70)
    assert len(world.hub.appended) == 1
    assert where(x) == ("synced", 0, 0)


# --- conflicts ---


def test_a_manual_conflict_parks_and_blocks_no_other_record_until_it_is_resolved():
    world, x, y = synced(manual, "xy")
    x.cut()
    y.put("a", "theirs")
    world.quiesce()
    x.put("a", "mine")
    x.put("b", 1)
    world.settle()
    assert where(x) == ("synced", 0, 1)
    assert x.collections["notes"].conflicts() == [Conflict("a", MISSING, "mine", "theirs")]
    assert (x.items(), y.items()) == ({"a": "mine", "b": 1}, {"a": "theirs", "b": 1})
    x.resolve("a", "both")
    world.quiesce()
    assert where(x) == ("synced", 0, 0)
    assert x.get("a") == y.get("a") == "both"


def test_only_a_parked_conflict_can_be_resolved():
    _world, x = synced(manual)
    x.put("a", 1)
    with pytest.raises(KeyError):
        x.resolve("a", 2)


def test_a_remote_change_of_a_waiting_record_is_merged_at_once(heard):
    world, x, y = synced(per_field, "xy")
    y.put("a", {"n": 1, "m": 1})
    world.quiesce()
    world.hub.refuse_next = ["unavailable"]
    x.put("b", {})  # refused: x holds back what it has for a second
    world.quiesce()
    x.put("a", {"n": 5, "m": 1})
    assert rows(x, "a")[0].state is State.WAITING
    theirs = y.put("a", {"n": 1, "m": 7})
    world.quiesce()
    assert rows(x, "a")[0].state is State.WAITING
    assert x.get("a") == {"n": 5, "m": 7}
    world.pass_time(2)
    assert y.get("a") == {"n": 5, "m": 7}
    assert [parse_header(sealed).base for sealed in drafts_in(heard, x)].count(theirs) == 1


@pytest.mark.parametrize(("strategy", "conditional"), [(last_writer_wins, False), (per_field, True), (manual, True)])
def test_only_last_writer_wins_appends_unconditionally(strategy, conditional):
    world, x = synced(strategy)
    x.put("a", {})
    world.quiesce()
    x.delete("a")
    world.quiesce()
    assert [header.conditional for header in world.hub.appended] == [conditional] * 2


def test_the_last_writer_wins_though_it_had_not_seen_the_other():
    world, x, y = synced(names="xy")
    y.put("a", "first")
    push(y)
    x.put("a", "last")
    world.quiesce()
    assert x.items() == y.items() == {"a": "last"}
    assert len(world.hub.appended) == 2


# --- refusals ---


def test_what_was_out_of_order_behind_a_refused_draft_is_sealed_anew():
    world, x, y = synced(manual, "xy")
    y.put("a", "theirs")
    push(y)
    x.put("a", "mine")
    behind = x.put("b", 1)
    first = under_way(x)[1]
    assert (parse_header(first).change_id, parse_header(first).counter) == (behind, 2)
    push(x)
    codes = [answer.code for appended in on_its_way_to(x, m.Appended) for answer in appended.answers]
    assert codes == ["conflict", "out_of_order"]
    world.quiesce()
    (again,) = [header for header in world.hub.appended if header.change_id == behind]
    assert again.counter == 1
    assert first not in log_of(x).kept.values()
    assert where(x) == ("synced", 0, 1)
    assert y.get("b") == 1


def test_an_edit_over_quota_is_kept_and_shown_and_goes_out_by_itself_when_there_is_room():
    world, x = synced()
    x.put("old", 1)
    world.quiesce()
    world.hub.full = True
    x.put("a", 1)
    world.quiesce()
    status = x.status()
    assert status.error == REFUSALS["quota_exceeded"].message
    assert (status.phase, status.unsynced) == ("sending", 1)
    assert x.get("a") == 1
    x.delete("old")  # frees room, so it does not wait
    world.quiesce()
    assert [header.kind for header in world.hub.appended] == [Kind.PUT, Kind.DELETE]
    world.hub.full = False
    world.pass_time(70)
    assert where(x) == ("synced", 0, 0)
    assert x.status().error == ""


def test_a_refusal_that_says_later_is_tried_again_later(heard):
    world, x = synced()
    world.hub.refuse_next = ["unavailable"]
    x.put("a", 1)
    world.quiesce()
    assert where(x) == ("sending", 1, 0)
    assert world.hub.appended == []
    world.pass_time(1.5)
    first, second = drafts_in(heard, x)
    assert first == second
    assert where(x) == ("synced", 0, 0)


# --- reading ---


def test_deltas_of_several_devices_merge():
    world, x, y = synced(manual, "xy")
    x.cut()
    y.cut()
    x.delta("doc", "from x")
    y.delta("doc", "from y")
    world.settle()
    assert x.collections["notes"].deltas("doc") == y.collections["notes"].deltas("doc")
    assert set(x.collections["notes"].deltas("doc")) == {"from x", "from y"}
    x.snapshot("doc", ["from x", "from y"])
    world.quiesce()
    assert y.get("doc") == ["from x", "from y"]
    assert y.collections["notes"].deltas("doc") == []
    assert where(x) == where(y) == ("synced", 0, 0)


def test_the_first_subscribe_is_live_only_and_a_compacted_log_arrives_whole(heard):
    world, x = synced()
    for value in range(4):
        for key in "abcde":
            x.put(key, value)
        world.quiesce()
    x.delete("e")
    x.delta("doc", 1)
    world.quiesce()
    world.hub.compact()
    y = world.peer("y")
    for _ in range(2):
        world.settle()
        y.cut()
    world.settle()
    cursors = [
        cursor
        for device_id, message in heard
        if device_id == y.device_id and isinstance(message, m.Subscribe)
        for cursor in message.cursors
    ]
    assert cursors[0].live_only
    assert cursors[0].seq == 0
    assert not cursors[-1].live_only
    assert cursors[-1].seq == log_of(x).head
    assert y.items() == x.items() == {"a": 3, "b": 3, "c": 3, "d": 3, "doc": MISSING}
    assert y.collections["notes"].deltas("doc") == [1]
    assert y.alarms() == []


def test_a_hub_restored_from_an_older_backup_is_healed_and_nothing_local_goes_away():
    world, x, y = synced(names="xy")
    x.put("a", 1)
    world.quiesce()
    backup = world.hub.backup()
    later = [x.put("a", 2), y.put("b", 1)]
    world.quiesce()
    for peer in world.peers:
        peer.cut()
    world.hub.restore(backup, b"J" * 16)
    world.settle()
    assert x.items() == y.items() == {"a": 2, "b": 1}
    assert where(x) == where(y) == ("synced", 0, 0)
    assert x.alarms() == y.alarms() == []
    kept = {parse_header(sealed).change_id for sealed in log_of(x).kept.values()}
    assert set(later) <= kept
    z = world.peer("z")
    world.settle()
    assert z.items() == x.items()


# --- off, on, and wiped ---


def test_a_wipe_by_another_device_keeps_local_data_and_turns_sync_off():
    world, x, y = synced(names="xy")
    x.put("a", 1)
    world.quiesce()
    y.carry_out(y.engine.start_wipe(world.now))
    world.quiesce()
    assert y.engine.wiping_done
    assert x.effects == [Wiped()]
    assert (x.line, x.status().phase) == (None, "off")
    assert not x.hangups[-1].retry
    assert x.items() == y.items() == {"a": 1}
    assert [parse_header(sealed).kind for sealed in log_of(x).kept.values()] == [Kind.WIPE]
    x.crash()
    assert x.status().phase == "off"
    x.carry_out(x.engine.turn_on(world.now))
    x.connect()
    world.quiesce()
    assert where(x) == ("synced", 0, 0)
    assert len(log_of(x).live) == 1


def test_edits_made_while_sync_is_off_go_out_when_it_is_turned_on():
    world, x = synced()
    x.carry_out(x.engine.turn_off())
    assert not x.hangups[-1].retry
    x.put("a", 1)
    x.connect()
    world.quiesce()
    assert where(x) == ("off", 1, 0)
    assert world.hub.appended == []
    x.cut()
    x.carry_out(x.engine.turn_on(world.now))
    assert where(x) == ("offline", 1, 0)
    world.settle()
    assert where(x) == ("synced", 0, 0)
    assert len(world.hub.appended) == 1


# --- time ---


def test_witnesses_are_sent_soon_after_acks():
    world, x, y = synced(names="xy")
    world.pass_time(10)
    log_of(x).witnesses.clear()
    x.put("a", 1)
    world.quiesce()
    assert log_of(x).witnesses == {}
    world.pass_time(2.5)
    assert list(log_of(x).witnesses) == [x.device_id]
    assert y.engine.witnessed_seqs(y.collections["notes"].n) == {x.device_id: log_of(x).head}
    world.pass_time(3)
    assert set(log_of(x).witnesses) == {x.device_id, y.device_id}


def test_a_connection_with_work_on_which_nothing_moves_is_aborted(heard):
    world, x = synced()
    x.put("a", 1)
    x.to_hub.clear()  # the hub never hears of it, and goes on answering pings
    world.pass_time(59)
    assert x.hangups == []
    assert any(isinstance(message, m.Ping) for _, message in heard)
    world.pass_time(2)
    assert [(hangup.reason, hangup.retry) for hangup in x.hangups] == [("there is work and nothing moves", True)]
    world.settle()
    assert where(x) == ("synced", 0, 0)


def test_a_connection_on_which_the_hub_is_silent_is_aborted():
    world, x = synced()
    x.line.take = lambda frame: None
    world.pass_time(34)
    assert x.hangups == []
    world.pass_time(2)
    assert [hangup.reason for hangup in x.hangups] == ["the hub does not answer"]


# --- the status ---


def test_the_status_says_where_an_edit_is_and_how_long_it_has_waited():
    world = World()
    x = world.peer("x", storage=MemoryStorage())
    status = x.status()
    assert (status.phase, status.unsynced, status.oldest_unsynced_age_s) == ("offline", 0, 0.0)
    assert (status.last_appended_at, status.head_seen_at, status.alarms, status.error) == (0.0, 0.0, (), "")
    change_id = x.put("a", 1)
    world.pass_time(30)
    x.put("b", 1)
    world.pass_time(12)
    status = x.status()
    assert (status.unsynced, status.oldest_unsynced_age_s, status.progress.remaining) == (2, 42.0, 2)
    assert not x.engine.is_appended(change_id)
    x.connect()
    assert x.status().phase == "connecting"
    seen = []
    while x.step_out() or x.step_in():
        seen.append(x.status().phase)
    assert list(dict.fromkeys(seen)) == ["connecting", "catching-up", "sending", "synced"]
    status = x.status()
    assert (status.unsynced, status.oldest_unsynced_age_s, status.progress.remaining) == (0, 0.0, 0)
    assert status.last_appended_at == status.head_seen_at == world.now.wall
    assert x.engine.is_appended(change_id)
    x.cut()
    assert where(x) == ("offline", 0, 0)


def test_turning_on_after_a_wipe_of_many_collections_is_said_once():
    world = World(7)
    x = world.peer("x", other=last_writer_wins)
    y = world.peer("y", other=last_writer_wins)
    x.put("k", 1)
    x.put("k", 2, collection="other")
    world.settle()
    assert y.items() == {"k": 1} and y.items("other") == {"k": 2}
    x.carry_out(x.engine.start_wipe(world.now))
    while x.step_out() or x.step_in():
        pass
    assert x.engine.wiping_done
    x.carry_out(x.engine.turn_off())
    while not y.engine.device.storage.setting("wiped"):
        assert y.step_out() or y.step_in()
    y.carry_out(y.engine.turn_on(world.now))  # with the wipe of the second collection still unread
    world.settle()
    world.pass_time(30)
    world.settle()
    assert y.engine.device.mode == "on" and y.status().phase == "synced"
    assert y.items() == {"k": 1} and y.items("other") == {"k": 2}
    fresh = world.peer("z", other=last_writer_wins)
    world.settle()
    assert fresh.items() == {"k": 1} and fresh.items("other") == {"k": 2}
    fresh.carry_out(fresh.engine.start_wipe(world.now))
    world.quiesce()
    assert y.engine.device.mode == "off"  # a later wipe is asked about anew
