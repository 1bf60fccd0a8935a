"""The sync check: every rule by a named example, every lie by its named alarm."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from hub.client.check import (
    ALARMS,
    RING_POINTS,
    WITNESS_DEVICES_MAX,
    Alarm,
    CheckFailed,
    CheckState,
    Counter,
    LiveEntry,
    MemoryLiveSet,
    SyncCheck,
    term,
)
from hub.client.keys import SpaceKeys
from hub.client.sealing import open_sealed, seal
from hub.terms import ZERO_ID, Kind, Limits
from hub.wire.header import FLAG_PADDED, SUITE, VERSION, Header
from tests.model_hub import LyingHub, ModelDevice

KEYS = SpaceKeys.derive(bytes(range(32)))
CID = KEYS.collection_id("notes")
ME, ANNA, BERT = (bytes([n]) * 16 for n in (1, 2, 3))
LIFE = b"L" * 16


def header(
    device_id: bytes = ANNA, counter: int = 1, kind: Kind = Kind.PUT, record: str = "r", upto: int = 0
) -> Header:
    record_id = ZERO_ID if kind in (Kind.PURGE, Kind.WIPE, Kind.WITNESS) else KEYS.record_id(CID, record)
    change_id = device_id[:8] + counter.to_bytes(8, "big")
    base = upto.to_bytes(16, "big")
    return Header(
        VERSION, SUITE, kind, FLAG_PADDED, 0, KEYS.space_id, CID, record_id, change_id, device_id, counter, base
    )


def checking(*headers: Header) -> SyncCheck:
    """A check in its first life that has taken these over as seqs 1, 2, 3 ... in one frame."""
    check = SyncCheck(KEYS, CID, ME, CheckState(), MemoryLiveSet())
    check.new_life(LIFE)
    if headers:
        check.page(0, len(headers), len(headers), list(enumerate(headers, start=1)))
    return check


def witness(seq: int, check: SyncCheck | None = None, author: bytes = ANNA, number: int = 1, **facts: object) -> bytes:
    """A witness of ``author`` who agrees with ``check``, but for the given facts."""
    state = check.state if check else CheckState()
    said = {"digest": state.digest, "n_live": state.n_live, "counters": {}, "life": LIFE, "kind": Kind.WITNESS} | facts
    plaintext = seq.to_bytes(8, "big") + said["digest"] + said["n_live"].to_bytes(4, "big")  # type: ignore[operator, attr-defined]
    plaintext += b"".join(device_id + last.to_bytes(8, "big") for device_id, last in said["counters"].items())  # type: ignore[attr-defined]
    return seal(
        KEYS, kind=said["kind"], flags_conditional=False, collection_id=CID, record_id=ZERO_ID, change_id=b"w" * 16,  # type: ignore[arg-type]
        device_id=author, counter=number, base=said["life"], plaintext=plaintext + bytes(8), nonce=b"n" * 24,  # type: ignore[arg-type]
    )  # fmt: skip


def alarm_of(call: Callable[[], object]) -> str:
    with pytest.raises(CheckFailed) as failed:
        call()
    return failed.value.alarm.name


def sum_of(*changes: tuple[Header, int]) -> bytes:
    total = sum(term(KEYS.set_key, CID, h.record_id, h.change_id, seq) for h, seq in changes)
    return (total % 2**256).to_bytes(32, "big")


# --- frames ----------------------------------------------------------------------------------


def test_a_frame_moves_the_state_to_its_upto() -> None:
    check = checking(header(counter=1), header(counter=2))
    assert (check.state.seq, check.state.exact, check.state.whole) == (2, True, True)


def test_a_frame_that_begins_further_on_is_a_gap() -> None:
    assert alarm_of(lambda: checking(header()).page(2, 3, 3, [(3, header(counter=2))])) == "gap"


def test_a_frame_that_begins_further_back_is_a_replay() -> None:
    assert alarm_of(lambda: checking(header()).page(0, 1, 1, [(1, header())])) == "replay"


@pytest.mark.parametrize("seqs", [(2, 2), (3, 2), (1, 2)])
def test_seqs_that_do_not_rise_are_a_replay(seqs: tuple[int, int]) -> None:
    entries = [(seqs[0], header(counter=2)), (seqs[1], header(counter=3))]
    assert alarm_of(lambda: checking(header()).page(1, 3, 3, entries)) == "replay"


def test_a_seq_beyond_the_frame_is_a_gap() -> None:
    assert alarm_of(lambda: checking().page(0, 1, 9, [(2, header())])) == "gap"


def test_a_head_below_the_frame_is_a_rollback() -> None:
    assert alarm_of(lambda: checking().page(0, 1, 0, [(1, header())])) == "rollback"


def test_a_head_below_what_was_held_is_a_rollback_and_an_equal_one_is_not() -> None:
    check = checking(header(counter=1), header(counter=2))
    check.head_seen(2)
    assert alarm_of(lambda: check.head_seen(1)) == "rollback"


def test_a_frame_at_the_head_without_the_newest_change_is_an_omission() -> None:
    assert alarm_of(lambda: checking(header()).page(1, 3, 3, [(2, header(counter=2))])) == "omission"
    assert alarm_of(lambda: checking(header()).page(1, 3, 3, [])) == "omission"


def test_an_empty_frame_at_the_place_reached_is_fine() -> None:
    check = checking(header())
    check.page(1, 1, 1, [])
    assert check.state.exact


def test_a_witness_in_the_log_is_forged() -> None:
    assert alarm_of(lambda: checking().page(0, 1, 1, [(1, header(kind=Kind.WITNESS))])) == "forged"


# --- counters --------------------------------------------------------------------------------


@pytest.mark.parametrize("counter", [1, 2])
def test_a_counter_that_does_not_rise_is_a_replay(counter: int) -> None:
    check = checking(header(counter=1), header(counter=2))
    assert alarm_of(lambda: check.page(2, 3, 3, [(3, header(counter=counter))])) == "replay"


def test_a_counter_that_jumps_where_nothing_is_missing_is_a_gap() -> None:
    assert alarm_of(lambda: checking(header()).page(1, 2, 2, [(2, header(counter=3))])) == "gap"


def test_a_counter_may_jump_where_seqs_are_missing() -> None:
    check = checking(header())
    check.page(1, 3, 3, [(3, header(counter=3))])
    assert check.state.counters[ANNA] == Counter(3, strict=False)


def test_after_a_hole_a_counter_may_jump_once_more_and_is_strict_from_there() -> None:
    check = checking(header())
    check.page(1, 3, 3, [(3, header(counter=2))])
    check.page(3, 4, 4, [(4, header(counter=5))])
    assert alarm_of(lambda: check.page(4, 5, 5, [(5, header(counter=7))])) == "gap"


def test_a_hole_loosens_the_counters_of_all_devices() -> None:
    check = checking(header(ANNA), header(BERT))
    check.page(2, 4, 4, [(4, header(ANNA, 2))])
    assert check.state.counters == {ANNA: Counter(2, False), BERT: Counter(1, False)}


def test_a_replay_is_seen_across_a_hole() -> None:
    check = checking(header(counter=1), header(counter=2))
    assert alarm_of(lambda: check.page(2, 9, 9, [(9, header(counter=2))])) == "replay"


def test_an_unknown_device_begins_at_1_when_everything_was_seen() -> None:
    assert alarm_of(lambda: checking(header()).page(1, 2, 2, [(2, header(BERT, 2))])) == "gap"


def test_an_unknown_device_may_begin_anywhere_when_something_was_not_seen() -> None:
    check = checking()
    check.page(0, 2, 2, [(2, header())])
    check.page(2, 3, 3, [(3, header(BERT, 8))])
    assert check.state.counters[BERT] == Counter(8, strict=True)


# --- the live set and the digest -------------------------------------------------------------


def test_the_digest_is_the_sum_over_the_live_changes() -> None:
    one, two = header(counter=1, record="a"), header(counter=2, record="b")
    check = checking(one, two)
    assert check.state.digest == sum_of((one, 1), (two, 2))
    assert check.state.n_live == 2


def test_a_put_replaces_a_put_and_its_deltas() -> None:
    last = header(counter=3)
    check = checking(header(counter=1), header(counter=2, kind=Kind.DELTA), last)
    assert (check.state.digest, check.state.n_live) == (sum_of((last, 3)), 1)


def test_a_delta_adds_and_replaces_nothing() -> None:
    put, delta = header(counter=1), header(counter=2, kind=Kind.DELTA)
    check = checking(put, delta)
    assert check.state.digest == sum_of((put, 1), (delta, 2))
    assert check._live.get(put.record_id) == [
        LiveEntry(put.change_id, 1, Kind.PUT),
        LiveEntry(delta.change_id, 2, Kind.DELTA),
    ]


def test_a_tombstone_is_live() -> None:
    tombstone = header(counter=2, kind=Kind.DELETE)
    assert checking(header(), tombstone).state.digest == sum_of((tombstone, 2))


def test_a_keyring_replaces_a_keyring_alone() -> None:
    put, ring = header(counter=1), header(counter=3, kind=Kind.KEYRING)
    check = checking(put, header(counter=2, kind=Kind.KEYRING), ring)
    assert check.state.digest == sum_of((put, 1), (ring, 3))


def test_a_put_leaves_a_keyring_live() -> None:
    ring, put = header(counter=1, kind=Kind.KEYRING), header(counter=2)
    assert checking(ring, put).state.digest == sum_of((ring, 1), (put, 2))


def test_a_purge_drops_tombstones_up_to_its_seq_and_nothing_else() -> None:
    stays, put = header(counter=2, kind=Kind.DELETE, record="b"), header(counter=3, record="c")
    purge = header(counter=4, kind=Kind.PURGE, upto=1)
    check = checking(header(counter=1, kind=Kind.DELETE, record="a"), stays, put, purge)
    assert (check.state.digest, check.state.n_live) == (sum_of((stays, 2), (put, 3)), 2)


def test_a_purge_drops_tombstones_of_earlier_pages_too() -> None:
    check = checking(header(counter=1, kind=Kind.DELETE))
    check.page(1, 2, 2, [(2, header(counter=2, kind=Kind.PURGE, upto=1))])
    assert (check.state.n_live, check._live.count()) == (0, 0)


def test_a_purge_leaves_a_tombstone_that_comes_after_it() -> None:
    tombstone = header(counter=2, kind=Kind.DELETE)
    assert checking(header(kind=Kind.PURGE, upto=9), tombstone).state.digest == sum_of((tombstone, 2))


def test_a_wipe_empties_the_live_set() -> None:
    check = checking(header(counter=1))
    check.page(1, 2, 2, [(2, header(counter=2, kind=Kind.WIPE))])
    assert (check.state.digest, check.state.n_live, check._live.count()) == (bytes(32), 0, 0)


def test_changes_after_a_wipe_in_the_same_frame_are_live() -> None:
    put = header(counter=3)
    check = checking(header(), header(counter=2, kind=Kind.WIPE), put)
    assert check.state.digest == sum_of((put, 3))


# --- exactness -------------------------------------------------------------------------------


def test_a_frame_with_a_hole_that_ends_before_the_head_is_not_exact() -> None:
    check = checking()
    check.page(0, 2, 3, [(2, header())])
    assert not check.state.exact and not check.state.ring


def test_a_frame_that_reaches_the_head_is_exact_again() -> None:
    check = checking()
    check.page(0, 2, 4, [(2, header())])
    check.page(2, 4, 4, [(4, header(counter=2))])
    assert [point.seq for point in check.state.ring] == [4]


def test_without_a_hole_every_seq_is_exact() -> None:
    check = checking(header(counter=1), header(counter=2))
    check.page(2, 3, 9, [(3, header(counter=3))])
    assert [point.seq for point in check.state.ring] == [1, 2, 3]


def test_a_contiguous_frame_does_not_make_an_inexact_state_exact() -> None:
    check = checking()
    check.page(0, 2, 9, [(2, header())])
    check.page(2, 3, 9, [(3, header(counter=2))])
    assert not check.state.exact


def test_the_ring_keeps_the_last_points_only() -> None:
    check = checking(*(header(counter=n) for n in range(1, RING_POINTS + 2)))
    assert [check.state.ring[0].seq, len(check.state.ring)] == [2, RING_POINTS]


# --- purges that were missed -----------------------------------------------------------------


def behind_a_purge() -> SyncCheck:
    """A device that slept while a record it holds was deleted and the tombstone purged."""
    check = checking(header(record="gone"), header(counter=2, record="kept"))
    check.page(2, 4, 4, [(4, header(counter=4, kind=Kind.PURGE, upto=3))])
    return check


def test_a_purge_behind_a_hole_makes_the_device_start_over() -> None:
    check = behind_a_purge()
    assert check.state.must_start_over and not check.state.exact


def test_until_it_starts_over_it_states_nothing_and_compares_no_digest() -> None:
    check = behind_a_purge()
    assert check.make_witness(1, b"w" * 16, b"n" * 24, 0) is None
    check.page(4, 5, 5, [(5, header(counter=5))])
    check.witness_seen(witness(5, digest=b"x" * 32))
    assert not check.state.exact


def test_starting_over_reads_the_live_set_and_is_exact() -> None:
    check, kept = behind_a_purge(), header(counter=2, record="kept")
    check.start_over()
    check.page(0, 4, 4, [(2, kept), (4, header(counter=4, kind=Kind.PURGE, upto=3))])
    assert check.state.exact and not check.state.must_start_over
    assert check.state.digest == sum_of((kept, 2))


def test_starting_over_does_not_forget_how_high_the_head_was() -> None:
    check = behind_a_purge()
    check.start_over()
    assert alarm_of(lambda: check.page(0, 3, 3, [(3, header())])) == "rollback"


def test_while_it_reads_once_more_it_states_nothing_below_what_it_reached() -> None:
    check = behind_a_purge()
    check.start_over()
    check.page(0, 1, 4, [(1, header(record="gone"))])
    assert check.state.exact
    assert check.make_witness(1, b"w" * 16, b"n" * 24, 0) is None


def test_a_purge_that_was_there_when_a_cold_reading_began_is_harmless() -> None:
    check = checking()
    check.page(0, 2, 6, [(2, header())])
    check.page(2, 6, 6, [(5, header(counter=3, kind=Kind.PURGE, upto=4)), (6, header(counter=4))])
    assert check.state.exact


def test_a_purge_that_came_during_a_cold_reading_is_not() -> None:
    check = checking()
    check.page(0, 2, 4, [(2, header())])
    check.page(2, 6, 6, [(6, header(counter=5, kind=Kind.PURGE, upto=5))])
    assert check.state.must_start_over


def test_an_empty_collection_is_the_beginning_of_a_reading_too() -> None:
    check = checking()
    check.page(0, 0, 0, [])
    check.page(0, 3, 3, [(1, header()), (3, header(counter=3, kind=Kind.PURGE, upto=2))])
    assert check.state.must_start_over


def test_a_purge_without_a_hole_is_harmless() -> None:
    check = checking(header(kind=Kind.DELETE))
    check.page(1, 2, 2, [(2, header(counter=2, kind=Kind.PURGE, upto=1))])
    assert check.state.exact and not check.state.must_start_over


def test_a_wipe_makes_starting_over_needless() -> None:
    check = behind_a_purge()
    check.page(4, 5, 5, [(5, header(counter=5, kind=Kind.WIPE))])
    assert check.state.exact and not check.state.must_start_over


# --- witnesses -------------------------------------------------------------------------------


def test_an_agreeing_witness_passes_and_is_remembered() -> None:
    check = checking(header())
    check.witness_seen(witness(1, check, number=4, counters={ANNA: 1}), 0)
    assert check.state.witnesses == {ANNA: (4, 1)} and not check.state.pending


def test_another_digest_at_the_same_seq_is_a_mismatch() -> None:
    check = checking(header())
    assert alarm_of(lambda: check.witness_seen(witness(1, check, digest=b"x" * 32))) == "digest_mismatch"


def test_another_number_of_live_changes_at_the_same_seq_is_a_mismatch() -> None:
    check = checking(header())
    assert alarm_of(lambda: check.witness_seen(witness(1, check, n_live=2))) == "digest_mismatch"


def test_a_witness_is_compared_at_every_seq_of_an_exact_stretch() -> None:
    check = checking(header(counter=1), header(counter=2), header(counter=3))
    assert alarm_of(lambda: check.witness_seen(witness(2, check))) == "digest_mismatch"


def test_a_witness_of_a_seq_that_was_not_exact_here_is_not_compared() -> None:
    check = checking()
    check.page(0, 3, 3, [(1, header()), (3, header(counter=3))])
    check.witness_seen(witness(2, digest=b"x" * 32))
    assert check.state.witnesses[ANNA].seq == 2


def test_a_witness_ahead_waits_and_is_compared_on_arrival() -> None:
    check = checking(header())
    check.witness_seen(witness(2, digest=b"x" * 32))
    assert alarm_of(lambda: check.page(1, 2, 2, [(2, header(counter=2))])) == "digest_mismatch"


def test_a_witness_ahead_that_agrees_is_settled_on_arrival() -> None:
    ahead = checking(header(), header(counter=2))
    check = checking(header())
    check.witness_seen(witness(2, ahead, counters={ANNA: 2}))
    check.page(1, 2, 2, [(2, header(counter=2))])
    assert not check.state.pending


def test_a_counter_known_elsewhere_and_strictly_lower_here_is_an_omission() -> None:
    check = checking(header(ANNA), header(BERT))
    assert alarm_of(lambda: check.witness_seen(witness(2, check, counters={BERT: 2}))) == "omission"


def test_a_device_unknown_here_is_an_omission_only_when_everything_was_seen() -> None:
    check = checking(header())
    assert alarm_of(lambda: check.witness_seen(witness(1, check, counters={BERT: 1}))) == "omission"
    cold = checking()
    cold.page(0, 2, 2, [(2, header())])
    cold.witness_seen(witness(2, cold, counters={BERT: 1}))


def test_a_counter_that_may_have_been_compacted_away_is_no_omission() -> None:
    check = checking(header(BERT))
    check.page(1, 4, 4, [(4, header(ANNA))])
    check.witness_seen(witness(4, check, counters={BERT: 3}))


def test_a_counter_of_a_later_seq_is_no_omission_yet() -> None:
    check = checking(header(BERT))
    check.witness_seen(witness(3, counters={BERT: 2}))
    assert ANNA in check.state.pending


def test_more_changes_of_mine_than_i_sealed_are_a_clone() -> None:
    check = checking(header(ME))
    check.witness_seen(witness(5, counters={ME: 3}), own_counter=3)
    assert alarm_of(lambda: check.witness_seen(witness(6, number=2, counters={ME: 4}), own_counter=3)) == "clone"


def test_without_my_counter_a_clone_is_seen_once_its_place_is_reached() -> None:
    check = checking(header(ME))
    check.witness_seen(witness(2, counters={ME: 2}))
    assert alarm_of(lambda: check.page(1, 2, 2, [(2, header(ANNA))])) == "clone"


@pytest.mark.parametrize("older", [{"number": 4, "seq": 1}, {"number": 5, "seq": 2}, {"number": 6, "seq": 0}])
def test_a_witness_must_not_regress(older: dict[str, int]) -> None:
    check = checking(header(), header(counter=2))
    check.witness_seen(witness(1, digest=check.state.ring[0].digest, n_live=1, number=5))
    again = witness(older["seq"], check, number=older["number"])
    assert alarm_of(lambda: check.witness_seen(again)) == "witness_regressed"


def test_the_same_witness_may_come_again() -> None:
    check = checking(header())
    for _ in range(2):
        check.witness_seen(witness(1, check))
        check.witness_seen(witness(9, author=BERT))


def test_a_witness_of_another_life_is_passed_over() -> None:
    check = checking(header())
    check.witness_seen(witness(1, digest=b"x" * 32, life=b"M" * 16))
    assert not check.state.witnesses


def test_my_own_witness_is_passed_over() -> None:
    check = checking(header())
    check.witness_seen(witness(1, author=ME, digest=b"x" * 32))
    assert not check.state.witnesses


@pytest.mark.parametrize("byte", [0, 2, 4, 8, 24, 40, 56, 72, 88, 96, 112, 140, -1])
def test_an_altered_witness_is_forged(byte: int) -> None:
    check = checking(header())
    altered = bytearray(witness(1, check))
    altered[byte] ^= 1
    assert alarm_of(lambda: check.witness_seen(bytes(altered))) == "forged"


def test_a_change_shown_as_a_witness_is_forged() -> None:
    assert alarm_of(lambda: checking(header()).witness_seen(witness(1, kind=Kind.WIPE))) == "forged"


@pytest.mark.parametrize("plaintext", [b"", bytes(51), bytes(53), bytes(52 + 23)])
def test_a_witness_of_a_wrong_length_is_forged(plaintext: bytes) -> None:
    sealed = seal(
        KEYS, kind=Kind.WITNESS, flags_conditional=False, collection_id=CID, record_id=ZERO_ID, change_id=b"w" * 16,
        device_id=ANNA, counter=1, base=LIFE, plaintext=plaintext, nonce=b"n" * 24,
    )  # fmt: skip
    assert alarm_of(lambda: checking(header()).witness_seen(sealed)) == "forged"


def test_a_witness_says_what_the_state_is() -> None:
    check = checking(header(ANNA), header(BERT))
    sealed = check.make_witness(7, b"w" * 16, b"n" * 24, 1_700_000_000_000)
    assert sealed is not None
    opened = open_sealed(KEYS, sealed, collection_id=CID)
    assert (opened.header.kind, opened.header.counter, opened.header.base) == (Kind.WITNESS, 7, LIFE)
    assert opened.plaintext == (
        (2).to_bytes(8, "big") + check.state.digest + (1).to_bytes(4, "big")
        + ANNA + (1).to_bytes(8, "big") + BERT + (1).to_bytes(8, "big") + (1_700_000_000_000).to_bytes(8, "big")
    )  # fmt: skip


def test_a_witness_is_only_made_where_the_state_is_exact() -> None:
    check = checking()
    assert check.make_witness(1, b"w" * 16, b"n" * 24, 0) is None  # nothing to state
    check.page(0, 2, 3, [(2, header())])
    assert check.make_witness(1, b"w" * 16, b"n" * 24, 0) is None


def test_no_witness_is_made_before_the_life_is_known() -> None:
    check = SyncCheck(KEYS, CID, ME, CheckState(), MemoryLiveSet())
    check.page(0, 1, 1, [(1, header())])
    assert check.make_witness(1, b"w" * 16, b"n" * 24, 0) is None


@pytest.mark.parametrize("devices", [WITNESS_DEVICES_MAX, WITNESS_DEVICES_MAX + 1])
def test_a_witness_names_the_devices_seen_last_and_stays_within_the_limit(devices: int) -> None:
    ids = [n.to_bytes(16, "big") for n in range(1, devices + 1)]
    check = checking(*(header(device_id) for device_id in ids))
    check.page(devices, devices + 1, devices + 1, [(devices + 1, header(ids[0], 2))])
    sealed = check.make_witness(1, b"w" * 16, b"n" * 24, 0)
    assert sealed is not None and len(sealed) <= Limits().witness_bytes_max
    _, statement = check._open_witness(sealed)
    assert len(statement.counters) == WITNESS_DEVICES_MAX
    assert statement.counters[ids[0]] == 2  # seen last, though it came first
    assert (ids[1] in statement.counters) == (devices == WITNESS_DEVICES_MAX)


# --- what the hub calls the end --------------------------------------------------------------


def test_a_witness_that_stays_ahead_of_the_head_is_withheld() -> None:
    check = checking(header())
    check.witness_seen(witness(2))
    check.caught_up(1)
    assert alarm_of(lambda: check.caught_up(1)) == "withheld"


def test_one_telling_is_not_enough_since_the_head_may_have_been_looked_up_before() -> None:
    check = checking(header())
    check.witness_seen(witness(2, checking(header(), header(counter=2))))
    check.caught_up(1)
    check.page(1, 2, 2, [(2, header(counter=2))])
    check.caught_up(2)
    assert not check.state.alarms


def test_newer_witnesses_do_not_put_off_the_alarm() -> None:
    check = checking(header())
    check.witness_seen(witness(2))
    check.caught_up(1)
    check.witness_seen(witness(3, number=2))
    assert alarm_of(lambda: check.caught_up(1)) == "withheld"


def test_a_newer_witness_is_not_doubted_by_what_was_told_before_it() -> None:
    check = checking(header())
    check.witness_seen(witness(3))
    check.caught_up(1)
    check.witness_seen(witness(5, number=2))
    check.page(1, 3, 3, [(2, header(counter=2)), (3, header(counter=3))])
    check.caught_up(3)
    assert not check.state.alarms


def test_the_head_told_is_held_against_what_was_reached() -> None:
    assert alarm_of(lambda: checking(header()).caught_up(0)) == "rollback"


# --- lives, failures, saving -----------------------------------------------------------------


def test_a_new_life_forgets_all_but_the_alarms() -> None:
    check = checking(header())
    check.witness_seen(witness(1, check))
    alarm_of(lambda: check.head_seen(0))
    check.new_life(b"M" * 16)
    assert check.state == CheckState(
        incarnation=b"M" * 16, alarms=[Alarm("rollback", CID, check.state.alarms[0].detail, 0)]
    )
    assert check._live.count() == 0
    check.page(0, 1, 1, [(1, header())])  # the same counter is no replay in another life


def test_a_failed_page_changes_nothing_but_the_alarms() -> None:
    check = checking(header(record="a"), header(counter=2, kind=Kind.DELETE, record="b"))
    check.witness_seen(witness(6, digest=b"x" * 32))
    before = msgspec.msgpack.encode(check.state)
    live = dict(check._live._entries)  # type: ignore[attr-defined]
    late = [
        header(counter=3, kind=Kind.PURGE, upto=2),
        header(counter=4, kind=Kind.WIPE),
        header(counter=5),
        header(counter=6),
    ]
    assert alarm_of(lambda: check.page(2, 6, 6, list(enumerate(late, start=3)))) == "digest_mismatch"
    assert [alarm.name for alarm in check.state.alarms] == ["digest_mismatch"]
    check.state.alarms.clear()
    assert msgspec.msgpack.encode(check.state) == before
    assert check._live._entries == live  # type: ignore[attr-defined]


def test_an_alarm_is_noted_once() -> None:
    check = checking(header())
    for _ in range(3):
        assert alarm_of(lambda: check.head_seen(0)) == "rollback"
    assert check.state.alarms == [Alarm("rollback", CID, "the head is 0 and was 1", 0)]


def test_the_state_survives_being_saved() -> None:
    check = checking(header(ANNA), header(BERT))
    check.witness_seen(witness(2, check))
    check.witness_seen(witness(9, author=BERT, counters={ANNA: 4}))
    check.caught_up(2)
    alarm_of(lambda: check.head_seen(0))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(check.state), type=CheckState) == check.state


def test_every_alarm_has_a_sentence() -> None:
    assert set(ALARMS) == {
        "rollback", "replay", "gap", "omission", "digest_mismatch", "clone", "witness_regressed", "forged",
        "record_mismatch", "withheld", "emptied",
    }  # fmt: skip
    assert all(sentence.endswith(".") for sentence in ALARMS.values())


# --- the lies, each against three devices that live with the hub -------------------------------


class World:
    """A lying hub, three devices with some history, and Anna three changes ahead with a witness of them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.hub = LyingHub(LIFE)
        self.anna, self.bert, self.carl = self.devices = [self.device() for _ in range(3)]
        for _ in range(self.rng.randrange(20, 40)):
            self.live(self.rng.choice(self.devices))
        for device in self.devices:
            device.sync(self.hub)
        self.seqs = [self.anna.write(self.hub, Kind.PUT, key, b"fresh") for key in ("x", "y", "z")]
        self.anna.sync(self.hub)
        self.anna.testify(self.hub)

    def device(self) -> ModelDevice:
        return ModelDevice(KEYS, "notes", self.rng)

    def live(self, device: ModelDevice) -> None:
        for _ in range(self.rng.randrange(4)):
            kind = self.rng.choice([Kind.PUT, Kind.PUT, Kind.PUT, Kind.DELTA, Kind.DELETE])
            device.draft(kind, f"record {self.rng.randrange(8)}", self.rng.randbytes(20))
        device.sync(self.hub)
        device.testify(self.hub)
        if self.rng.random() < 0.2:
            self.hub.compact()


