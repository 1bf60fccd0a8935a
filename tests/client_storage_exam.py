"""The exam of a device's storage: every promise of ``hub.client.storage`` as a test that any keeper can sit.

A keeper is examined by a class that says how it is made:

    class TestMyStorage(ClientStorageExam):
        def make(self): ...
"""

from __future__ import annotations

import msgspec
import pytest

from hub.client.check import LiveEntry
from hub.client.storage import Backlog, CollectionRow, DeltaRow, OutboxRow, RecordRow, State, StoredAlarm
from hub.terms import FREEING_KINDS, ZERO_ID, Kind


def cid(number):
    return number.to_bytes(16, "big")


def edit(number, *, collection=1, key="a", kind=Kind.PUT, **fields):
    return OutboxRow(collection=collection, key=key, change_id=cid(number), kind=kind, **fields)


def alarm(name, at=0.0):
    return StoredAlarm(name, "notes", f"why {name}", 7, at)


def numbers(rows):
    return [int.from_bytes(row.change_id, "big") for row in rows]


def keys(rows):
    return [row.key for row in rows]


def fill(storage):
    """Something in every table."""
    storage.set_setting("name", b"old")
    row = storage.add_collection("notes", cid(900))
    storage.save_record(row.n, RecordRow(key="a", value=b"old", change_id=cid(1), seq=1))
    storage.save_delta(row.n, "a", DeltaRow(cid(2), 2, b"delta"))
    storage.add_row(edit(3, value=b"old", written_at=5.0))
    storage.live_set(row.n).put(cid(50), [LiveEntry(cid(1), 1, Kind.PUT)])
    storage.add_alarm(alarm("first"))


def change_everything(storage):
    """Replace, add and drop in every table that ``fill`` filled."""
    (collection,) = storage.collections()
    (row,) = storage.rows_of(collection.n, "a")
    storage.set_setting("name", b"new")
    storage.set_setting("name", None)
    storage.set_setting("other", b"new")
    storage.save_collection(msgspec.structs.replace(collection, seq=99))
    storage.add_collection("more", None)
    storage.save_record(collection.n, RecordRow(key="a", value=b"new"))
    storage.save_record(collection.n, RecordRow(key="b"))
    storage.save_delta(collection.n, "b", DeltaRow(cid(4), 4, b"delta"))
    storage.drop_record(collection.n, "a")
    storage.save_row(msgspec.structs.replace(row, state=State.SEALED))
    storage.drop_row(row.n)
    storage.add_row(edit(5, key="b"))
    storage.live_set(collection.n).clear()
    storage.live_set(collection.n).put(cid(51), [LiveEntry(cid(4), 4, Kind.DELETE)])
    storage.clear_alarms()
    storage.add_alarm(alarm("second"))


def everything(storage):
    """All that a storage with the records ``a`` and ``b`` can be asked for."""
    return {
        "settings": [storage.setting(name) for name in ("name", "other")],
        "collections": storage.collections(),
        "records": [storage.records(n) for n in (1, 2)],
        "deltas": [storage.deltas(1, key) for key in "ab"],
        "outbox": [storage.rows_of(1, key) for key in "ab"],
        "live": [storage.live_set(1).get(cid(n)) for n in (50, 51)],
        "count": storage.live_set(1).count(),
        "alarms": storage.alarms(),
        "backlog": storage.backlog(),
    }


class Stop(Exception):
    """Leaves a transaction."""


