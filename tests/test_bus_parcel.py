"""What Redis sees of a notice: nobody without the key can make one, alter it, or move it."""

from __future__ import annotations

import os

import msgspec
import pytest

from hub.bus import HeadMoved, Notice, NoticesLost
from hub.bus.parcel import HEAD_BYTES, INLINE_BYTES_MAX, Parcels, Refused
from tests.bus_exam import head_moved, new_id, one_of_each

KEY = os.urandom(32)


def parcels(key=KEY):
    return Parcels(key, os.urandom(16))


def test_another_replica_unwraps_what_one_has_wrapped():
    here, there, account = parcels(), parcels(), new_id()
    for notice in one_of_each():
        parcel = here.wrap(here.channel(account), notice)
        assert there.unwrap(there.channel(account), parcel) == notice


def test_every_kind_of_notice_is_tried():
    assert {type(notice) for notice in one_of_each()} == set(Notice.__subclasses__())


def test_a_replica_knows_its_own():
    here, there = parcels(), parcels()
    parcel = here.wrap(here.everyone, NoticesLost())
    assert here.is_own(parcel)
    assert not there.is_own(parcel)
    assert not here.is_own(b"")


def test_not_one_byte_can_be_altered():
    here, there, account = parcels(), parcels(), new_id()
    channel = here.channel(account)
    parcel = here.wrap(channel, head_moved(3, b"sealed"))
    for place in range(len(parcel)):
        altered = bytearray(parcel)
        altered[place] ^= 1
        with pytest.raises(Refused):
            there.unwrap(channel, bytes(altered))


@pytest.mark.parametrize("cut", [0, 1, 33, HEAD_BYTES - 1, HEAD_BYTES, -1])
def test_a_piece_of_a_parcel_is_refused(cut):
    here, there = parcels(), parcels()
    parcel = here.wrap(here.everyone, NoticesLost())
    with pytest.raises(Refused):
        there.unwrap(there.everyone, parcel[:cut])


def test_a_parcel_is_good_for_one_accounts_channel_only():
    here, there = parcels(), parcels()
    mine, other = new_id(), new_id()
    parcel = here.wrap(here.channel(mine), NoticesLost())
    for channel in (there.channel(other), there.everyone):
        with pytest.raises(Refused):
            there.unwrap(channel, parcel)


def test_another_hubs_parcels_are_refused_and_its_channels_are_others():
    ours, theirs, account = parcels(), parcels(os.urandom(32)), new_id()
    assert ours.channel(account) != theirs.channel(account)
    assert ours.everyone != theirs.everyone
    with pytest.raises(Refused):
        ours.unwrap(ours.channel(account), theirs.wrap(ours.channel(account), NoticesLost()))


def test_a_notice_of_a_kind_that_only_a_newer_replica_knows_is_refused():
    class FromTheFuture(NoticesLost, frozen=True, tag="future"):
        pass

    here, there = parcels(), parcels()
    with pytest.raises(Refused):
        there.unwrap(there.everyone, here.wrap(here.everyone, FromTheFuture()))


def test_a_field_that_only_a_newer_replica_knows_is_ignored():
    class Newer(HeadMoved, frozen=True, tag="head"):
        mood: str = "bright"

    here, there, notice = parcels(), parcels(), head_moved(3, b"sealed")
    newer = Newer(**msgspec.structs.asdict(notice))
    assert there.unwrap(there.everyone, here.wrap(here.everyone, newer)) == notice


@pytest.mark.parametrize("sizes", [(INLINE_BYTES_MAX,), (INLINE_BYTES_MAX - 300, 200, 100)])
def test_changes_go_along_up_to_the_bound_together(sizes):
    here, there = parcels(), parcels()
    notice = head_moved(9, *(os.urandom(size) for size in sizes))
    assert there.unwrap(there.everyone, here.wrap(here.everyone, notice)) == notice


@pytest.mark.parametrize("sizes", [(INLINE_BYTES_MAX + 1,), (INLINE_BYTES_MAX - 300, 200, 101)])
def test_one_byte_more_and_the_notice_goes_without_its_changes(sizes):
    here, there = parcels(), parcels()
    notice = head_moved(9, *(os.urandom(size) for size in sizes))
    parcel = here.wrap(here.everyone, notice)
    assert len(parcel) < 400
    assert there.unwrap(there.everyone, parcel) == msgspec.structs.replace(notice, changes=())
    assert notice.changes, "the notice itself is as it was"


def test_a_channels_name_shows_nothing_of_the_account():
    account = new_id()
    one, two = parcels(), parcels()
    name = one.channel(account)
    assert name == two.channel(account), "all replicas have the same name for it"
    assert len(name) == 36 and name.startswith(b"hub:")
    assert account not in name and account.hex().encode() not in name
    assert len({one.channel(new_id()) for _ in range(1_000)} | {one.everyone}) == 1_001