def sync(device: ModelDevice, hub: LyingHub) -> Callable[[], object]:
    return lambda: device.sync(hub)


def lie_omit_from_one_that_lags(world: World) -> Callable[[], object]:
    world.hub.omit(world.rng.choice(world.seqs))
    return sync(world.bert, world.hub)


def lie_omit_from_a_newcomer_after_compaction(world: World) -> Callable[[], object]:
    world.hub.compact()
    world.hub.omit(world.rng.choice([seq for seq in world.hub.kept if seq != world.hub.head]))
    return sync(world.device(), world.hub)


def lie_omit_and_renumber(world: World) -> Callable[[], object]:
    world.hub.omit_and_close_up(world.seqs[1])
    return sync(world.bert, world.hub)


def lie_keep_the_newest_back(world: World) -> Callable[[], object]:
    world.hub.omit(world.hub.head)
    return sync(world.bert, world.hub)


def lie_roll_back_one_with_memory(world: World) -> Callable[[], object]:
    world.bert.sync(world.hub)
    world.hub.roll_back(world.hub.head - 2)
    return sync(world.bert, world.hub)


def lie_roll_back_a_newcomer(world: World) -> Callable[[], object]:
    world.hub.roll_back(world.hub.head - 2)
    newcomer = world.device()
    newcomer.sync(world.hub)
    newcomer.check.caught_up(world.hub.head)  # the next ping
    return lambda: newcomer.check.caught_up(world.hub.head)  # and the one after