class ClientStorageExam:
    def make(self):
        raise NotImplementedError

    @pytest.fixture
    def storage(self):
        storage = self.make()
        yield storage
        storage.close()

    # --- transactions ------------------------------------------------------------------------

    def test_a_transaction_keeps_all_it_wrote(self, storage):
        with storage.transaction():
            fill(storage)
        before = everything(storage)
        with storage.transaction():
            change_everything(storage)
            inside = everything(storage)
        after = everything(storage)
        assert after == inside
        assert all(after[name] != before[name] for name in before if name not in ("count", "backlog"))

    @pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
    def test_a_transaction_that_an_exception_leaves_changes_nothing(self, storage, error):
        fill(storage)
        before = everything(storage)
        with pytest.raises(error), storage.transaction():
            change_everything(storage)
            raise error
        assert everything(storage) == before

    def test_alarms_come_back_in_their_order_when_clearing_them_is_taken_back(self, storage):
        kept = [alarm("first", 1.0), alarm("second", 2.0), alarm("third", 3.0)]
        for one in kept:
            storage.add_alarm(one)
        with pytest.raises(Stop), storage.transaction():
            storage.clear_alarms()
            raise Stop
        assert storage.alarms() == kept

    def test_a_transaction_inside_another_goes_when_the_outer_fails(self, storage):
        fill(storage)
        before = everything(storage)
        with pytest.raises(Stop), storage.transaction():
            with storage.transaction():
                change_everything(storage)
            raise Stop
        assert everything(storage) == before

    def test_a_failed_transaction_inside_another_is_part_of_the_outer_which_decides(self, storage):
        with storage.transaction():
            storage.set_setting("outer", b"1")
            with pytest.raises(Stop), storage.transaction():
                storage.set_setting("inner", b"2")
                raise Stop
            storage.set_setting("later", b"3")
        assert [storage.setting(name) for name in ("outer", "inner", "later")] == [b"1", b"2", b"3"]

    def test_after_a_failed_transaction_the_next_one_works(self, storage):
        for _ in range(2):
            with pytest.raises(Stop), storage.transaction():
                storage.set_setting("name", b"lost")
                raise Stop
        with storage.transaction():
            storage.set_setting("other", b"kept")
        assert (storage.setting("name"), storage.setting("other")) == (None, b"kept")

    # --- settings and collections ------------------------------------------------------------

    def test_a_setting_is_kept_replaced_and_forgotten(self, storage):
        assert storage.setting("name") is None
        for value in (b"one", b"", b"\x00\xff"):
            storage.set_setting("name", value)
            assert storage.setting("name") == value
        storage.set_setting("name", None)
        storage.set_setting("never set", None)
        assert storage.setting("name") is None

    def test_collections_come_back_in_the_order_they_were_added(self, storage):
        added = [storage.add_collection(*given) for given in [("z", cid(1)), (None, cid(2)), ("a", None)]]
        assert [(row.name, row.collection_id) for row in added] == [("z", cid(1)), (None, cid(2)), ("a", None)]
        assert len({row.n for row in added}) == 3
        storage.save_collection(msgspec.structs.replace(added[0], seq=5))
        assert [row.n for row in storage.collections()] == [row.n for row in added]

    @pytest.mark.parametrize("given", [("notes", None), (None, cid(1)), ("notes", cid(2)), ("more", cid(1))])
    def test_a_name_or_an_id_belongs_to_one_collection(self, storage, given):
        first = storage.add_collection("notes", cid(1))
        other = storage.add_collection("other", cid(9))
        with pytest.raises(ValueError), storage.transaction():
            storage.set_setting("name", b"value")
            storage.add_collection(*given)
        with pytest.raises(ValueError):
            storage.save_collection(msgspec.structs.replace(other, name="notes"))
        with pytest.raises(ValueError):
            storage.save_collection(msgspec.structs.replace(other, collection_id=cid(1)))
        assert storage.collections() == [first, other]
        assert storage.setting("name") is None
        assert storage.add_collection("third", None).n not in (first.n, other.n)

    def test_many_collections_may_be_without_a_name_or_an_id(self, storage):
        added = [storage.add_collection(None, None) for _ in range(3)]
        assert storage.collections() == added

    def test_every_field_of_a_collection_is_kept(self, storage):
        n = storage.add_collection(None, None).n
        row = CollectionRow(
            n=n, name="notes", collection_id=cid(1), incarnation=cid(2), seq=3, caught_up=True, healing=True, counter=4,
            answered=5, witness_counter=6, witness_seq=7, check=b"state", alarm="forked",
        )  # fmt: skip
        storage.save_collection(row)
        assert storage.collections() == [row]

    # --- records and deltas ------------------------------------------------------------------

    def test_every_field_of_a_record_is_kept(self, storage):
        row = RecordRow(
            key="a", value=b"v", change_id=cid(1), seq=2, ancestors=cid(3), local=b"", dirty=True, former=cid(4),
            seen=cid(5) + cid(6),
        )  # fmt: skip
        storage.save_record(1, row)
        assert storage.record(1, "a") == row
        storage.save_record(1, RecordRow(key="a"))
        assert storage.record(1, "a") == RecordRow(key="a")

    def test_a_person_sees_the_local_body_of_a_dirty_record_alone(self):
        assert RecordRow(key="a", value=b"v", local=b"l").view == b"v"
        assert RecordRow(key="a", value=b"v", local=b"l", dirty=True).view == b"l"
        assert RecordRow(key="a", value=b"v", dirty=True).view is None

    def test_records_come_back_by_key_and_by_collection_empty_ones_too(self, storage):
        given = ["b", "", "a", "é", "Z", "\U0001f600", "\uffee"]
        for key in given:
            storage.save_record(1, RecordRow(key=key))
        storage.save_record(2, RecordRow(key="elsewhere"))
        assert keys(storage.records(1)) == sorted(given)
        assert keys(storage.records(2)) == ["elsewhere"]
        assert storage.records(3) == []
        assert storage.record(2, "a") is None

    def test_a_dropped_record_takes_its_deltas_along_and_no_others(self, storage):
        for collection, key in [(1, "a"), (1, "b"), (2, "a")]:
            storage.save_record(collection, RecordRow(key=key))
            storage.save_delta(collection, key, DeltaRow(cid(1), 1, b"x"))
            storage.save_delta(collection, key, DeltaRow(cid(2), 0, b"x"))
        storage.drop_record(1, "a")
        storage.drop_record(1, "unknown")
        assert (storage.record(1, "a"), storage.deltas(1, "a")) == (None, [])
        assert len(storage.deltas(1, "b")) == len(storage.deltas(2, "a")) == 2
        assert keys(storage.records(1)) == ["b"]

    def test_formers_are_the_records_with_a_former(self, storage):
        storage.save_record(1, RecordRow(key="b", former=cid(1)))
        storage.save_record(1, RecordRow(key="a", former=cid(2)))
        storage.save_record(1, RecordRow(key="c"))
        storage.save_record(2, RecordRow(key="d", former=cid(3)))
        assert keys(storage.formers(1)) == ["a", "b"]

    def test_tombstones_are_confirmed_deletes_up_to_a_seq(self, storage):
        storage.save_record(1, RecordRow(key="below", seq=4))
        storage.save_record(1, RecordRow(key="at", seq=5, local=b"edited since", dirty=True))
        storage.save_record(1, RecordRow(key="above", seq=6))
        storage.save_record(1, RecordRow(key="full", seq=3, value=b""))
        storage.save_record(1, RecordRow(key="not in the log", local=b"new", dirty=True))
        storage.save_record(2, RecordRow(key="elsewhere", seq=1))
        assert keys(storage.tombstones(1, 5)) == ["at", "below"]

    def test_a_confirmed_change_is_found_by_its_id(self, storage):
        storage.save_record(1, RecordRow(key="a", change_id=cid(1), seq=4))
        storage.save_record(2, RecordRow(key="a", change_id=cid(2), seq=5))
        storage.save_record(2, RecordRow(key="b"))
        assert storage.find_change(cid(1)) == (1, 4)
        assert storage.find_change(cid(2)) == (2, 5)
        assert storage.find_change(cid(3)) is None
        assert storage.find_change(ZERO_ID) is None

    def test_deltas_come_back_in_seq_order_and_one_with_the_same_change_is_replaced(self, storage):
        for number, seq in [(3, 9), (1, 0), (2, 5)]:
            storage.save_delta(1, "a", DeltaRow(cid(number), seq, b"old"))
        assert [delta.seq for delta in storage.deltas(1, "a")] == [0, 5, 9]
        storage.save_delta(1, "a", DeltaRow(cid(1), 12, b"new"))
        assert storage.deltas(1, "a") == [
            DeltaRow(cid(2), 5, b"old"),
            DeltaRow(cid(3), 9, b"old"),
            DeltaRow(cid(1), 12, b"new"),
        ]

    def test_deltas_not_yet_seen_stay_when_only_confirmed_ones_are_dropped(self, storage):
        storage.save_delta(1, "a", DeltaRow(cid(1), 0, b"x"))
        storage.save_delta(1, "a", DeltaRow(cid(2), 1, b"y"))
        storage.save_delta(1, "b", DeltaRow(cid(3), 1, b"z"))
        storage.drop_deltas(1, "a", confirmed_only=True)
        assert storage.deltas(1, "a") == [DeltaRow(cid(1), 0, b"x")]
        storage.drop_deltas(1, "a", confirmed_only=False)
        assert storage.deltas(1, "a") == []
        assert len(storage.deltas(1, "b")) == 1

    # --- the outbox --------------------------------------------------------------------------

    def test_every_field_of_an_outbox_row_is_kept(self, storage):
        row = storage.add_row(
            edit(
                1,
                kind=Kind.DELTA,
                state=State.PARKED,
                conditional=False,
                snapshot=True,
                base_value=b"",
                value=b"v",
                counter=2,
                sealed=b"s",
                seq=3,
                need_seq=4,
                reason="why",
                stands_for=cid(5),
                written_at=6.5,
            )
        )
        assert row.n > 0
        assert storage.row(row.n) == row
        assert isinstance(storage.row(row.n).kind, Kind)

    def test_rows_come_back_in_the_order_they_were_added_and_keep_their_place(self, storage):
        rows = [storage.add_row(edit(number)) for number in (3, 1, 2)]
        storage.save_row(msgspec.structs.replace(rows[0], value=b"changed"))
        assert numbers(storage.rows_of(1, "a")) == [3, 1, 2]
        assert numbers(storage.rows_in(1, State.WAITING)) == [3, 1, 2]
        assert storage.row(rows[0].n).value == b"changed"

    def test_a_place_is_never_given_twice(self, storage):
        first, second = storage.add_row(edit(1)), storage.add_row(edit(2))
        storage.drop_row(second.n)
        assert storage.row(second.n) is None
        third = storage.add_row(edit(3))
        assert first.n < second.n < third.n

    def test_rows_are_found_by_record(self, storage):
        for number, collection, key in [(1, 1, "a"), (2, 1, "b"), (3, 2, "a"), (4, 1, "a"), (5, 1, "")]:
            storage.add_row(edit(number, collection=collection, key=key))
        assert numbers(storage.rows_of(1, "a")) == [1, 4]
        assert numbers(storage.rows_of(1, "")) == [5]
        assert storage.rows_of(3, "a") == []

    @pytest.mark.parametrize("state", State)
    def test_rows_are_found_by_state_also_when_they_change_it(self, storage, state):
        rows = [storage.add_row(edit(number, state=given)) for number, given in enumerate(State)]
        storage.add_row(edit(90, collection=2, state=state))
        assert numbers(storage.rows_in(1, state)) == [int(state)]
        for row in rows:
            storage.save_row(msgspec.structs.replace(row, state=state))
        assert numbers(storage.rows_in(1, state)) == [0, 1, 2, 3, 4]
        assert all(row.state is state for row in storage.rows_in(1, state))

    def test_a_row_is_found_by_its_change_and_by_those_it_stands_for(self, storage):
        row = storage.add_row(edit(1, stands_for=cid(2) + cid(3)))
        other = storage.add_row(edit(4))
        assert [storage.row_of_change(cid(number)) for number in (1, 2, 3, 4)] == [row, row, row, other]
        assert storage.row_of_change(cid(5)) is None

    def test_a_row_does_not_stand_for_what_only_lies_across_two_ids(self, storage):
        storage.add_row(edit(1, stands_for=bytes(range(32))))
        assert storage.row_of_change(bytes(range(8, 24))) is None
        assert storage.row_of_change(bytes(range(16, 32))) is not None

    def test_waiting_rows_come_in_order_from_these_collections_behind_a_place_up_to_a_limit(self, storage):
        rows = [storage.add_row(edit(number, collection=1 + number % 3)) for number in range(9)]
        storage.save_row(msgspec.structs.replace(rows[3], state=State.SEALED))
        assert numbers(storage.waiting([1, 2], 100)) == [0, 1, 4, 6, 7]
        assert numbers(storage.waiting({2, 1}, 2)) == [0, 1]
        assert numbers(storage.waiting([1, 2], 2, after=rows[1].n)) == [4, 6]
        assert storage.waiting([], 100) == []
        assert storage.waiting([1], 0) == []

    def test_only_waiting_rows_that_free_room_are_given_when_asked(self, storage):
        for kind in Kind:
            storage.add_row(edit(int(kind), kind=kind))
        assert {row.kind for row in storage.waiting([1], 100, freeing_only=True)} == FREEING_KINDS
        assert len(storage.waiting([1], 2, freeing_only=True)) == 2

    def test_the_backlog_counts_what_is_neither_acked_nor_parked_and_parked_rows_apart(self, storage):
        assert storage.backlog() == Backlog(0, 0, 0.0)
        for state in State:
            storage.add_row(edit(int(state), state=state, written_at=10.0 - state))
            storage.add_row(edit(10 + state, collection=2, state=state, written_at=20.0))
        assert storage.backlog() == Backlog(6, 2, 10.0 - State.CONFLICT)

    # --- live sets and alarms ----------------------------------------------------------------

    def test_a_live_set_holds_what_was_put_last(self, storage):
        live = storage.live_set(1)
        entries = [LiveEntry(cid(1), 4, Kind.PUT), LiveEntry(cid(2), 6, Kind.DELTA)]
        live.put(cid(50), [LiveEntry(cid(3), 1, Kind.DELETE)])
        live.put(cid(50), entries)
        live.put(cid(51), [LiveEntry(cid(4), 7, Kind.PUT)])
        assert live.get(cid(50)) == entries
        assert all(isinstance(entry.kind, Kind) for entry in live.get(cid(50)))
        assert live.count() == 3
        live.put(cid(50), [])
        assert (live.get(cid(50)), live.count()) == ([], 1)

    def test_a_live_set_answers_in_seq_order(self, storage):
        storage.live_set(1).put(cid(50), [LiveEntry(cid(2), 6, Kind.DELTA), LiveEntry(cid(1), 4, Kind.PUT)])
        assert [entry.seq for entry in storage.live_set(1).get(cid(50))] == [4, 6]

    def test_a_live_set_knows_its_tombstones_up_to_a_seq(self, storage):
        live = storage.live_set(1)
        for seq in (4, 5, 6):
            live.put(cid(50 + seq), [LiveEntry(cid(seq), seq, Kind.DELETE)])
        live.put(cid(60), [LiveEntry(cid(1), 1, Kind.PUT)])
        assert sorted(live.tombstones(5)) == [
            (cid(54), LiveEntry(cid(4), 4, Kind.DELETE)),
            (cid(55), LiveEntry(cid(5), 5, Kind.DELETE)),
        ]

    def test_live_sets_of_two_collections_do_not_touch(self, storage):
        one, two = storage.live_set(1), storage.live_set(2)
        one.put(cid(50), [LiveEntry(cid(1), 1, Kind.DELETE)])
        two.put(cid(50), [LiveEntry(cid(2), 2, Kind.PUT)])
        one.clear()
        assert (one.count(), one.get(cid(50)), one.tombstones(9)) == (0, [], [])
        assert storage.live_set(2).get(cid(50)) == [LiveEntry(cid(2), 2, Kind.PUT)]

    def test_alarms_come_oldest_first_until_they_are_cleared(self, storage):
        given = [alarm("z", 1.0), alarm("a", 2.0), alarm("a", 2.0)]
        for one in given:
            storage.add_alarm(one)
        assert storage.alarms() == given
        storage.clear_alarms()
        assert storage.alarms() == []
        storage.add_alarm(given[1])
        assert storage.alarms() == [given[1]]
