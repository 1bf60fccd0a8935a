"""A person's export: piece by piece the whole of what is kept, and nothing of anybody else."""

from __future__ import annotations

import pytest

from hub import export as room
from hub.bundle import BadBundle, Head, Reader
from hub.errors import Refusal
from hub.terms import ZERO_ID
from hub.wire.messages import Export
from tests.accounts_rig import ANNA, BEN, a_space, accounts_hub, append, family_of, refused


@pytest.fixture(params=["memory", "sqlite"])
async def hub_here(request, tmp_path):
    async with accounts_hub(request.param, tmp_path) as hub:
        yield hub


@pytest.fixture
async def family(hub_here):
    return await family_of(hub_here)


async def whole(accounts, person, space_id=None, *, pieces=None):
    """The bundle, read to its end: (head, rows); asked for at each of the hubs in turn."""
    reader, parts, cursor = Reader(), [], b""
    while True:
        piece = await accounts[0].export(Export(1, space_id, cursor), person.caller())
        accounts = [*accounts[1:], accounts[0]]
        if pieces is not None:
            pieces.append(piece)
        parts += reader.feed(piece.bundle)
        cursor = piece.cursor
        assert len(cursor) <= 128
        if not cursor:
            break
    reader.close()
    head = parts[0]
    assert isinstance(head, Head)
    return head, [row for part in parts[1:-1] for row in part]


def rows_of(rows, table):
    return [values for name, values in rows if name == table]


async def test_an_export_has_everything_sealed_as_it_is_and_no_address_tag(hub_here, family):
    first = await append(hub_here.store, family.app, family.space_id)
    second = await append(hub_here.store, family.app, family.space_id, counter=2)
    await hub_here.store.note_growth(20_000)
    await a_space(family.accounts, family.stranger)
    head, rows = await whole([family.accounts], family.board)
    assert head.what == "account" and head.incarnation == await hub_here.store.incarnation()
    assert set(head.tables) == {"account", "device", "space", "growth", "collection", "change"}
    ((account_id, tag, known, *_),) = rows_of(rows, "account")
    assert (account_id, tag, known) == (family.app.device.account_id, b"", False)
    devices = {values[1]: values[2] for values in rows_of(rows, "device")}
    assert devices == {p.device.device_id: bytes(p.key.verify_key) for p in (family.app, family.board, family.mailed)}
    assert [values[1] for values in rows_of(rows, "space")] == [family.space_id]
    assert [tuple(values[2:]) for values in rows_of(rows, "growth")] == [(20_000, len(first) + len(second))]
    changes = rows_of(rows, "change")
    assert [(values[0], values[8]) for values in changes] == [(1, first), (2, second)]
    assert [values[7] is None for values in changes] == [False, True]  # the first was replaced


async def test_an_export_is_made_in_pieces_by_whichever_replica_is_asked(hub_here, family, monkeypatch):
    monkeypatch.setattr(room, "PIECE_BYTES", 1_000)
    sealed = []
    for number in range(20):
        for collection_id in (b"a" * 16, b"b" * 16, b"c" * 16):
            sealed.append(
                await append(
                    hub_here.store, family.app, family.space_id,
                    counter=number + 1, record=bytes([number]) * 16, collection_id=collection_id,
                )
            )  # fmt: skip
    other = await a_space(family.accounts, family.board, app_id="tasks")
    await append(hub_here.store, family.board, other)
    pieces = []
    _, rows = await whole([family.accounts, hub_here.replica()], family.board, pieces=pieces)
    assert len(pieces) > 10
    assert all(len(piece.bundle) < 5_000 for piece in pieces[1:])
    changes = rows_of(rows, "change")
    assert len(changes) == 61 and set(sealed) < {values[8] for values in changes}
    of_notes = [values[2] for values in rows_of(rows, "collection") if values[1] == family.space_id]
    assert of_notes == [b"a" * 16, b"b" * 16, b"c" * 16]
    done = [piece.done_bytes for piece in pieces]
    assert done == sorted(done) and done[-1] == pieces[-1].total_bytes == sum(len(values[8]) for values in changes)


async def test_many_small_collections_cost_a_bounded_number_of_reads_a_piece(hub_here, family, monkeypatch):
    monkeypatch.setattr(room, "READS_PER_PIECE_MAX", 4)
    for number in range(1, 8):
        await append(hub_here.store, family.app, family.space_id, collection_id=bytes([number]) * 16)
    pieces = []
    _, rows = await whole([family.accounts], family.board, pieces=pieces)
    assert len(rows_of(rows, "change")) == 7 and len(pieces) >= 4