def lie_swap_two_of_one_author(world: World) -> Callable[[], object]:
    world.hub.swap(world.seqs[1], world.seqs[2])
    return sync(world.bert, world.hub)


def lie_swap_two_of_different_authors(world: World) -> Callable[[], object]:
    for device in world.devices:
        device.sync(world.hub)
    one = world.anna.write(world.hub, Kind.PUT, "p", b"1")
    other = world.bert.write(world.hub, Kind.PUT, "q", b"2")
    world.anna.sync(world.hub)
    world.anna.testify(world.hub)
    world.hub.swap(one, other)
    return sync(world.carl, world.hub)


def lie_show_a_change_of_another_collection(world: World) -> Callable[[], object]:
    world.hub.insert(ModelDevice(KEYS, "other", world.rng).draft(Kind.PUT, "x", b"elsewhere"))
    return sync(world.bert, world.hub)


def lie_alter_the_header(world: World) -> Callable[[], object]:
    world.hub.flip(world.hub.head, world.rng.randrange(112 * 8))
    return sync(world.bert, world.hub)


def lie_alter_what_is_sealed(world: World) -> Callable[[], object]:
    world.hub.flip(world.hub.head, world.rng.randrange(112 * 8, len(world.hub.kept[world.hub.head]) * 8))
    return sync(world.bert, world.hub)


def lie_replay(world: World) -> Callable[[], object]:
    world.bert.sync(world.hub)
    world.hub.replay(world.rng.choice(list(world.hub.kept)))
    return sync(world.bert, world.hub)


def lie_show_a_change_of_another_space(world: World) -> Callable[[], object]:
    stranger = ModelDevice(SpaceKeys.derive(world.rng.randbytes(32)), "notes", world.rng)
    world.hub.insert(stranger.draft(Kind.PUT, "x", b"evil"))
    return sync(world.bert, world.hub)


def lie_show_an_old_version(world: World) -> Callable[[], object]:
    first, *_ = [world.anna.write(world.hub, Kind.PUT, "k", b"version") for _ in range(3)]
    world.anna.write(world.hub, Kind.PUT, "another", b"last")
    world.anna.sync(world.hub)
    world.anna.testify(world.hub)
    world.hub.serve_old(first)
    return sync(world.device(), world.hub)


def lie_drop_a_delete(world: World) -> Callable[[], object]:
    tombstone = world.anna.write(world.hub, Kind.DELETE, "x")
    world.anna.write(world.hub, Kind.PUT, "w", b"1")
    world.anna.sync(world.hub)
    world.anna.testify(world.hub)
    world.hub.omit(tombstone)
    return sync(world.bert, world.hub)