async def test_what_is_appended_to_a_collection_during_the_export_does_not_spoil_it(hub_here, family, monkeypatch):
    """Two changes a piece: the second piece would have the third change and the one that came meanwhile."""
    monkeypatch.setattr(room, "PIECE_CHANGES", 2)
    monkeypatch.setattr(room, "PIECE_BYTES", 2 * len(await append(hub_here.store, family.app, family.space_id)))
    for number in range(1, 3):
        await append(hub_here.store, family.app, family.space_id, counter=number + 1, record=bytes([number]) * 16)
    reader, cursor, pieces = Reader(), b"", 0
    while pieces == 0 or cursor:
        piece = await family.accounts.export(Export(1, None, cursor), family.board.caller())
        reader.feed(piece.bundle)
        cursor, pieces = piece.cursor, pieces + 1
        await append(hub_here.store, family.app, family.space_id, counter=pieces + 3, record=bytes([9, pieces]) * 8)
    assert reader.close().rows["change"] == 3 and pieces >= 2


async def test_one_space_alone_is_a_bundle_too(hub_here, family):
    other = await a_space(family.accounts, family.board, app_id="tasks")
    _, rows = await whole([family.accounts], family.board, other)
    assert [values[1] for values in rows_of(rows, "space")] == [other]
    theirs = await a_space(family.accounts, family.stranger)
    for unknown in (theirs, ZERO_ID):
        asked = family.accounts.export(Export(1, unknown), family.board.caller())
        assert await refused(asked) == "not_found"


async def test_an_account_without_spaces_is_a_bundle_in_one_piece(hub_here):
    accounts = hub_here.replica()
    ben = await hub_here.sign_in(accounts, BEN, scope="account")
    pieces = []
    _, rows = await whole([accounts], ben, pieces=pieces)
    assert len(pieces) == 1 and [name for name, _ in rows] == ["account", "device"]


async def test_only_a_trusted_device_with_account_scope_exports(family):
    for person, code in ((family.app, "forbidden"), (family.mailed, "probation")):
        assert await refused(family.accounts.export(Export(1), person.caller())) == code


async def test_what_is_no_cursor_is_refused_and_a_forged_one_reaches_nobody_elses_data(hub_here, family, monkeypatch):
    monkeypatch.setattr(room, "PIECE_BYTES", 1)
    for number in range(3):
        await append(hub_here.store, family.app, family.space_id, counter=number + 1, record=bytes([number]) * 16)
    theirs = await a_space(family.accounts, family.stranger)
    secret = await append(hub_here.store, family.stranger, theirs)
    good = (await family.accounts.export(Export(1), family.board.caller())).cursor
    for bad in (b"x", bytes(128), good[:-1], good + b"x", good[:46], good[:46] + bytes(20)):
        with pytest.raises(Refusal) as caught:
            await family.accounts.export(Export(1, None, bad), family.board.caller())
        assert caught.value.code in ("bad_request", "not_found"), bad
    forged = theirs + good[16:]
    assert await refused(family.accounts.export(Export(1, None, forged), family.board.caller())) == "not_found"
    past = good[:32] + b"\xff" * 14 + good[46:]
    piece = await family.accounts.export(Export(1, None, past), family.board.caller())
    assert secret not in piece.bundle


async def test_an_export_goes_into_the_audit_list_once(hub_here, family, monkeypatch):
    monkeypatch.setattr(room, "PIECE_BYTES", 1)
    for number in range(3):
        await append(hub_here.store, family.app, family.space_id, counter=number + 1, record=bytes([number]) * 16)
    await whole([family.accounts], family.board)
    (newest, *_) = await hub_here.store.audit(family.board.device.account_id, before=0, limit=1)
    assert (newest.what, newest.device_id, newest.count) == ("exported", family.board.device.device_id, 1)


async def test_a_piece_that_is_missing_is_noticed(hub_here, family, monkeypatch):
    monkeypatch.setattr(room, "PIECE_BYTES", 1)
    for number in range(3):
        await append(hub_here.store, family.app, family.space_id, counter=number + 1, record=bytes([number]) * 16)
    reader, cursor = Reader(), b""
    with pytest.raises(BadBundle):
        for number in range(9):
            piece = await family.accounts.export(Export(1, None, cursor), family.board.caller())
            cursor = piece.cursor
            if number != 1:
                reader.feed(piece.bundle)
    assert ANNA.encode() not in piece.bundle