def lie_fork_until_one_witness_leaks(world: World) -> Callable[[], object]:
    world.bert.sync(world.hub)
    other = world.hub.fork()
    for device, hub in ((world.anna, world.hub), (world.bert, other)):
        device.write(hub, Kind.PUT, "same", b"story")
        device.sync(hub)
        device.testify(hub)
    world.hub.show_witness(other.kept_witnesses[world.bert.device_id][1])
    return sync(world.anna, world.hub)


def lie_show_an_older_witness(world: World) -> Callable[[], object]:
    _, old = world.hub.kept_witnesses[world.anna.device_id]
    world.anna.write(world.hub, Kind.PUT, "later", b"1")
    world.anna.sync(world.hub)
    world.anna.testify(world.hub)
    world.bert.sync(world.hub)
    world.hub.show_witness(old)
    return sync(world.bert, world.hub)


def lie_hold_the_head_down_and_pass_the_witness(world: World) -> Callable[[], object]:
    world.bert.sync(world.hub)
    stale = world.hub.fork()
    world.anna.write(world.hub, Kind.PUT, "later", b"1")
    world.anna.sync(world.hub)
    world.anna.testify(world.hub)
    stale.show_witness(world.hub.kept_witnesses[world.anna.device_id][1])
    world.bert.sync(stale)
    world.bert.sync(stale)
    return sync(world.bert, stale)


def lie_play_me_to_the_others(world: World) -> Callable[[], object]:
    """A copy of Bert's disk writes elsewhere; the hub hides that from Bert."""
    for device in world.devices:
        device.sync(world.hub)
    shown = world.hub.fork()
    copied = world.device()
    copied.device_id, copied.counter = world.bert.device_id, world.bert.counter
    copied.write(world.hub, Kind.PUT, "stolen", b"1")
    world.anna.sync(world.hub)
    world.anna.testify(world.hub)
    shown.show_witness(world.hub.kept_witnesses[world.anna.device_id][1])
    return sync(world.bert, shown)


# The fourteen of docs/threat-model.md "A lying hub", and some more.
LIES: list[tuple[Callable[[World], Callable[[], object]], set[str]]] = [
    (lie_omit_from_one_that_lags, {"digest_mismatch", "omission"}),
    (lie_omit_from_a_newcomer_after_compaction, {"digest_mismatch"}),
    (lie_roll_back_one_with_memory, {"rollback"}),
    (lie_roll_back_a_newcomer, {"withheld"}),
    (lie_swap_two_of_one_author, {"gap"}),
    (lie_swap_two_of_different_authors, {"digest_mismatch"}),
    (lie_show_a_change_of_another_collection, {"forged"}),
    (lie_alter_the_header, {"forged"}),
    (lie_alter_what_is_sealed, {"forged"}),
    (lie_replay, {"replay"}),
    (lie_show_a_change_of_another_space, {"forged"}),
    (lie_show_an_old_version, {"digest_mismatch"}),
    (lie_drop_a_delete, {"digest_mismatch"}),
    (lie_fork_until_one_witness_leaks, {"digest_mismatch", "omission"}),
    (lie_omit_and_renumber, {"gap"}),
    (lie_keep_the_newest_back, {"omission"}),
    (lie_show_an_older_witness, {"witness_regressed"}),
    (lie_hold_the_head_down_and_pass_the_witness, {"withheld"}),
    (lie_play_me_to_the_others, {"clone"}),
]


@pytest.mark.parametrize(("lie", "alarms"), LIES, ids=[lie.__name__ for lie, _ in LIES])
def test_a_lie_raises_its_alarm_whatever_went_before(
    lie: Callable[[World], Callable[[], object]], alarms: set[str]
) -> None:
    raised = {alarm_of(lie(World(seed))) for seed in range(12)}
    assert raised == alarms


def test_a_record_under_anothers_id_raises_its_alarm() -> None:
    world = World(1)
    bert, x = world.bert, KEYS.record_id(CID, "x")
    bert.sync(world.hub)
    world.hub.insert(
        seal(
            KEYS, kind=Kind.PUT, flags_conditional=False, collection_id=CID, record_id=x, change_id=b"i" * 16,
            device_id=world.carl.device_id, counter=99, base=ZERO_ID, plaintext=b"y\0body", nonce=b"n" * 24,
        )
    )  # fmt: skip
    assert alarm_of(sync(bert, world.hub)) == "record_mismatch"


@pytest.mark.parametrize("seed", range(12))
def test_a_fork_that_is_never_joined_stays_unnoticed(seed: int) -> None:
    """The known limit of any check with one hub: until a witness crosses, both stories are consistent."""
    world = World(seed)
    world.bert.sync(world.hub)
    other = world.hub.fork()
    for device, hub in ((world.anna, world.hub), (world.bert, other)) * 3:
        device.write(hub, Kind.PUT, "own", b"story")
        device.sync(hub)
        device.testify(hub)
        device.check.caught_up(hub.head)
    assert not world.anna.state.alarms and not world.bert.state.alarms


@pytest.mark.parametrize("seed", range(12))
def test_a_consistent_old_snapshot_deceives_a_device_without_memory(seed: int) -> None:
    world = World(seed)
    old = world.hub.fork()
    for _ in range(10):
        world.live(world.rng.choice(world.devices))
    newcomer = world.device()
    for _ in range(3):
        newcomer.sync(old)
    assert not newcomer.state.alarms


def test_an_old_witness_with_the_full_log_is_harmless_to_a_newcomer() -> None:
    world = World(3)
    _, old = world.hub.kept_witnesses[world.anna.device_id]
    world.anna.write(world.hub, Kind.PUT, "later", b"1")
    world.anna.sync(world.hub)
    world.anna.testify(world.hub)
    world.hub.show_witness(old)
    newcomer = world.device()
    newcomer.sync(world.hub)
    assert not newcomer.state.alarms
