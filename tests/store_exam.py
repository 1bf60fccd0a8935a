"""The exam of a store: every promise of ``hub.store`` as a test that any keeper can sit.

A keeper is examined by a class that says how it is made, restarted and searched:

    class TestMyStore(StoreExam):
        async def make(self, **options): ...
        async def restart(self, store): ...
        async def rows(self, store): ...
        async def beside(self, store): ...  # where many programs may have it open

The bodies of the changes are random bytes: a store is blind and must not mind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from hub.errors import Refusal, StoreUnavailable
from hub.store import (
    ARRIVING,
    Account,
    AccountFacts,
    Answer,
    Append,
    Appended,
    Arrival,
    Attempt,
    Charge,
    Device,
    Draft,
    Happening,
    Invite,
    MovedDevice,
    Operator,
    Page,
    PageOf,
    Row,
    SilentDevice,
    Space,
    SpaceFacts,
    StatesOf,
    Store,
    Terms,
    Totals,
)
from hub.store.memory import MemoryStore
from hub.store.rows import TABLES
from hub.terms import ZERO_ID, Change, CollectionKey, Kind, Limits, Span
from hub.wire.header import FLAG_CONDITIONAL, SEALED_BYTES_MIN, SUITE, VERSION, Header, parse_header

NOW = 1_750_000_000.0
DAY = int(NOW // 86_400)
NO_BOUND = 1 << 40
NOTES = b"notes-collection"
PHOTOS = b"photos-collectn."


def new_id() -> bytes:
    return os.urandom(16)


def rid(number: int) -> bytes:
    """A record id that stands nowhere by chance."""
    return b"record %09d" % number


def sealed(
    key: CollectionKey,
    device_id: bytes,
    counter: int,
    *,
    kind: Kind = Kind.PUT,
    record_id: bytes = ZERO_ID,
    change_id: bytes | None = None,
    base: bytes | None = None,
    upto: int = 0,
    size: int = SEALED_BYTES_MIN + 48,
) -> bytes:
    """A sealed change with a valid header and a random rest.  A given ``base`` makes it conditional."""
    flags = 0 if base is None else FLAG_CONDITIONAL
    header = Header(
        VERSION,
        SUITE,
        kind,
        flags,
        0,
        key.space_id,
        key.collection_id,
        record_id,
        change_id or new_id(),
        device_id,
        counter,
        upto.to_bytes(16, "big") if kind is Kind.PURGE else base or ZERO_ID,
    ).pack()
    return header + os.urandom(size - len(header))


def draft_of(sealed_bytes: bytes) -> Draft:
    return Draft(parse_header(sealed_bytes), sealed_bytes)


class Writer:
    """One device writing to one space; it counts as a device must."""

    def __init__(self, store: Store, account_id: bytes, space_id: bytes, device_id: bytes) -> None:
        self.store = store
        self.account_id = account_id
        self.space_id = space_id
        self.device_id = device_id
        self.counters: dict[bytes, int] = {}

    def key(self, collection_id: bytes = NOTES) -> CollectionKey:
        return CollectionKey(self.account_id, self.space_id, collection_id)

    def draft(
        self, record: int = 1, *, collection_id: bytes = NOTES, counter: int | None = None, **header: Any
    ) -> Draft:
        """The next draft; only a draft without a given counter counts."""
        if counter is None:
            counter = self.counters[collection_id] = self.counters.get(collection_id, 0) + 1
        kind = header.get("kind", Kind.PUT)
        record_id = ZERO_ID if kind in (Kind.PURGE, Kind.WIPE) else rid(record)
        return draft_of(sealed(self.key(collection_id), self.device_id, counter, record_id=record_id, **header))

    def request(self, *drafts: Draft, atomic: bool = False) -> Append:
        return Append(self.account_id, self.space_id, self.device_id, drafts, atomic)

    async def append(self, *drafts: Draft, atomic: bool = False, now: float = NOW) -> Appended:
        (appended,) = await self.store.append([self.request(*drafts, atomic=atomic)], now)
        return appended

    async def answer(self, draft: Draft, now: float = NOW) -> Answer:
        (answer,) = (await self.append(draft, now=now)).answers
        return answer

    async def write(self, record: int = 1, *, now: float = NOW, **header: Any) -> Draft:
        """Append one more draft, which must be accepted."""
        draft = self.draft(record, **header)
        answer = await self.answer(draft, now)
        assert answer.code == "" and answer.seq > 0
        return draft

    async def put(self, record: int = 1, **header: Any) -> Draft:
        return await self.write(record, **header)

    async def delete(self, record: int = 1, **header: Any) -> Draft:
        return await self.write(record, kind=Kind.DELETE, **header)

    async def delta(self, record: int = 1, **header: Any) -> Draft:
        return await self.write(record, kind=Kind.DELTA, **header)

    async def purge(self, upto: int, **header: Any) -> Draft:
        return await self.write(kind=Kind.PURGE, upto=upto, **header)

    async def wipe(self, **header: Any) -> Draft:
        return await self.write(kind=Kind.WIPE, **header)

    async def read(
        self,
        after: int = 0,
        *,
        collection_id: bytes = NOTES,
        live_only: bool = False,
        changes_max: int = 10_000,
        bytes_max: int = NO_BOUND,
    ) -> Page:
        key = self.key(collection_id)
        return await self.store.read(key, after, live_only=live_only, changes_max=changes_max, bytes_max=bytes_max)

    async def seqs(self, *, live_only: bool = False, collection_id: bytes = NOTES) -> list[int]:
        page = await self.read(live_only=live_only, collection_id=collection_id)
        return [change.seq for change in page.changes]

    async def used_bytes(self) -> int:
        account = await self.store.account(self.account_id)
        assert account is not None
        assert account.used_bytes == sum(space.used_bytes for space in await self.store.spaces(self.account_id))
        return account.used_bytes


def a_device(account_id: bytes, **fields: Any) -> Device:
    device = Device(new_id(), account_id, os.urandom(32), "app", "notes.example", "mail", NOW, DAY)
    return replace(device, **fields)


def an_attempt(address_tag: bytes | None = None, **fields: Any) -> Attempt:
    attempt = Attempt(
        new_id(), address_tag or os.urandom(32), os.urandom(32), "enrol", "notes.example", NOW, NOW + 600, sent_at=NOW
    )
    return replace(attempt, **fields)


def a_charge(name: bytes, *spans: tuple[int, float]) -> Charge:
    return Charge(hashlib.blake2b(name, digest_size=16).digest(), tuple(Span(*span) for span in spans))


def a_space(account_id: bytes, **fields: Any) -> Space:
    return replace(Space(account_id, new_id(), "notes.example", 0, os.urandom(32)), **fields)


async def enrol(
    store: Store,
    attempt: Attempt,
    device: Device,
    new_account: Account | None,
    *,
    per_account_max: int = 60,
    per_app_max: int = 60,
    first_only: bool = False,
    now: float = NOW,
) -> None:
    await store.enrol(
        attempt.attempt_id,
        device,
        new_account,
        attempt.address_tag,
        per_account_max=per_account_max,
        per_app_max=per_app_max,
        first_only=first_only,
        now=now,
    )


async def new_account(store: Store, *, quota_bytes: int | None = None) -> tuple[bytes, Device, Attempt]:
    """An account with one device, made as a person makes one."""
    account = Account(new_id(), quota_bytes, 0, DAY)
    attempt, device = an_attempt(), a_device(account.account_id)
    await store.add_attempt(attempt)
    await enrol(store, attempt, device, account)
    return account.account_id, device, attempt


async def new_writer(store: Store, *, quota_bytes: int | None = None) -> Writer:
    """A device of a new account with one empty space."""
    account_id, device, _ = await new_account(store, quota_bytes=quota_bytes)
    space = await store.create_space(a_space(account_id), 50, NOW)
    return Writer(store, account_id, space.space_id, device.device_id)


async def another(writer: Writer) -> Writer:
    """Another device of the same account and space."""
    device = a_device(writer.account_id)
    await writer.store.add_device(device, per_account_max=1_000, per_app_max=1_000)
    return Writer(writer.store, writer.account_id, writer.space_id, device.device_id)


def codes(appended: Appended) -> list[str]:
    return [answer.code for answer in appended.answers]


def opened(changes: Iterable[Change]) -> dict[bytes, list[bytes]]:
    """What a device holds that read these changes: of each record its last put or delete and the deltas after it."""
    records: dict[bytes, list[bytes]] = {}
    for change in changes:
        header = parse_header(change.sealed)
        if header.kind is Kind.DELTA:
            records.setdefault(header.record_id, []).append(header.change_id)
        else:
            records[header.record_id] = [header.change_id]
    return records


async def dumped(store: Store, account_ids: Sequence[bytes] | None = None) -> list[Row]:
    """Every row of a dump."""
    async with store.dump(account_ids) as rows:
        return [row async for row in rows]


async def load(store: Store, rows: Sequence[Row], *, at_once: int = 7) -> None:
    """Load a dump as it comes in, a few rows a call, and let its accounts in."""
    for start in range(0, len(rows), at_once):
        await store.load(rows[start : start + at_once])
    await store.end_load([values(row)["account_id"] for row in rows if row[0] == "account"])


def values(row: Row) -> dict[str, Any]:
    return dict(zip(TABLES[row[0]], row[1], strict=True))


def with_value(row: Row, column: str, value: object) -> Row:
    """The row with another value in one column."""
    return row[0], tuple((values(row) | {column: value}).values())


def happening(writer: Writer, what: str = "exported", **fields: Any) -> Happening:
    return Happening(writer.account_id, NOW, what, "device", writer.device_id)._replace(**fields)


async def a_full_account(store: Store) -> Writer:
    """A device of an account that has a row in every table an account can have rows in."""
    writer = await new_writer(store, quota_bytes=5_000_000)
    other = await another(writer)
    second = await store.create_space(a_space(writer.account_id, app_id="photos.example"), 50, NOW + 1)
    for space_id in (writer.space_id, second.space_id):
        for device in (writer, other):
            here = Writer(store, writer.account_id, space_id, device.device_id)
            for collection_id in (NOTES, PHOTOS):
                for _ in range(3):
                    await here.put(1, collection_id=collection_id)
                await here.delta(1, collection_id=collection_id)
                await here.delete(2, collection_id=collection_id)
                await store.put_witness(here.key(collection_id), here.device_id, 5, b"a sealed witness")
    await store.compact(NOW + 1, 6)
    await store.revoke(writer.account_id, [other.device_id], NOW)
    await store.set_terms(writer.account_id, Terms(6_000_000, "family", new_id().hex(), NOW + 1e6))
    await store.make_operator(writer.account_id, os.urandom(16), NOW)
    await store.take_step(writer.account_id, 58_000_000)
    await store.note([happening(writer), happening(writer, "device_revoked", subject_id=other.device_id)])
    await store.note_growth(DAY)
    return await another_space(writer, writer.space_id)


async def another_space(writer: Writer, space_id: bytes) -> Writer:
    """The same device in that space, with its counters as the store knows them."""
    there = Writer(writer.store, writer.account_id, space_id, writer.device_id)
    for state in await writer.store.states(writer.account_id, space_id, writer.device_id, None):
        there.counters[state.collection_id] = state.counter
    return there


async def account_of(store: Store, account_id: bytes) -> Account:
    account = await store.account(account_id)
    assert account is not None
    return account


def mentions(rows: Iterable[Sequence[object]], needle: bytes) -> list[Sequence[object]]:
    """The rows in which these bytes stand anywhere."""
    return [row for row in rows if any(isinstance(value, bytes) and needle in value for value in row)]


class StoreExam:
    """Inherit it, say how your keeper is made, and run pytest."""

    async def make(self, *, limits: Limits | None = None, quota_bytes: int = NO_BOUND) -> Store:
        """A new, empty, open store."""
        raise NotImplementedError

    async def restart(self, store: Store) -> Store:
        """Close the store; another one, open, on what it kept."""
        raise NotImplementedError

    async def rows(self, store: Store) -> list[tuple[object, ...]]:
        """Every row of every table, whatever tables there are."""
        raise NotImplementedError

    async def beside(self, store: Store) -> Store:
        """What another program has of the same store, open; the store itself when only one program may have it."""
        return store

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        store = await self.make()
        yield store
        await store.close()

    @pytest.fixture
    async def replica(self, store: Store) -> AsyncIterator[Store]:
        replica = await self.beside(store)
        yield replica
        if replica is not store:
            await replica.close()

    @pytest.fixture
    async def writer(self, store: Store) -> Writer:
        return await new_writer(store)

    async def sorted_rows(self, store: Store) -> list[str]:
        return sorted(repr(row) for row in await self.rows(store))

    # --- life ---------------------------------------------------------------------------------

    async def test_it_answers_a_ping(self, store: Store) -> None:
        await store.ping()

    async def test_after_close_every_call_is_unavailable(self) -> None:
        store = await self.make()
        writer = await new_writer(store)
        draft = writer.draft()
        await store.close()
        key, account_id, space_id, device_id = writer.key(), writer.account_id, writer.space_id, writer.device_id
        limits = {"per_account_max": 1, "per_app_max": 1}
        calls = [
            store.ping(),
            store.incarnation(),
            store.renew_incarnation(),
            store.claim("name", b"value"),
            store.session_orders(1),
            store.append([writer.request(draft)], NOW),
            store.read(key, 0, live_only=False, changes_max=1, bytes_max=1),
            store.states(account_id, space_id, device_id, None),
            store.heads([key]),
            store.states_of([StatesOf(account_id, space_id, device_id, [key.collection_id])]),
            store.read_each([PageOf(key, 0, False)], changes_max=1, bytes_max=1),
            store.witnesses_of([key]),
            store.arrivals([device_id]),
            store.history(key, rid(1), before=0, limit=1),
            store.put_witness(key, device_id, 1, b"w"),
            store.witnesses(key),
            store.compact(NOW, 1),
            store.create_space(a_space(account_id), 50, NOW),
            store.spaces(account_id),
            store.schedule_space_deletion(account_id, space_id, NOW),
            store.delete_space(account_id, space_id),
            store.spend([a_charge(b"anna", (1, 60))], NOW),
            store.spend([a_charge(b"anna", (1, 60))], NOW, count=False),
            store.forget_spent(NOW),
            store.add_attempt(an_attempt()),
            store.note_resend(b"a", b"k", NOW, not_before_s=0, sends_max=1),
            store.charge_attempt(b"a", NOW, 1),
            store.consume_attempt(b"a", NOW),
            enrol(store, an_attempt(), a_device(account_id), None),
            store.add_device(a_device(account_id), **limits),
            store.find_account(b"tag"),
            store.account(account_id),
            store.count_accounts(),
            store.device(device_id),
            store.devices(account_id),
            store.revoke(account_id, [device_id], NOW),
            store.stopped_among([device_id]),
            store.approve(account_id, device_id),
            store.note_seen([device_id], DAY),
            store.schedule_account_deletion(account_id, NOW),
            store.delete_account(account_id),
            store.due_deletions(NOW),
            store.add_invite(b"t", NOW),
            store.invite_is_open(b"t", NOW),
            store.rewrap_addresses(bytes, 1),
            store.tag_generation(),
            store.forget_attempts(NOW),
            store.remember("name", b"value"),
            store.recall("name"),
            store.invites(),
            store.withdraw_invite(b"t"),
            store.list_address(b"tag", "allowed", DAY),
            store.listed(b"tag"),
            store.count_listed(),
            store.change_address(b"a", account_id, NOW),
            store.accounts(limit=1),
            store.totals(),
            store.set_terms(account_id, Terms()),
            store.suspend(account_id, NOW),
            store.near_quota(0.9, 1, NOW, 1),
            store.silent_devices(DAY, 1),
            store.make_operator(account_id, bytes(16), NOW),
            store.drop_operator(account_id),
            store.operators(),
            store.take_step(account_id, 1),
            store.note([Happening(account_id, NOW, "exported", "device")]),
            store.audit(account_id, before=0, limit=1),
            store.audit_counts("exported", NOW, 1),
            store.forget_audit(NOW),
            store.space_facts(account_id),
            store.note_growth(DAY),
            store.forget_growth(DAY),
            store.begin_move(account_id, "wss://there.example"),
            store.end_move(account_id, NOW),
            store.moved_device(device_id),
            store.forget_moved(NOW),
            dumped(store),
            store.load([]),
            store.end_load([account_id]),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call

    async def test_what_was_answered_is_there_after_a_restart(self) -> None:
        store = await self.make()
        writer = await new_writer(store)
        first, second = await writer.put(1), await writer.delta(1)
        rows, incarnation = await self.sorted_rows(store), await store.incarnation()
        store = await self.restart(store)
        writer.store = store
        assert [change.sealed for change in (await writer.read()).changes] == [first.sealed, second.sealed]
        assert await self.sorted_rows(store) == rows
        assert await store.incarnation() == incarnation
        await store.close()

    async def test_the_log_has_a_name_of_16_bytes_until_it_is_renewed(self, store: Store) -> None:
        name = await store.incarnation()
        assert len(name) == 16 and await store.incarnation() == name
        renewed = await store.renew_incarnation()
        assert renewed != name and await store.incarnation() == renewed

    async def test_two_stores_have_two_names(self, store: Store) -> None:
        other = await self.make()
        assert await other.incarnation() != await store.incarnation()
        await other.close()

    async def test_a_renewed_name_leaves_the_log_alone(self, store: Store, writer: Writer) -> None:
        await writer.put()
        await store.renew_incarnation()
        assert await writer.seqs() == [1]
        await writer.put()
        assert await writer.seqs() == [1, 2]

    async def test_what_was_claimed_first_stays(self) -> None:
        store = await self.make()
        incarnation = await store.incarnation()
        assert await store.claim("colour", b"red") == b"red"
        assert await store.claim("colour", b"blue") == b"red"
        assert await store.claim("shape", b"") == b""
        assert await store.claim("shape", b"round") == b""
        store = await self.restart(store)
        assert await store.claim("colour", b"blue") == b"red"
        assert await store.claim("size", b"blue") == b"blue"
        assert await store.incarnation() == incarnation
        await store.close()

    async def test_of_many_claims_at_once_one_stays(self, store: Store, replica: Store) -> None:
        values = [b"%d" % number for number in range(20)]
        claims = ((store, replica)[number % 2].claim("colour", value) for number, value in enumerate(values))
        kept = set(await asyncio.gather(*claims))
        assert len(kept) == 1 and kept <= set(values)
        assert {await each.claim("colour", b"late") for each in (store, replica)} == kept

    async def test_every_session_is_newer_than_those_before_it(self, store: Store, replica: Store) -> None:
        orders = [await (store, replica)[number % 2].session_orders(number) for number in range(6)]
        assert [len(each) for each in orders] == list(range(6))
        flat = [order for each in orders for order in each]
        assert flat == sorted(set(flat)) and flat[0] > 0
        at_once = await asyncio.gather(*((store, replica)[number % 2].session_orders(3) for number in range(40)))
        together = {order for each in at_once for order in each}
        assert len(together) == 120 and min(together) > flat[-1]
        assert all(each == sorted(each) for each in at_once)
        assert (await replica.session_orders(1))[0] > max(together)

    # --- order --------------------------------------------------------------------------------

    async def test_seqs_count_from_one_and_the_bytes_come_back_equal(self, writer: Writer) -> None:
        drafts = [writer.draft(record) for record in range(5)]
        appended = await writer.append(*drafts, now=NOW + 0.25)
        assert appended.answers == [Answer(seq) for seq in (1, 2, 3, 4, 5)]
        expected = [Change(seq, int(NOW * 1000) + 250, draft.sealed) for seq, draft in enumerate(drafts, 1)]
        assert await writer.read() == Page(expected, 5, 5)
        assert appended.fresh == [(NOTES, change) for change in expected]

    async def test_each_collection_counts_by_itself(self, writer: Writer) -> None:
        await writer.append(
            writer.draft(1),
            writer.draft(1, collection_id=PHOTOS),
            writer.draft(2),
            writer.draft(2, collection_id=PHOTOS),
        )
        assert await writer.seqs() == [1, 2]
        assert await writer.seqs(collection_id=PHOTOS) == [1, 2]

    async def test_the_same_collection_id_in_two_accounts_is_two_logs(self, store: Store, writer: Writer) -> None:
        stranger = await new_writer(store)
        await writer.put()
        assert await stranger.read() == Page([], 0, 0)
        await stranger.put()
        assert len((await writer.read()).changes) == 1

    async def test_appenders_at_once_leave_no_gap_and_no_double(self, writer: Writer) -> None:
        writers = [writer, *[await another(writer) for _ in range(9)]]
        drafts = [each.draft(number, kind=Kind.DELTA) for number in range(10) for each in writers]
        by_device = {each.device_id: each for each in writers}
        answers = await asyncio.gather(*(by_device[draft.header.device_id].answer(draft) for draft in drafts))
        assert sorted(answer.seq for answer in answers) == list(range(1, 101))
        kept = {change.seq: change.sealed for change in (await writer.read()).changes}
        assert kept == {answer.seq: draft.sealed for answer, draft in zip(answers, drafts, strict=True)}

    async def test_a_batch_of_many_requests_is_answered_in_its_order(self, store: Store, writer: Writer) -> None:
        other, stranger = await another(writer), await new_writer(store)
        requests = [
            writer.request(writer.draft(), writer.draft()),
            stranger.request(stranger.draft()),
            other.request(other.draft(), other.draft(counter=7)),
            writer.request(writer.draft()),
        ]
        answered = await store.append(requests, NOW)
        assert [[answer.seq for answer in appended.answers] for appended in answered] == [[1, 2], [1], [3, 0], [4]]
        assert codes(answered[2]) == ["", "out_of_order"]

    async def test_a_large_batch_is_one_append(self, store: Store, writer: Writer) -> None:
        writers = [writer, await another(writer)]
        requests = [each.request(*(each.draft(n, kind=Kind.DELTA) for n in range(256))) for each in writers]
        answered = await store.append(requests, NOW)
        assert [answer.seq for appended in answered for answer in appended.answers] == list(range(1, 513))
        assert await writer.seqs() == list(range(1, 513))

    async def test_a_reader_beside_the_writers_never_sees_a_hole(self, writer: Writer) -> None:
        writers = [writer, *[await another(writer) for _ in range(4)]]
        total = 5 * 20

        async def follow() -> int:
            after = pages = 0
            while after < total:
                page = await writer.read(after, changes_max=7)
                assert [change.seq for change in page.changes] == list(range(after + 1, page.upto + 1))
                assert page.upto <= page.head
                after = page.upto
                pages += 1
                await asyncio.sleep(0)  # let the writers in, also where a read never waits
            return pages

        async def write(each: Writer) -> None:
            for number in range(20):
                await each.delta(number)
                await asyncio.sleep(0)

        pages, _ = await asyncio.gather(follow(), asyncio.gather(*map(write, writers)))
        assert pages >= total / 7

    # --- once ---------------------------------------------------------------------------------

    async def test_a_retry_gets_the_first_answer_and_adds_nothing(self, store: Store, writer: Writer) -> None:
        drafts = [writer.draft(record) for record in range(3)]
        first = await writer.append(*drafts)
        rows = await self.sorted_rows(store)
        for _ in range(2):
            again = await writer.append(*drafts, now=NOW + 99)
            assert again == Appended(first.answers, [], first.used_bytes)
        assert await self.sorted_rows(store) == rows

    async def test_a_draft_twice_in_one_batch_is_kept_once(self, store: Store, writer: Writer) -> None:
        draft = writer.draft()
        first, second = await store.append([writer.request(draft, draft), writer.request(draft)], NOW)
        assert first.answers == [Answer(1), Answer(1)] and second.answers == [Answer(1)]
        assert await writer.seqs() == [1]

    async def test_retries_at_once_are_kept_once(self, writer: Writer) -> None:
        draft = writer.draft()
        assert set(await asyncio.gather(*(writer.answer(draft) for _ in range(20)))) == {Answer(1)}
        assert await writer.seqs() == [1]

    async def test_a_retry_gets_the_first_answer_after_a_restart(self) -> None:
        writer = await new_writer(await self.make())
        drafts = [writer.draft(1), writer.draft(1), writer.draft(2)]
        answers = (await writer.append(*drafts)).answers
        assert await writer.store.compact(NOW + 1, 10) == 1
        writer.store = await self.restart(writer.store)
        assert (await writer.append(*drafts)).answers == answers
        await writer.store.close()

    async def test_a_retry_gets_the_first_answer_after_compaction_and_purge(self, writer: Writer) -> None:
        put, delete = await writer.put(), await writer.delete()
        await writer.purge(2)
        assert await writer.store.compact(NOW + 1, 10) == 1
        assert await writer.seqs() == [3]
        assert (await writer.append(put, delete)).answers == [Answer(1), Answer(2)]
        assert await writer.seqs() == [3]

    async def test_a_retry_is_not_judged_again(self) -> None:
        """Neither by its base, which has moved, nor by the quota, which is full by now."""
        writer = await new_writer(await self.make(quota_bytes=2 * SEALED_BYTES_MIN))
        first = await writer.put(base=ZERO_ID, size=SEALED_BYTES_MIN)
        await writer.put(size=SEALED_BYTES_MIN)
        assert await writer.answer(first) == Answer(1)
        await writer.store.close()

    async def test_other_bytes_under_a_used_counter_are_a_cloned_device(self, store: Store, writer: Writer) -> None:
        await writer.put()
        rows = await self.sorted_rows(store)
        assert await writer.answer(writer.draft(counter=1)) == Answer(code="device_cloned")
        assert await self.sorted_rows(store) == rows

    async def test_a_cloned_device_is_noticed_after_compaction_and_purge(self, writer: Writer) -> None:
        await writer.put()
        await writer.delete()
        await writer.purge(2)
        assert await writer.store.compact(NOW + 1, 10) == 1
        for counter in (1, 2, 3):
            assert await writer.answer(writer.draft(counter=counter)) == Answer(code="device_cloned")

    async def test_a_skipped_counter_is_out_of_order_and_leaves_no_trace(self, store: Store, writer: Writer) -> None:
        rows = await self.sorted_rows(store)
        for counter in (2, 2**63, 2**64 - 1):
            assert await writer.answer(writer.draft(counter=counter)) == Answer(code="out_of_order")
        assert await self.sorted_rows(store) == rows
        await writer.put()
        assert await writer.answer(writer.draft(counter=3)) == Answer(code="out_of_order")
        assert await writer.answer(writer.draft(counter=2)) == Answer(2)

    async def test_counters_are_counted_by_device_and_collection(self, writer: Writer) -> None:
        other = await another(writer)
        await writer.put()
        await writer.put()
        assert await other.answer(other.draft(counter=1)) == Answer(3)
        assert await writer.answer(writer.draft(counter=1, collection_id=PHOTOS)) == Answer(1)
        assert await writer.answer(writer.draft(counter=3)) == Answer(4)

    async def test_a_refused_draft_uses_no_counter_and_what_was_behind_it_comes_back(self, writer: Writer) -> None:
        refused = writer.draft(1, base=new_id(), counter=1)
        behind = writer.draft(2, counter=2)
        assert codes(await writer.append(refused, behind)) == ["conflict", "out_of_order"]
        anew = writer.draft(2, counter=1)
        assert (await writer.append(anew)).answers == [Answer(1)]

    # --- the base -----------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", [Kind.PUT, Kind.DELETE, Kind.KEYRING])
    async def test_a_zero_base_is_kept_when_the_record_does_not_exist(self, writer: Writer, kind: Kind) -> None:
        assert await writer.answer(writer.draft(kind=kind, base=ZERO_ID)) == Answer(1)

    @pytest.mark.parametrize("kind", [Kind.PUT, Kind.DELETE])
    @pytest.mark.parametrize("newest", [Kind.PUT, Kind.DELETE, Kind.DELTA])
    async def test_a_base_must_be_the_newest_change_of_the_record(
        self, writer: Writer, newest: Kind, kind: Kind
    ) -> None:
        old = await writer.put()
        new = await writer.write(kind=newest)
        await writer.put(2)
        expected = Answer(0, "conflict", 2, new.header.change_id)
        for base in (ZERO_ID, old.header.change_id, new_id()):
            assert await writer.answer(writer.draft(kind=kind, base=base, counter=4)) == expected
        assert await writer.answer(writer.draft(kind=kind, base=new.header.change_id)) == Answer(4)

    async def test_a_base_for_a_record_that_does_not_exist_is_a_conflict_with_nothing(self, writer: Writer) -> None:
        expected = Answer(0, "conflict", 0, ZERO_ID)
        assert await writer.answer(writer.draft(base=new_id(), counter=1)) == expected
        await writer.put(2)
        assert await writer.answer(writer.draft(base=new_id(), counter=2)) == expected

    async def test_after_a_purge_the_record_does_not_exist(self, writer: Writer) -> None:
        await writer.put()
        tombstone = await writer.delete()
        await writer.purge(2)
        draft = writer.draft(base=tombstone.header.change_id, counter=4)
        assert await writer.answer(draft) == Answer(0, "conflict", 0, ZERO_ID)
        assert await writer.answer(writer.draft(base=ZERO_ID)) == Answer(4)

    async def test_keyrings_and_contents_of_one_record_id_do_not_meet(self, writer: Writer) -> None:
        put = await writer.put()
        keyring = await writer.write(kind=Kind.KEYRING, base=ZERO_ID)
        await writer.put(base=put.header.change_id)
        await writer.write(kind=Kind.KEYRING, base=keyring.header.change_id)
        assert await writer.seqs(live_only=True) == [3, 4]

    async def test_offline_edits_chain_on_drafts_of_the_same_append(self, writer: Writer) -> None:
        first = writer.draft(base=ZERO_ID)
        second = writer.draft(base=first.header.change_id)
        third = writer.draft(kind=Kind.DELETE, base=second.header.change_id)
        assert (await writer.append(first, second, third)).answers == [Answer(1), Answer(2), Answer(3)]

    async def test_of_two_edits_on_one_base_one_wins(self, writer: Writer) -> None:
        base = (await writer.put()).header.change_id
        others = [await another(writer) for _ in range(10)]
        answers = await asyncio.gather(*(other.answer(other.draft(base=base)) for other in others))
        assert sorted(answer.code for answer in answers) == [""] + ["conflict"] * 9
        assert {answer.newest_seq for answer in answers if answer.code} == {2}

    async def test_without_the_flag_the_last_writer_wins(self, writer: Writer) -> None:
        await writer.put()
        other = await another(writer)
        await other.put()
        assert await writer.seqs(live_only=True) == [2]

    # --- what is live -------------------------------------------------------------------------

    async def test_a_put_replaces_the_put_and_the_deltas_before_it(self, writer: Writer) -> None:
        await writer.put(1)
        await writer.delta(1)
        await writer.delta(1)
        await writer.put(2)
        assert await writer.seqs(live_only=True) == [1, 2, 3, 4]
        await writer.put(1)
        assert await writer.seqs(live_only=True) == [4, 5]
        await writer.delta(1)
        assert await writer.seqs(live_only=True) == [4, 5, 6]
        assert await writer.seqs() == [1, 2, 3, 4, 5, 6]

    async def test_a_delete_replaces_what_was_there_and_stays(self, writer: Writer) -> None:
        await writer.put()
        await writer.delta()
        await writer.delete()
        assert await writer.seqs(live_only=True) == [3]
        await writer.put()
        assert await writer.seqs(live_only=True) == [4]

    async def test_a_keyring_replaces_the_keyring_of_its_record_only(self, writer: Writer) -> None:
        await writer.write(1, kind=Kind.KEYRING)
        await writer.write(2, kind=Kind.KEYRING)
        await writer.write(1, kind=Kind.KEYRING)
        assert await writer.seqs(live_only=True) == [2, 3]

    async def test_a_purge_replaces_the_purge_before_it(self, writer: Writer) -> None:
        await writer.purge(0)
        await writer.put()
        await writer.purge(0)
        assert await writer.seqs(live_only=True) == [2, 3]

    async def test_what_a_cold_device_reads_is_what_a_warm_one_holds(self, writer: Writer) -> None:
        choose = random.Random(7)
        for _ in range(120):
            kind = choose.choice([Kind.PUT, Kind.DELTA, Kind.DELTA, Kind.DELETE])
            await writer.write(choose.randrange(6), kind=kind)
        warm, cold = await writer.read(), await writer.read(live_only=True)
        assert opened(warm.changes) == opened(cold.changes)
        assert len(cold.changes) == sum(map(len, opened(warm.changes).values())) < len(warm.changes)

    async def test_a_cold_read_loses_no_record_that_is_replaced_while_it_pages(self, writer: Writer) -> None:
        choose = random.Random(7)
        for record in range(30):
            await writer.put(record)
        got: list[Change] = []
        page = await writer.read(live_only=True, changes_max=4)
        for _ in range(1_000):
            got += page.changes
            if page.upto == page.head:
                break
            if len(got) < 30:
                await writer.put(choose.randrange(30))
                await writer.delta(choose.randrange(30))
            page = await writer.read(page.upto, live_only=True, changes_max=4)
        assert page.upto == page.head
        assert opened(got) == opened((await writer.read()).changes)

    async def test_what_one_batch_brought_replaces_and_is_replaced_in_its_order(
        self, store: Store, writer: Writer
    ) -> None:
        other = await another(writer)
        await writer.put(1)
        kinds = [Kind.DELTA, Kind.PUT, Kind.DELTA, Kind.DELTA]
        batch = [
            writer.request(*(writer.draft(1, kind=kind) for kind in kinds), writer.draft(1, kind=Kind.KEYRING)),
            other.request(other.draft(1, kind=Kind.KEYRING), other.draft(2), other.draft(2, kind=Kind.DELETE)),
            writer.request(writer.draft(2, kind=Kind.DELTA), writer.draft(3, collection_id=PHOTOS)),
            other.request(other.draft(3, collection_id=PHOTOS)),
        ]
        answered = await store.append(batch, NOW)
        given = [[answer.seq for answer in appended.answers] for appended in answered]
        assert given == [[2, 3, 4, 5, 6], [7, 8, 9], [10, 1], [2]]
        assert await writer.seqs(live_only=True) == [3, 4, 5, 7, 9, 10]
        assert await writer.seqs(live_only=True, collection_id=PHOTOS) == [2]
        assert await store.compact(NOW + 1, 100) == 5
        assert await writer.seqs() == [3, 4, 5, 7, 9, 10]

    async def test_of_two_edits_on_one_base_in_one_batch_the_first_wins(self, store: Store, writer: Writer) -> None:
        other = await another(writer)
        base = (await writer.put()).header.change_id
        first, second = writer.draft(base=base), other.draft(base=base)
        one, two = await store.append([writer.request(first), other.request(second)], NOW)
        assert one.answers == [Answer(2)]
        assert two.answers == [Answer(0, "conflict", 2, first.header.change_id)] and two.fresh == []
        assert await writer.seqs() == [1, 2]

    # --- pages --------------------------------------------------------------------------------

    async def test_a_collection_without_changes_has_head_0(self, writer: Writer) -> None:
        assert await writer.read() == Page([], 0, 0)

    async def test_a_page_holds_changes_max_and_says_where_it_was_cut(self, writer: Writer) -> None:
        for record in range(5):
            await writer.put(record)
        for changes_max, upto in ((4, 4), (5, 5), (6, 5), (1, 1)):
            page = await writer.read(changes_max=changes_max)
            assert ([change.seq for change in page.changes], page.upto, page.head) == (
                list(range(1, upto + 1)),
                upto,
                5,
            )
        assert (await writer.read(4, changes_max=1)).upto == 5

    async def test_a_page_stops_before_the_change_that_goes_beyond_bytes_max(self, writer: Writer) -> None:
        for record in range(3):
            await writer.put(record, size=200)
        for bytes_max, upto in ((599, 2), (600, 3), (400, 2), (399, 1)):
            page = await writer.read(bytes_max=bytes_max)
            assert (len(page.changes), page.upto, page.head) == (upto, upto, 3)

    async def test_a_change_larger_than_a_page_is_a_page(self, writer: Writer) -> None:
        await writer.put(1, size=100_000)
        await writer.put(2)
        page = await writer.read(bytes_max=1)
        assert (len(page.changes), page.upto, page.head) == (1, 1, 2)

    async def test_a_page_ends_where_it_must_whatever_the_sizes_of_its_changes(self, writer: Writer) -> None:
        chance = random.Random(7)
        sizes = [
            *(chance.choice((160, 170, 400, 5_000)) for _ in range(60)),  # as they come
            *[160] * 20, 60_000, *[160] * 3, *[9_000] * 9,  # small ones say nothing of what follows
            *[9_000] * 3, *[160] * 40, 30_000, 160,  # nor do large ones
        ]  # fmt: skip
        for start in range(0, len(sizes), 40):
            await writer.append(*(writer.draft(1 + start + n, size=size) for n, size in enumerate(sizes[start:][:40])))
        for changes_max in (7, 500):
            for bytes_max in (1, 160, 1_000, 20_000, 70_000, NO_BOUND):
                after, bounds = 0, {"changes_max": changes_max, "bytes_max": bytes_max}
                while after < len(sizes):
                    most = sizes[after : after + changes_max]
                    while len(most) > 1 and sum(most) > bytes_max:
                        most.pop()
                    for live_only in (False, True):
                        page = await writer.read(after, live_only=live_only, **bounds)
                        assert [len(change.sealed) for change in page.changes] == most, (after, bounds)
                        assert (page.upto, page.head) == (after + len(most), len(sizes))
                    asked = [PageOf(writer.key(), after, False), PageOf(writer.key(), len(sizes) - 1, True)] * 2
                    assert (await writer.store.read_each(asked, **bounds))[2].changes == page.changes
                    after += len(most)

    async def test_a_page_that_was_not_cut_reaches_the_head(self, writer: Writer) -> None:
        """Also when its last changes are left out, and when nothing is left of it at all."""
        await writer.put(1)
        await writer.put(2)
        await writer.delete(3)
        await writer.purge(3)
        await writer.put(4)
        await writer.delete(5)
        await writer.purge(6)
        assert await writer.seqs() == [1, 2, 4, 5, 7]
        assert await writer.seqs(live_only=True) == [1, 2, 5, 7]
        page = await writer.read(5, changes_max=1)
        assert ([change.seq for change in page.changes], page.upto, page.head) == ([7], 7, 7)
        page = await writer.read(2, live_only=True, changes_max=1)
        assert ([change.seq for change in page.changes], page.upto, page.head) == ([5], 5, 7)
        assert await writer.read(7) == Page([], 7, 7)

    async def test_pages_join_without_gap_or_repeat(self, writer: Writer) -> None:
        for number in range(40):
            await writer.put(number % 7)
        assert await writer.store.compact(NOW + 1, 11) == 11
        after, seqs = 0, list[int]()
        while after < 40:
            page = await writer.read(after, changes_max=3)
            seqs += [change.seq for change in page.changes]
            assert page.upto > after
            after = page.upto
        assert seqs == list(range(12, 41))

    # --- states and history -------------------------------------------------------------------

    async def test_states_tell_head_and_own_counter_in_the_asked_order(self, store: Store, writer: Writer) -> None:
        other = await another(writer)
        await writer.put()
        await other.put()
        await other.put(collection_id=PHOTOS)
        unknown = new_id()
        asked = [PHOTOS, unknown, NOTES]
        states = await store.states(writer.account_id, writer.space_id, writer.device_id, asked)
        assert states == [(PHOTOS, 1, 0), (unknown, 0, 0), (NOTES, 2, 1)]
        everything = await store.states(writer.account_id, writer.space_id, writer.device_id, None)
        assert sorted(everything) == [(NOTES, 2, 1), (PHOTOS, 1, 0)]
        assert await store.states(writer.account_id, new_id(), writer.device_id, None) == []

    async def test_heads_are_told_in_the_asked_order_and_0_where_there_is_none(
        self, store: Store, writer: Writer
    ) -> None:
        stranger = await new_writer(store)
        await writer.put()
        await writer.put()
        await writer.put(collection_id=PHOTOS)
        await stranger.put()
        nowhere = CollectionKey(stranger.account_id, writer.space_id, NOTES)  # another's space
        keys = [writer.key(PHOTOS), nowhere, writer.key(), stranger.key(PHOTOS), stranger.key(), writer.key(PHOTOS)]
        assert await store.heads(keys) == [1, 0, 2, 0, 1, 1]
        assert await store.heads([]) == []

    async def test_a_head_stays_when_its_changes_are_gone(self, store: Store, writer: Writer) -> None:
        await writer.put()
        await writer.put()
        await writer.wipe()
        assert await store.heads([writer.key()]) == [3]
        await store.delete_space(writer.account_id, writer.space_id)
        assert await store.heads([writer.key()]) == [0]

    async def test_states_of_many_are_those_of_each(self, store: Store, writer: Writer) -> None:
        other, stranger = await another(writer), await new_writer(store)
        await writer.put()
        await other.put(collection_id=PHOTOS)
        await stranger.put()
        asked = [
            StatesOf(writer.account_id, writer.space_id, writer.device_id, [PHOTOS, new_id(), NOTES]),
            StatesOf(writer.account_id, stranger.space_id, writer.device_id, [NOTES]),  # another's space
            StatesOf(stranger.account_id, stranger.space_id, stranger.device_id, [NOTES]),
            StatesOf(writer.account_id, writer.space_id, other.device_id, []),
            StatesOf(writer.account_id, writer.space_id, other.device_id, [NOTES, PHOTOS]),
        ]
        answers = await store.states_of(asked)
        assert answers == [await store.states(*each) for each in asked]
        assert [state[1:] for state in answers[0]] == [(1, 0), (0, 0), (1, 1)]
        assert await store.states_of([]) == []

    async def test_pages_of_many_are_those_of_each(self, store: Store, writer: Writer) -> None:
        stranger = await new_writer(store)
        for record in (1, 1, 2, 3):
            await writer.put(record)
        await stranger.put(1)
        await stranger.put(1)
        nowhere = CollectionKey(stranger.account_id, writer.space_id, NOTES)  # another's space
        asked = [
            PageOf(key, after, live_only)
            for live_only in (False, True)
            for key in (writer.key(), nowhere, stranger.key(), writer.key(PHOTOS))
            for after in (0, 1, 4, 2**53)
        ]
        size = len((await writer.read()).changes[0].sealed)
        for changes_max, bytes_max in ((500, 10**6), (1, 10**6), (2, 10**6), (500, 1), (500, 2 * size)):
            bounds = {"changes_max": changes_max, "bytes_max": bytes_max}
            each = [await store.read(one.key, one.after, live_only=one.live_only, **bounds) for one in asked]
            assert await store.read_each(asked, **bounds) == each, bounds
        assert await store.read_each([], changes_max=1, bytes_max=1) == []

    async def test_witnesses_of_many_are_those_of_each(self, store: Store, writer: Writer) -> None:
        other, stranger = await another(writer), await new_writer(store)
        for each in (writer, other, stranger):
            await each.put()
            await store.put_witness(each.key(), each.device_id, 1, b"of " + each.device_id)
        nowhere = CollectionKey(stranger.account_id, writer.space_id, NOTES)  # another's space
        keys = [stranger.key(), writer.key(PHOTOS), nowhere, writer.key(), stranger.key()]
        told = await store.witnesses_of(keys)
        assert [sorted(each) for each in told] == [sorted(await store.witnesses(key)) for key in keys]
        assert [len(each) for each in told] == [1, 0, 0, 2, 1]
        assert await store.witnesses_of([]) == []

    async def test_arrivals_are_told_with_account_and_spaces_and_strangers_and_revoked_ones_are_none(
        self, store: Store, writer: Writer
    ) -> None:
        other, stranger = await another(writer), await new_writer(store)
        await store.create_space(a_space(writer.account_id), 50, NOW + 1)
        await writer.put()
        await store.revoke(writer.account_id, [other.device_id], NOW)
        asked = [stranger.device_id, new_id(), writer.device_id, other.device_id, writer.device_id]
        arrivals = await store.arrivals(asked)
        assert arrivals[1] is None and arrivals[3] is None
        for place in (0, 2, 4):
            arrival = arrivals[place]
            assert isinstance(arrival, Arrival)
            assert arrival.device == await store.device(asked[place])
            assert arrival.account == await store.account(arrival.device.account_id)
            assert arrival.spaces == await store.spaces(arrival.device.account_id)
        assert arrivals[2] == arrivals[4] and len(arrivals[2].spaces) == 2
        assert await store.arrivals([]) == []

    async def test_an_arrival_whose_account_moved_is_told_where_to(self, store: Store, writer: Writer) -> None:
        stranger = await new_writer(store)
        await store.begin_move(writer.account_id, "wss://new.example.org/v1/ws")
        await store.end_move(writer.account_id, NOW)
        moved, stays = await store.arrivals([writer.device_id, stranger.device_id])
        assert moved is not None and moved == await store.moved_device(writer.device_id)
        assert isinstance(stays, Arrival)

    async def test_history_is_newest_first_and_says_when_there_is_more(self, store: Store, writer: Writer) -> None:
        for _ in range(3):
            await writer.put(1)
            await writer.put(2)
        await writer.delta(1)

        async def history(before: int, limit: int) -> tuple[list[int], bool]:
            changes, more = await store.history(writer.key(), rid(1), before=before, limit=limit)
            return [change.seq for change in changes], more

        assert await history(0, 10) == ([7, 5, 3, 1], False)
        assert await history(0, 4) == ([7, 5, 3, 1], False)
        assert await history(0, 3) == ([7, 5, 3], True)
        assert await history(5, 1) == ([3], True)
        assert await history(3, 1) == ([1], False)
        assert await history(1, 1) == ([], False)
        changes, _ = await store.history(writer.key(), rid(1), before=0, limit=10)
        assert changes == [change for change in reversed((await writer.read()).changes) if change.seq in (1, 3, 5, 7)]
        assert await store.history(writer.key(PHOTOS), rid(1), before=0, limit=1) == ([], False)

    async def test_history_keeps_what_is_inside_the_window(self, store: Store, writer: Writer) -> None:
        for seconds in range(3):
            await writer.put(1, now=NOW + seconds)
        assert await store.compact(NOW + 1, 10) == 0  # replaced at that very moment: just inside
        assert await store.compact(NOW + 1.001, 10) == 1  # just outside
        changes, more = await store.history(writer.key(), rid(1), before=0, limit=10)
        assert ([change.seq for change in changes], more) == ([3, 2], False)

    # --- compaction ---------------------------------------------------------------------------

    async def test_compaction_drops_only_what_was_replaced_before_then(self, store: Store, writer: Writer) -> None:
        stranger = await new_writer(store)
        await stranger.put(1)
        await stranger.put(1, now=NOW + 50)
        await writer.put(1)
        await writer.delta(1)
        await writer.put(1, now=NOW + 10)
        await writer.delta(1, now=NOW + 10)
        await writer.put(2, now=NOW + 10)
        await writer.put(2, now=NOW + 20)
        assert await store.compact(NOW + 15, 100) == 2
        assert await writer.seqs() == [3, 4, 5, 6]
        assert await store.compact(NOW + 1_000, 100) == 2
        assert await writer.seqs() == [3, 4, 6]
        assert await stranger.seqs() == [2]
        assert await store.compact(NOW + 1_000, 100) == 0

    async def test_compaction_keeps_to_its_limit_and_begins_with_the_oldest(self, store: Store, writer: Writer) -> None:
        for seconds in range(6):
            await writer.put(1, now=NOW + seconds)
        assert await store.compact(NOW + 100, 2) == 2
        assert await writer.seqs() == [3, 4, 5, 6]

    async def test_compaction_changes_nothing_a_cold_device_reads(self, store: Store, writer: Writer) -> None:
        for number in range(20):
            await writer.write(number % 3, kind=Kind.DELTA if number % 4 else Kind.PUT)
        before = await writer.read(live_only=True)
        assert await store.compact(NOW + 1, 100) > 0
        assert await writer.read(live_only=True) == before
        assert (await writer.read()).changes == before.changes

    # --- quota --------------------------------------------------------------------------------

    async def test_used_bytes_count_what_is_kept(self, store: Store, writer: Writer) -> None:
        assert (await writer.append(writer.draft(1, size=300))).used_bytes == 300
        await writer.put(1, size=200)
        assert await writer.used_bytes() == 500
        await store.compact(NOW + 1, 10)
        assert await writer.used_bytes() == 200
        await writer.delete(1, size=160)
        await writer.purge(3, size=170)
        assert await writer.used_bytes() == 200 + 170
        await writer.wipe(size=180)
        assert await writer.used_bytes() == 180

    async def test_a_retry_and_a_refusal_count_no_bytes(self, writer: Writer) -> None:
        draft = await writer.put(size=300)
        await writer.append(draft, writer.draft(counter=9), writer.draft(counter=1))
        assert await writer.used_bytes() == 300

    async def test_at_the_quota_is_kept_and_beyond_it_is_refused_unwritten(self) -> None:
        store = await self.make(quota_bytes=500)
        writer = await new_writer(store)
        await writer.put(1, size=300)
        rows = await self.sorted_rows(store)
        for kind in (Kind.PUT, Kind.DELTA, Kind.KEYRING):
            refused = await writer.append(writer.draft(2, kind=kind, size=201, counter=2))
            assert (refused.answers, refused.fresh, refused.used_bytes) == ([Answer(code="quota_exceeded")], [], 300)
        assert await self.sorted_rows(store) == rows
        assert await writer.answer(writer.draft(2, size=200)) == Answer(2)
        await store.close()

    async def test_deletes_purges_and_wipes_pass_when_the_quota_is_full(self) -> None:
        writer = await new_writer(await self.make(quota_bytes=300))
        await writer.put(1, size=300)
        await writer.delete(1)
        await writer.purge(2)
        await writer.wipe()
        assert await writer.seqs() == [4]
        await writer.store.close()

    async def test_an_accounts_own_quota_goes_before_the_hubs(self) -> None:
        store = await self.make(quota_bytes=100)
        writer = await new_writer(store, quota_bytes=1_000)
        await writer.put(size=1_000)
        assert await writer.answer(writer.draft(2, size=200)) == Answer(code="quota_exceeded")
        nothing = await new_writer(store, quota_bytes=0)
        assert await nothing.answer(nothing.draft()) == Answer(code="quota_exceeded")
        await store.close()

    async def test_the_quota_is_the_accounts_not_the_spaces(self) -> None:
        store = await self.make(quota_bytes=500)
        writer = await new_writer(store)
        await writer.put(size=400)
        space = await store.create_space(a_space(writer.account_id), 50, NOW)
        second = Writer(store, writer.account_id, space.space_id, writer.device_id)
        assert await second.answer(second.draft(size=200, counter=1)) == Answer(code="quota_exceeded")
        assert (await second.append(second.draft(size=160, kind=Kind.DELETE, counter=1))).used_bytes == 560
        assert sorted(each.used_bytes for each in await store.spaces(writer.account_id)) == [160, 400]
        await store.close()

    async def test_the_quota_counts_within_a_batch(self) -> None:
        store = await self.make(quota_bytes=500)
        writer = await new_writer(store)
        other = await another(writer)
        answered = await store.append(
            [
                writer.request(writer.draft(size=300)),
                other.request(other.draft(size=300), other.draft(size=200, counter=1)),
            ],
            NOW,
        )
        assert [codes(each) for each in answered] == [[""], ["quota_exceeded", ""]]
        assert [each.used_bytes for each in answered] == [300, 500]
        await store.close()

    async def test_what_an_account_uses_is_the_sum_over_its_spaces(self, store: Store) -> None:
        account_id, device, made = await new_account(store)
        spaces = [await store.create_space(a_space(account_id), 50, NOW) for _ in range(3)]
        writers = [Writer(store, account_id, space.space_id, device.device_id) for space in spaces]
        for size, writer in zip((200, 300), writers, strict=False):
            await writer.put(size=size)
        found = await store.find_account(made.address_tag)
        assert found is not None and found.used_bytes == 500
        assert await writers[0].used_bytes() == 500
        await store.delete_space(account_id, spaces[1].space_id)
        assert await writers[0].used_bytes() == 200

    # --- all or nothing -----------------------------------------------------------------------

    async def test_an_atomic_append_is_kept_whole(self, writer: Writer) -> None:
        appended = await writer.append(
            writer.draft(1), writer.draft(2, collection_id=PHOTOS), writer.draft(3), atomic=True
        )
        assert appended.answers == [Answer(1), Answer(1), Answer(2)]
        assert len(appended.fresh) == 3

    async def test_one_refused_draft_refuses_an_atomic_append_unwritten(self, store: Store, writer: Writer) -> None:
        newest = await writer.put(1)
        rows = await self.sorted_rows(store)
        drafts = [
            writer.draft(2, counter=2),
            writer.draft(2, collection_id=PHOTOS, counter=1),
            writer.draft(1, base=new_id(), counter=3),
            writer.draft(3, counter=4),
            writer.draft(3, collection_id=PHOTOS, counter=2),
        ]
        appended = await writer.append(*drafts, atomic=True)
        assert codes(appended) == ["atomic_refused", "atomic_refused", "conflict", "out_of_order", "atomic_refused"]
        assert appended.answers[2] == Answer(0, "conflict", 1, newest.header.change_id)
        assert appended.fresh == [] and appended.used_bytes == len(newest.sealed)
        assert await self.sorted_rows(store) == rows

    async def test_an_atomic_append_can_be_sent_again(self, store: Store, writer: Writer) -> None:
        drafts = [writer.draft(1), writer.draft(2), writer.draft(3)]
        first = await writer.append(*drafts, atomic=True)
        rows = await self.sorted_rows(store)
        again = await writer.append(*drafts, atomic=True)
        assert again.answers == first.answers and again.fresh == []
        assert await self.sorted_rows(store) == rows

    async def test_what_was_in_the_log_keeps_its_seq_when_an_atomic_append_is_refused(self, writer: Writer) -> None:
        kept = await writer.put(1)
        fresh = writer.draft(2, counter=2)
        appended = await writer.append(kept, fresh, fresh, writer.draft(counter=9), atomic=True)
        assert appended.answers == [
            Answer(1),
            Answer(code="atomic_refused"),
            Answer(code="atomic_refused"),
            Answer(code="out_of_order"),
        ]
        assert await writer.seqs() == [1]

    async def test_a_refused_atomic_wipe_wipes_nothing(self, store: Store, writer: Writer) -> None:
        await writer.put(1)
        await store.put_witness(writer.key(), writer.device_id, 1, b"witness")
        rows = await self.sorted_rows(store)
        await writer.append(writer.draft(kind=Kind.WIPE, counter=2), writer.draft(counter=9), atomic=True)
        assert await self.sorted_rows(store) == rows

    async def test_a_refused_atomic_append_leaves_the_rest_of_its_batch_alone(
        self, store: Store, writer: Writer
    ) -> None:
        other = await another(writer)
        first, refused, last = await store.append(
            [
                writer.request(writer.draft(1, size=200)),
                other.request(other.draft(2, counter=1), other.draft(2, counter=5), atomic=True),
                writer.request(writer.draft(1, size=200), writer.draft(2, size=200)),
            ],
            NOW,
        )
        assert first.answers == [Answer(1)] and last.answers == [Answer(2), Answer(3)]
        assert codes(refused) == ["atomic_refused", "out_of_order"]
        assert [each.used_bytes for each in (first, refused, last)] == [200, 200, 600]
        assert await writer.seqs() == [1, 2, 3] and await writer.seqs(live_only=True) == [2, 3]
        assert await writer.used_bytes() == 600
        assert await other.answer(other.draft(counter=1)) == Answer(4)

    # --- limits and order of judgement --------------------------------------------------------

    async def test_a_space_takes_so_many_collections_and_no_more(self) -> None:
        store = await self.make(limits=Limits(collections_per_space_max=2))
        writer = await new_writer(store)
        await writer.put(collection_id=NOTES)
        await writer.put(collection_id=PHOTOS)
        rows = await self.sorted_rows(store)
        third = new_id()
        for kind in (Kind.PUT, Kind.DELETE):
            draft = writer.draft(collection_id=third, kind=kind, counter=1)
            assert await writer.answer(draft) == Answer(code="too_many")
        assert await self.sorted_rows(store) == rows
        await writer.put(collection_id=NOTES)
        await store.close()

    async def test_a_refused_first_draft_makes_no_collection(self, store: Store, writer: Writer) -> None:
        await writer.append(writer.draft(base=new_id(), counter=1))
        assert await store.states(writer.account_id, writer.space_id, writer.device_id, None) == []

    async def test_faults_are_judged_in_the_promised_order(self) -> None:
        store = await self.make(limits=Limits(collections_per_space_max=1), quota_bytes=400)
        writer = await new_writer(store)
        await writer.put(size=400)

        async def code(**header: Any) -> str:
            return (await writer.answer(writer.draft(**header))).code

        assert await code(counter=1, base=new_id()) == "device_cloned"
        assert await code(counter=3, base=new_id()) == "out_of_order"
        assert await code(counter=2, collection_id=PHOTOS, base=new_id()) == "out_of_order"
        assert await code(counter=1, collection_id=PHOTOS, base=new_id()) == "conflict"
        assert await code(counter=1, collection_id=PHOTOS, base=ZERO_ID) == "too_many"
        assert await code(counter=2, base=new_id()) == "conflict"
        assert await code(counter=2) == "quota_exceeded"
        await store.close()

    async def test_a_space_that_is_not_there_is_not_found(self, store: Store, writer: Writer) -> None:
        rows = await self.sorted_rows(store)
        lost = Writer(store, writer.account_id, new_id(), writer.device_id)
        appended = await lost.append(lost.draft(), lost.draft())
        assert codes(appended) == ["not_found", "not_found"] and not appended.closing
        assert await self.sorted_rows(store) == rows

    # --- wiping, purging, deleting ------------------------------------------------------------

    async def test_after_a_wipe_only_the_wipe_is_left(self, store: Store, writer: Writer) -> None:
        other = await another(writer)
        drafts = [await writer.put(1), await other.put(1), await writer.delta(1), await other.delete(2)]
        drafts += [await writer.write(3, kind=Kind.KEYRING), await writer.purge(4)]
        await store.put_witness(writer.key(), other.device_id, 1, b"a sealed witness")
        assert await store.compact(NOW + 1, 1) == 1  # leaves a receipt
        bystander = await writer.put(9, collection_id=PHOTOS)
        wipe = await writer.wipe(size=200)

        rows = await self.rows(store)
        for draft in drafts:
            assert not mentions(rows, draft.sealed[112:])
            assert not mentions(rows, draft.header.change_id)
            assert not mentions(rows, hashlib.sha256(draft.sealed).digest()[:8])
        assert not mentions(rows, b"a sealed witness")
        assert not [row for number in (1, 2, 3) for row in mentions(rows, rid(number))]
        assert (await writer.read()).changes == [Change(7, int(NOW * 1000), wipe.sealed)]
        by_device = {each.device_id: each for each in (writer, other)}
        for draft in drafts:
            assert await by_device[draft.header.device_id].answer(draft) == Answer(code="wiped")
        assert await store.witnesses(writer.key()) == []
        assert (await writer.read(collection_id=PHOTOS)).changes[0].sealed == bystander.sealed
        assert await writer.used_bytes() == 200 + len(bystander.sealed)

    async def test_after_a_wipe_seqs_and_counters_go_on(self, store: Store, writer: Writer) -> None:
        first = await writer.put()
        wipe = await writer.wipe()
        assert await store.states(writer.account_id, writer.space_id, writer.device_id, [NOTES]) == [(NOTES, 2, 2)]
        assert await writer.answer(first) == Answer(code="wiped")
        assert await writer.answer(writer.draft(counter=1)) == Answer(code="wiped")
        assert await writer.answer(wipe) == Answer(2)
        await writer.put()
        assert await writer.seqs() == [2, 3]
        await writer.wipe()
        assert await writer.seqs() == [4]
        assert await writer.answer(wipe) == Answer(code="wiped")

    async def test_after_a_wipe_a_record_does_not_exist(self, writer: Writer) -> None:
        await writer.put()
        await writer.wipe()
        assert await writer.answer(writer.draft(base=ZERO_ID)) == Answer(3)

    async def test_a_wipe_in_the_middle_of_an_append_keeps_what_follows(self, writer: Writer) -> None:
        drafts = [writer.draft(1), writer.draft(kind=Kind.WIPE), writer.draft(2)]
        appended = await writer.append(*drafts)
        assert appended.answers == [Answer(1), Answer(2), Answer(3)]
        assert [change.seq for _, change in appended.fresh] == [1, 2, 3]
        assert await writer.seqs() == [2, 3]
        assert await writer.used_bytes() == appended.used_bytes == sum(len(draft.sealed) for draft in drafts[1:])

    async def test_a_purge_drops_live_tombstones_up_to_its_seq(self, writer: Writer) -> None:
        await writer.put(1)
        await writer.delete(1)
        await writer.delete(2)
        await writer.put(2)
        await writer.delete(3)
        await writer.delete(4)
        await writer.purge(5)
        assert await writer.seqs() == [1, 3, 4, 6, 7]  # 3 is replaced: that is for compaction
        assert await writer.seqs(live_only=True) == [4, 6, 7]

    async def test_a_purge_beyond_the_head_is_one_up_to_the_head(self, writer: Writer) -> None:
        await writer.delete(1)
        await writer.purge(2**64 - 1)
        await writer.delete(2)
        assert await writer.seqs() == [2, 3]

    async def test_deleting_a_space_leaves_no_row_of_it(self, store: Store, writer: Writer) -> None:
        other = await another(writer)
        await writer.put(7)
        before = await self.sorted_rows(store)
        space = await store.create_space(a_space(writer.account_id), 50, NOW)
        for device in (writer, other):
            doomed = Writer(store, writer.account_id, space.space_id, device.device_id)
            for collection_id in (NOTES, PHOTOS):
                await doomed.put(1, collection_id=collection_id)
                await doomed.put(1, collection_id=collection_id)
                await store.put_witness(doomed.key(collection_id), doomed.device_id, 1, b"a sealed witness")
        assert await store.compact(NOW + 1, 2) == 2
        assert await self.sorted_rows(store) != before
        assert await store.delete_space(writer.account_id, space.space_id) is True
        assert await self.sorted_rows(store) == before
        assert not mentions(await self.rows(store), space.space_id)
        assert await store.delete_space(writer.account_id, space.space_id) is False
        assert codes(await doomed.append(doomed.draft())) == ["not_found"]

    async def test_deleting_an_account_leaves_no_row_of_it(self, store: Store) -> None:
        bystander = await new_writer(store)
        await bystander.put()
        before = await self.sorted_rows(store)
        account_id, device, attempt = await new_account(store)
        await store.add_attempt(an_attempt(attempt.address_tag))
        for _ in range(2):
            space = await store.create_space(a_space(account_id), 50, NOW)
            doomed = Writer(store, account_id, space.space_id, device.device_id)
            await doomed.put()
            await doomed.put()
            await store.put_witness(doomed.key(), doomed.device_id, 1, b"a sealed witness")
        gone = await another(doomed)
        await gone.put()
        await store.revoke(account_id, [gone.device_id], NOW)
        await store.compact(NOW + 1, 1)
        assert await store.delete_account(account_id) is True
        assert await self.sorted_rows(store) == before
        for id_ in (account_id, attempt.address_tag, device.device_id, gone.device_id):
            assert not mentions(await self.rows(store), id_)
        assert await store.delete_account(account_id) is False
        assert (await doomed.append(doomed.draft())).closing == "revoked"
        assert await store.account(account_id) is None and await store.devices(account_id) == []

    async def test_a_full_account_and_each_of_its_spaces_go_without_a_trace(self, store: Store) -> None:
        before = await self.sorted_rows(store)
        writer = await a_full_account(store)
        device_ids = {values(row)["device_id"] for row in await dumped(store) if row[0] == "device"}
        assert {row[0] for row in await dumped(store, [writer.account_id])} == set(TABLES) - {"hub", "invite", "listed"}
        space_ids = [space.space_id for space in await store.spaces(writer.account_id)]
        assert await store.delete_space(writer.account_id, space_ids[1]) is True
        assert not mentions(await self.rows(store), space_ids[1])
        assert mentions(await self.rows(store), space_ids[0])
        assert await store.delete_account(writer.account_id) is True
        assert await self.sorted_rows(store) == before
        for id_ in (writer.account_id, *space_ids, *device_ids):
            assert not mentions(await self.rows(store), id_)

    async def test_deletions_are_set_cancelled_and_due(self, store: Store, writer: Writer) -> None:
        account_id, space_id = writer.account_id, writer.space_id
        assert await store.due_deletions(NOW) == ([], [])
        assert await store.schedule_account_deletion(account_id, NOW + 5) is True
        assert await store.schedule_space_deletion(account_id, space_id, NOW + 7) is True
        account, (space,) = await store.account(account_id), await store.spaces(account_id)
        assert account is not None and (account.deleted_at, space.deleted_at) == (NOW + 5, NOW + 7)
        assert await store.due_deletions(NOW + 4.9) == ([], [])
        assert await store.due_deletions(NOW + 5) == ([account_id], [])
        assert await store.due_deletions(NOW + 7) == ([account_id], [(account_id, space_id)])
        await store.schedule_account_deletion(account_id, None)
        await store.schedule_space_deletion(account_id, space_id, None)
        assert await store.due_deletions(NOW + 100) == ([], [])
        assert await store.schedule_account_deletion(new_id(), NOW) is False
        assert await store.schedule_space_deletion(account_id, new_id(), NOW) is False

    # --- revoking -----------------------------------------------------------------------------

    async def test_a_revoked_device_appends_nothing(self, store: Store, writer: Writer) -> None:
        other = await another(writer)
        await other.put()
        assert await store.revoke(writer.account_id, [other.device_id], NOW) == [other.device_id]
        rows = await self.sorted_rows(store)
        assert await other.append(other.draft(), other.draft()) == Appended([], closing="revoked")
        assert await other.append(other.draft(), atomic=True) == Appended([], closing="revoked")
        assert await store.put_witness(other.key(), other.device_id, 1, b"w") is False
        assert await self.sorted_rows(store) == rows
        await writer.put()

    async def test_no_change_of_a_device_commits_after_its_revocation(self, store: Store, writer: Writer) -> None:
        other = await another(writer)

        async def head_total() -> int:
            states = await store.states(writer.account_id, writer.space_id, other.device_id, None)
            return sum(state.head for state in states)

        drafts = [other.draft(collection_id=new_id()) for _ in range(200)]
        appends = [asyncio.create_task(other.append(draft)) for draft in drafts[:100]]
        revocation = asyncio.create_task(store.revoke(writer.account_id, [other.device_id], NOW))
        appends += [asyncio.create_task(other.append(draft)) for draft in drafts[100:]]
        assert await revocation == [other.device_id]
        at_revocation = await head_total()
        answered = await asyncio.gather(*appends)
        assert await head_total() == at_revocation
        assert sum(1 for appended in answered if not appended.closing) == at_revocation
        assert any(appended.closing == "revoked" for appended in answered)

    async def test_revoking_names_whom_it_revoked(self, store: Store, writer: Writer) -> None:
        other, stranger = await another(writer), await new_writer(store)
        ids = [stranger.device_id, other.device_id, new_id(), other.device_id]
        assert await store.revoke(writer.account_id, ids, NOW + 3) == [other.device_id]
        assert await store.revoke(writer.account_id, ids, NOW + 4) == []
        revoked = await store.device(other.device_id)
        assert revoked is not None and revoked.revoked_at == NOW + 3
        assert [each.device_id for each in await store.devices(writer.account_id)] == [writer.device_id]
        asked = [writer.device_id, other.device_id, stranger.device_id, ids[2]]
        assert await store.stopped_among(asked) == {other.device_id: "revoked", ids[2]: "revoked"}

    # --- witnesses ----------------------------------------------------------------------------

    async def test_the_newest_witness_of_each_device_is_kept(self, store: Store, writer: Writer) -> None:
        other = await another(writer)
        await writer.put()
        assert await store.put_witness(writer.key(), writer.device_id, 5, b"five")
        assert await store.put_witness(writer.key(), other.device_id, 1, b"one")
        assert await store.put_witness(writer.key(), writer.device_id, 6, b"six")
        assert not await store.put_witness(writer.key(), writer.device_id, 6, b"six again")
        assert not await store.put_witness(writer.key(), writer.device_id, 4, b"four")
        assert not await store.put_witness(writer.key(), writer.device_id, 2**64 - 1, b"beyond")
        kept = sorted(await store.witnesses(writer.key()))
        assert kept == sorted([(writer.device_id, b"six"), (other.device_id, b"one")])
        assert await store.put_witness(writer.key(), writer.device_id, 2**63 - 1, b"last")

    async def test_a_collection_that_is_not_there_takes_no_witness(self, store: Store, writer: Writer) -> None:
        rows = await self.sorted_rows(store)
        assert not await store.put_witness(writer.key(), writer.device_id, 1, b"w")
        assert await store.witnesses(writer.key()) == []
        assert await self.sorted_rows(store) == rows

    async def test_a_witness_takes_no_seq_and_no_quota(self, store: Store, writer: Writer) -> None:
        await writer.put(size=200)
        await store.put_witness(writer.key(), writer.device_id, 1, b"w" * 1_000)
        assert await writer.used_bytes() == 200
        assert await writer.answer(writer.draft()) == Answer(2)

    # --- spaces -------------------------------------------------------------------------------

    async def test_a_space_is_created_once(self, store: Store) -> None:
        account_id, *_ = await new_account(store)
        space = a_space(account_id, key_epoch=3)
        assert await store.create_space(space, 50, NOW) == space
        assert await store.create_space(replace(space, key_epoch=9, app_id="other"), 50, NOW) == space
        with pytest.raises(Refusal) as refused:
            await store.create_space(replace(space, space_pk=os.urandom(32)), 50, NOW)
        assert refused.value.code == "bad_space_proof"
        assert await store.spaces(account_id) == [space]

    async def test_an_account_takes_so_many_spaces_and_no_more(self, store: Store) -> None:
        account_id, *_ = await new_account(store)
        spaces = [await store.create_space(a_space(account_id), 3, NOW - number) for number in range(3)]
        with pytest.raises(Refusal) as refused:
            await store.create_space(a_space(account_id), 3, NOW)
        assert refused.value.code == "too_many"
        assert await store.create_space(spaces[1], 3, NOW) == spaces[1]
        assert await store.spaces(account_id) == spaces[::-1]  # oldest first

    async def test_a_space_of_an_account_that_has_gone_is_not_found(self, store: Store) -> None:
        with pytest.raises(Refusal) as refused:
            await store.create_space(a_space(new_id()), 50, NOW)
        assert refused.value.code == "not_found"

    async def test_methods_that_name_anothers_things_find_nothing(self, store: Store, writer: Writer) -> None:
        stranger = await new_writer(store)
        await writer.put()
        await store.put_witness(writer.key(), writer.device_id, 1, b"w")
        rows = await self.sorted_rows(store)
        key = CollectionKey(stranger.account_id, writer.space_id, NOTES)
        assert await store.read(key, 0, live_only=False, changes_max=9, bytes_max=NO_BOUND) == Page([], 0, 0)
        assert await store.states(stranger.account_id, writer.space_id, writer.device_id, [NOTES]) == [(NOTES, 0, 0)]
        assert await store.states(stranger.account_id, writer.space_id, writer.device_id, None) == []
        assert await store.history(key, rid(1), before=0, limit=9) == ([], False)
        assert await store.witnesses(key) == []
        assert not await store.put_witness(key, stranger.device_id, 9, b"w")
        assert not await store.put_witness(writer.key(), stranger.device_id, 9, b"w")
        assert not await store.schedule_space_deletion(stranger.account_id, writer.space_id, NOW)
        assert not await store.delete_space(stranger.account_id, writer.space_id)
        assert not await store.approve(stranger.account_id, writer.device_id)
        assert await store.revoke(stranger.account_id, [writer.device_id], NOW) == []
        in_their_space = Writer(store, stranger.account_id, writer.space_id, stranger.device_id)
        assert codes(await in_their_space.append(in_their_space.draft())) == ["not_found"]
        with_their_account = Writer(store, writer.account_id, writer.space_id, stranger.device_id)
        assert (await with_their_account.append(with_their_account.draft())).closing == "revoked"
        with_their_device = Writer(store, stranger.account_id, stranger.space_id, writer.device_id)
        assert (await with_their_device.append(with_their_device.draft())).closing == "revoked"
        assert await self.sorted_rows(store) == rows

    # --- limits that all replicas share -------------------------------------------------------

    async def test_a_key_passes_so_often_and_is_told_when_it_may_again(self, store: Store) -> None:
        charges = [a_charge(b"anna", (3, 60))]
        waits = [await store.spend(charges, NOW + at) for at in (0, 10, 20, 21, 59.5, 60, 60, 69.5, 70)]
        assert waits == [0, 0, 0, 39, 0.5, 0, 10, 0.5, 0]

    async def test_the_longest_wait_of_several_spans_counts(self, store: Store) -> None:
        charges = [a_charge(b"anna", (2, 10), (3, 100))]
        waits = [await store.spend(charges, NOW + at) for at in (0, 1, 2, 10, 11, 11, 100, 100)]
        assert waits == [0, 0, 8, 0, 89, 89, 0, 1]

    async def test_being_refused_or_only_asking_costs_nothing(self, store: Store) -> None:
        charges = [a_charge(b"anna", (2, 60))]
        assert [await store.spend(charges, NOW, count=False) for _ in range(5)] == [0] * 5
        assert [await store.spend(charges, NOW) for _ in range(2)] == [0, 0]
        rows = await self.sorted_rows(store)
        assert [await store.spend(charges, NOW + at) for at in range(1, 60)] == [60 - at for at in range(1, 60)]
        assert await store.spend(charges, NOW + 1, count=False) == 59
        assert await self.sorted_rows(store) == rows
        assert await store.spend(charges, NOW + 60, count=False) == 0
        assert await self.sorted_rows(store) == rows
        assert await store.spend(charges, NOW + 60) == 0

    async def test_keys_do_not_touch_one_another(self, store: Store) -> None:
        anna, ben = a_charge(b"anna", (1, 60)), a_charge(b"ben", (1, 60))
        assert [await store.spend([each], NOW) for each in (anna, ben, anna)] == [0, 0, 60]
        assert await store.spend([], NOW) == 0

    async def test_every_key_is_counted_or_none_is(self, store: Store) -> None:
        tight, loose = a_charge(b"tight", (1, 60)), a_charge(b"loose", (2, 30))
        assert await store.spend([tight, loose], NOW) == 0
        assert await store.spend([tight, loose], NOW + 1) == await store.spend([loose, tight], NOW + 1) == 59
        assert [await store.spend([loose], NOW + 1) for _ in range(2)] == [0, 29]
        assert await store.spend([loose, a_charge(b"other", (1, 60))], NOW + 1) == 29
        assert await store.spend([a_charge(b"other", (1, 60))], NOW + 1) == 0

    async def test_of_calls_at_once_no_more_pass_than_the_spans_allow(self, store: Store, replica: Store) -> None:
        anna, ben = a_charge(b"anna", (7, 60)), a_charge(b"ben", (9, 60))
        both = [[anna, ben], [ben, anna]]  # in whatever order they are named
        calls = ((store, replica)[number % 2].spend(both[number // 2 % 2], NOW) for number in range(40))
        waits = await asyncio.gather(*calls)
        assert (waits.count(0.0), set(waits)) == (7, {0.0, 60.0})
        calls = ((store, replica)[number % 2].spend([ben], NOW) for number in range(20))
        assert (await asyncio.gather(*calls)).count(0.0) == 2

    async def test_replicas_whose_clocks_differ_count_together(self, store: Store, replica: Store) -> None:
        charges = [a_charge(b"anna", (2, 60))]
        assert await store.spend(charges, NOW + 5) == 0
        assert await replica.spend(charges, NOW) == 0
        assert await store.spend(charges, NOW + 5) == 55
        assert await replica.spend(charges, NOW) == 60
        assert [await replica.spend(charges, NOW + 60) for _ in range(2)] == [0, 5]

    async def test_what_was_counted_is_known_after_a_restart(self) -> None:
        store = await self.make()
        charges = [a_charge(b"anna", (1, 60))]
        await store.spend(charges, NOW)
        store = await self.restart(store)
        assert await store.spend(charges, NOW + 20) == 40
        await store.close()

    async def test_what_was_counted_long_ago_is_forgotten(self, store: Store) -> None:
        before = await self.sorted_rows(store)
        anna, ben = a_charge(b"anna", (2, 60)), a_charge(b"ben", (1, 60))
        assert await store.spend([anna, ben], NOW) == await store.spend([anna], NOW + 10) == 0
        assert await store.forget_spent(NOW) == 0
        assert await store.spend([anna], NOW + 20) == 40
        assert await store.forget_spent(NOW + 10) == 2
        assert [await store.spend([each], NOW + 20) for each in (anna, anna, ben)] == [0, 50, 0]
        assert await store.forget_spent(NOW + 100) == 3
        assert await self.sorted_rows(store) == before

    # --- attempts and invites -----------------------------------------------------------------

    async def test_an_attempt_is_charged_exactly_tries_max_times(self, store: Store) -> None:
        attempt = an_attempt()
        await store.add_attempt(attempt)
        charged = await asyncio.gather(*(store.charge_attempt(attempt.attempt_id, NOW, 5) for _ in range(20)))
        given = [each for each in charged if each is not None]
        assert sorted(each.tries for each in given) == [1, 2, 3, 4, 5]
        assert all(replace(each, tries=0) == attempt for each in given)

    async def test_an_attempt_that_is_unknown_expired_or_consumed_is_not_charged(self, store: Store) -> None:
        attempt, consumed = an_attempt(), an_attempt()
        await store.add_attempt(attempt)
        await store.add_attempt(consumed)
        await store.consume_attempt(consumed.attempt_id, NOW)
        rows = await self.sorted_rows(store)
        assert await store.charge_attempt(new_id(), NOW, 5) is None
        assert await store.charge_attempt(attempt.attempt_id, NOW + 600, 5) is None
        assert await store.charge_attempt(consumed.attempt_id, NOW, 5) is None
        assert await self.sorted_rows(store) == rows
        assert await store.charge_attempt(attempt.attempt_id, NOW + 599, 5) is not None

    async def test_a_consumed_attempt_has_one_winner(self, store: Store) -> None:
        attempt = an_attempt()
        await store.add_attempt(attempt)
        won = await asyncio.gather(*(store.consume_attempt(attempt.attempt_id, NOW) for _ in range(20)))
        assert won.count(True) == 1
        assert await store.consume_attempt(new_id(), NOW) is False

    async def test_a_code_is_sent_again_so_often_and_no_sooner(self, store: Store) -> None:
        attempt = an_attempt(welcome=False, invite=os.urandom(32))
        await store.add_attempt(attempt)

        async def resend(seconds: float, device_pk: bytes = attempt.device_pk) -> Attempt | None:
            at = NOW + seconds
            return await store.note_resend(attempt.attempt_id, device_pk, at, not_before_s=60, sends_max=3)

        rows = await self.sorted_rows(store)
        assert await resend(59.9) is None
        assert await resend(60, os.urandom(32)) is None
        assert await resend(600) is None
        assert await self.sorted_rows(store) == rows
        assert await resend(60) == replace(attempt, sends=2, sent_at=NOW + 60)
        assert await resend(119) is None
        assert await resend(120) == replace(attempt, sends=3, sent_at=NOW + 120)
        assert await resend(180) is None

    async def test_a_consumed_attempt_is_not_sent_again(self, store: Store) -> None:
        attempt = an_attempt()
        await store.add_attempt(attempt)
        await store.consume_attempt(attempt.attempt_id, NOW)
        again = store.note_resend(attempt.attempt_id, attempt.device_pk, NOW + 99, not_before_s=60, sends_max=3)
        assert await again is None

    async def test_old_attempts_and_spent_invites_are_forgotten(self, store: Store) -> None:
        old, new = an_attempt(created_at=NOW), an_attempt(created_at=NOW + 10)
        await store.add_attempt(old)
        await store.add_attempt(new)
        await store.add_invite(b"expired", NOW)
        await store.add_invite(b"open", NOW + 1_000)
        await store.add_invite(b"used", NOW + 1_000)
        account = Account(new_id(), None, 0, DAY)
        joined = an_attempt(invite=b"used", created_at=NOW + 10)
        await store.add_attempt(joined)
        await enrol(store, joined, a_device(account.account_id), account, now=NOW + 1)
        assert await store.forget_attempts(NOW) == 0
        assert await store.forget_attempts(NOW + 1) == 2
        assert await store.forget_attempts(NOW + 2) == 1
        assert mentions(await self.rows(store), new.attempt_id) and not mentions(await self.rows(store), old.attempt_id)
        assert await store.forget_attempts(NOW + 11) == 2
        rows = await self.rows(store)
        assert not mentions(rows, b"expired") and not mentions(rows, b"used")
        assert await store.invite_is_open(b"open", NOW)

    async def test_an_invite_is_open_until_it_expires(self, store: Store) -> None:
        await store.add_invite(b"token", NOW + 10)
        assert await store.invite_is_open(b"token", NOW + 9)
        assert not await store.invite_is_open(b"token", NOW + 10)
        assert not await store.invite_is_open(b"other", NOW)

    async def test_an_invite_makes_one_account(self, store: Store) -> None:
        await store.add_invite(b"token", NOW + 10)
        attempts = [an_attempt(invite=b"token") for _ in range(5)]
        for attempt in attempts:
            await store.add_attempt(attempt)

        async def join(attempt: Attempt) -> str:
            account = Account(new_id(), None, 0, DAY)
            try:
                await enrol(store, attempt, a_device(account.account_id), account)
            except Refusal as refusal:
                return refusal.code
            return ""

        assert sorted(await asyncio.gather(*map(join, attempts))) == [""] + ["enrol_failed"] * 4
        assert await store.count_accounts() == 1
        assert not await store.invite_is_open(b"token", NOW)
        await store.add_invite(b"token", NOW + 10)
        assert not await store.invite_is_open(b"token", NOW)

    async def test_an_invite_is_not_used_by_an_account_that_is_there(self, store: Store) -> None:
        account_id, _, made = await new_account(store)
        await store.add_invite(b"token", NOW + 10)
        attempt = an_attempt(made.address_tag, invite=b"token")
        await store.add_attempt(attempt)
        await enrol(store, attempt, a_device(account_id), None)
        assert await store.invite_is_open(b"token", NOW)

    # --- enrolment ----------------------------------------------------------------------------

    async def test_enrolling_makes_the_account_and_its_device(self, store: Store) -> None:
        account = Account(new_id(), 77, 0, DAY)
        attempt, device = an_attempt(), a_device(account.account_id, probation_until=NOW + 9, scope="account")
        await store.add_attempt(attempt)
        assert await store.find_account(attempt.address_tag) is None
        await enrol(store, attempt, device, account)
        assert await store.find_account(attempt.address_tag) == account
        assert await store.account(account.account_id) == account
        assert await store.device(device.device_id) == device
        assert await store.devices(account.account_id) == [device]
        assert await store.consume_attempt(attempt.attempt_id, NOW) is False
        assert await store.count_accounts() == 1

    async def test_enrolling_at_once_has_one_winner(self, store: Store) -> None:
        """Twenty with one attempt, and twenty attempts for one address: one account each."""

        async def enrols(attempt: Attempt) -> str:
            account = Account(new_id(), None, 0, DAY)
            try:
                await enrol(store, attempt, a_device(account.account_id), account)
            except Refusal as refusal:
                return refusal.code
            return ""

        one, tag = an_attempt(), os.urandom(32)
        many = [an_attempt(tag) for _ in range(20)]
        for attempt in (one, *many):
            await store.add_attempt(attempt)
        expected = [""] + ["enrol_failed"] * 19
        assert sorted(await asyncio.gather(*(enrols(one) for _ in range(20)))) == expected
        assert sorted(await asyncio.gather(*map(enrols, many))) == expected
        assert await store.count_accounts() == 2

    async def refused_enrolment(self, store: Store, attempt: Attempt, device: Device, *args: Any, **kw: Any) -> str:
        """The code an enrolment is refused with; it must have written nothing."""
        rows = await self.sorted_rows(store)
        with pytest.raises(Refusal) as refused:
            await enrol(store, attempt, device, *args, **kw)
        assert await self.sorted_rows(store) == rows
        return refused.value.code

    async def test_an_attempt_that_is_not_live_enrols_nobody(self, store: Store) -> None:
        account = Account(new_id(), None, 0, DAY)
        device = a_device(account.account_id)
        attempt, consumed = an_attempt(), an_attempt()
        await store.add_attempt(attempt)
        await store.add_attempt(consumed)
        await store.consume_attempt(consumed.attempt_id, NOW)
        assert await self.refused_enrolment(store, an_attempt(), device, account) == "enrol_failed"
        assert await self.refused_enrolment(store, consumed, device, account) == "enrol_failed"
        assert await self.refused_enrolment(store, attempt, device, account, now=NOW + 600) == "enrol_failed"

    async def test_an_account_that_came_or_went_meanwhile_enrols_nobody(self, store: Store) -> None:
        account_id, _, made = await new_account(store)
        again, lost, wrong = an_attempt(made.address_tag), an_attempt(), an_attempt()
        for attempt in (again, lost, wrong):
            await store.add_attempt(attempt)
        account = Account(new_id(), None, 0, DAY)
        assert await self.refused_enrolment(store, again, a_device(account.account_id), account) == "enrol_failed"
        assert await self.refused_enrolment(store, lost, a_device(new_id()), None) == "enrol_failed"
        assert await self.refused_enrolment(store, wrong, a_device(account_id), None) == "enrol_failed"

    async def test_an_invite_that_is_not_open_enrols_nobody(self, store: Store) -> None:
        await store.add_invite(b"expired", NOW)
        account = Account(new_id(), None, 0, DAY)
        for token in (b"expired", b"unknown"):
            attempt = an_attempt(invite=token)
            await store.add_attempt(attempt)
            assert await self.refused_enrolment(store, attempt, a_device(account.account_id), account) == "enrol_failed"

    async def test_first_only_makes_the_first_account_and_no_second(self, store: Store) -> None:
        for expected in ("", "enrol_failed"):
            attempt, account = an_attempt(), Account(new_id(), None, 0, DAY)
            await store.add_attempt(attempt)
            device = a_device(account.account_id)
            if expected:
                assert await self.refused_enrolment(store, attempt, device, account, first_only=True) == expected
            else:
                await enrol(store, attempt, device, account, first_only=True)
                first = account.account_id, attempt
        another_device = an_attempt(first[1].address_tag)
        await store.add_attempt(another_device)
        await enrol(store, another_device, a_device(first[0]), None, first_only=True)
        assert len(await store.devices(first[0])) == 2

    async def test_a_device_id_or_key_is_enrolled_once(self, store: Store) -> None:
        account_id, device, made = await new_account(store)
        await store.revoke(account_id, [device.device_id], NOW)
        attempt = an_attempt(made.address_tag)
        await store.add_attempt(attempt)
        for twin in (
            replace(a_device(account_id), device_id=device.device_id),
            replace(a_device(account_id), device_pk=device.device_pk),
        ):
            assert await self.refused_enrolment(store, attempt, twin, None) == "device_exists"
            with pytest.raises(Refusal) as refused:
                await store.add_device(twin, per_account_max=9, per_app_max=9)
            assert refused.value.code == "device_exists"

    async def test_an_account_takes_so_many_devices_and_no_more(self, store: Store) -> None:
        account_id, first, made = await new_account(store)

        async def add(**fields: Any) -> str:
            rows = await self.sorted_rows(store)
            try:
                await store.add_device(a_device(account_id, **fields), per_account_max=4, per_app_max=2)
            except Refusal as refusal:
                assert await self.sorted_rows(store) == rows
                return refusal.code
            return ""

        assert [await add() for _ in range(2)] == ["", "too_many"]
        assert [await add(app_id="photos.example") for _ in range(3)] == ["", "", "too_many"]
        assert await add(app_id="third.example") == "too_many"
        attempt = an_attempt(made.address_tag)
        await store.add_attempt(attempt)
        limits = {"per_account_max": 4, "per_app_max": 2}
        device = a_device(account_id, app_id="third.example")
        assert await self.refused_enrolment(store, attempt, device, None, **limits) == "too_many"
        await store.revoke(account_id, [first.device_id], NOW)
        await enrol(store, attempt, device, None, per_account_max=4, per_app_max=2)

    async def test_a_device_for_an_account_that_has_gone_is_not_kept(self, store: Store) -> None:
        rows = await self.sorted_rows(store)
        with pytest.raises(Refusal) as refused:
            await store.add_device(a_device(new_id()), per_account_max=9, per_app_max=9)
        assert refused.value.code == "enrol_failed"
        assert await self.sorted_rows(store) == rows

    async def test_devices_are_listed_oldest_first_and_note_when_they_were_seen(self, store: Store) -> None:
        account_id, first, _ = await new_account(store)
        older = a_device(account_id, enrolled_at=NOW - 5)
        await store.add_device(older, per_account_max=9, per_app_max=9)
        await store.note_seen([first.device_id, new_id()], DAY + 3)
        await store.note_seen([first.device_id], DAY + 1)
        assert await store.devices(account_id) == [older, replace(first, last_seen_day=DAY + 3)]
        assert await store.device(new_id()) is None

    async def test_approving_ends_a_probation(self, store: Store) -> None:
        account_id, *_ = await new_account(store)
        device = a_device(account_id, probation_until=NOW + 9)
        await store.add_device(device, per_account_max=9, per_app_max=9)
        assert await store.approve(account_id, device.device_id) is True
        assert await store.device(device.device_id) == replace(device, probation_until=None)
        assert await store.approve(account_id, new_id()) is False
        await store.revoke(account_id, [device.device_id], NOW)
        assert await store.approve(account_id, device.device_id) is False

    async def test_a_new_pepper_wraps_every_address_once(self) -> None:
        store = await self.make()
        account_id, _, made = await new_account(store)
        other_id, _, other = await new_account(store)
        waiting = an_attempt(made.address_tag)
        await store.add_attempt(waiting)
        assert await store.tag_generation() == 0

        def wrap(tag: bytes) -> bytes:
            return bytes(byte ^ 0xFF for byte in tag)

        assert await store.rewrap_addresses(wrap, 0) == 0
        assert await store.rewrap_addresses(wrap, 2) == 2
        assert await store.find_account(made.address_tag) is None
        found = await store.find_account(wrap(made.address_tag))
        assert found is not None and found.account_id == account_id
        found = await store.find_account(wrap(other.address_tag))
        assert found is not None and found.account_id == other_id
        charged = await store.charge_attempt(waiting.attempt_id, NOW, 5)
        assert charged is not None and charged.address_tag == wrap(made.address_tag)
        store = await self.restart(store)
        assert await store.tag_generation() == 2
        assert await store.rewrap_addresses(wrap, 1) == await store.rewrap_addresses(wrap, 2) == 0
        assert await store.tag_generation() == 2
        assert await store.find_account(wrap(made.address_tag)) is not None
        await store.close()

    async def test_a_wrap_that_fails_leaves_every_address_as_it_was(self, store: Store) -> None:
        await new_account(store)
        await new_account(store)
        rows, calls = await self.sorted_rows(store), list[bytes]()

        def fail(tag: bytes) -> bytes:
            calls.append(tag)
            if len(calls) == 2:
                raise ValueError("no pepper")
            return os.urandom(32)

        with pytest.raises(ValueError, match="no pepper"):
            await store.rewrap_addresses(fail, 1)
        assert await self.sorted_rows(store) == rows

    # --- what the operator grants and asks ------------------------------------------------------

    async def test_what_is_remembered_is_replaced_and_is_no_claim(self) -> None:
        store = await self.make()
        assert await store.recall("name") is None
        await store.claim("name", b"claimed")
        assert await store.recall("name") is None
        await store.remember("name", b"one")
        await store.remember("name", b"other")
        store = await self.restart(store)
        assert await store.recall("name") == b"other" and await store.claim("name", b"late") == b"claimed"
        await store.close()

    async def test_terms_are_kept_and_replaced_whole(self, store: Store, writer: Writer) -> None:
        before = await account_of(store, writer.account_id)
        assert await store.set_terms(writer.account_id, Terms(5, "family", "no. 5", NOW + 1)) is True
        after = replace(before, quota_bytes=5, plan="family", billing_ref="no. 5", paid_until=NOW + 1)
        assert await account_of(store, writer.account_id) == after
        assert await store.set_terms(writer.account_id, Terms()) is True
        assert await account_of(store, writer.account_id) == before
        assert await store.set_terms(new_id(), Terms()) is False

    async def test_a_billing_ref_is_one_accounts(self, store: Store, writer: Writer) -> None:
        other = await new_writer(store)
        await store.set_terms(writer.account_id, Terms(billing_ref="no. 5"))
        assert await store.set_terms(writer.account_id, Terms(plan="again", billing_ref="no. 5")) is True
        with pytest.raises(Refusal, match="billing_ref") as refused:
            await store.set_terms(other.account_id, Terms(1, "x", "no. 5"))
        assert refused.value.code == "bad_request"
        assert (await account_of(store, other.account_id)).plan == ""
        await store.set_terms(writer.account_id, Terms())
        assert await store.set_terms(other.account_id, Terms(billing_ref="no. 5")) is True

    async def test_an_accounts_own_quota_counts_until_it_is_paid_no_longer(self) -> None:
        store = await self.make(quota_bytes=1_000)
        writer = await new_writer(store)
        await store.set_terms(writer.account_id, Terms(quota_bytes=2_000, paid_until=NOW + 10))
        await writer.put(1, size=1_500, now=NOW + 9)
        late = writer.draft(2, size=300)
        assert (await writer.answer(late, NOW + 10)).code == "quota_exceeded"
        assert (await writer.answer(late, NOW + 9)).code == ""
        await store.close()

    async def test_no_change_of_an_account_commits_while_it_is_suspended(
        self, store: Store, replica: Store, writer: Writer
    ) -> None:
        other = await another(writer)
        rows = [other.draft(collection_id=new_id()) for _ in range(100)]
        appends = [asyncio.create_task(other.append(draft)) for draft in rows[:50]]
        suspension = asyncio.create_task(replica.suspend(writer.account_id, NOW))
        appends += [asyncio.create_task(other.append(draft)) for draft in rows[50:]]
        assert await suspension is True
        (at_suspension,) = await store.space_facts(writer.account_id)
        answered = await asyncio.gather(*appends)
        (after,) = await store.space_facts(writer.account_id)
        assert after == at_suspension
        assert after.changes == sum(1 for appended in answered if not appended.closing)
        assert {appended.closing for appended in answered} <= {"", "suspended"}
        assert await other.append(other.draft(), atomic=True) == Appended([], closing="suspended")
        await store.revoke(writer.account_id, [other.device_id], NOW)
        asked = [writer.device_id, other.device_id]
        assert await store.stopped_among(asked) == {writer.device_id: "suspended", other.device_id: "revoked"}
        assert (await store.totals()).suspended == 1
        assert await store.suspend(writer.account_id, None) is True
        assert await store.stopped_among(asked) == {other.device_id: "revoked"}
        await writer.put()
        assert await store.suspend(new_id(), NOW) is False

    async def test_accounts_are_listed_page_by_page_and_found_by_id_or_billing_ref(self, store: Store) -> None:
        writers = sorted([await new_writer(store) for _ in range(5)], key=lambda each: each.account_id)
        first = writers[0]
        await first.put()
        second = await another(first)
        await store.note_seen([second.device_id], DAY + 3)
        await store.set_terms(writers[3].account_id, Terms(billing_ref="No. 5"))
        listed, after = list[AccountFacts](), b""
        while page := await store.accounts(after=after, limit=2):
            assert len(page) <= 2
            listed, after = listed + page, page[-1].account.account_id
        assert [facts.account for facts in listed] == [await account_of(store, each.account_id) for each in writers]
        assert listed[0][1:] == (2, 1, DAY + 3) and listed[1][1:] == (1, 1, DAY)
        await store.revoke(first.account_id, [first.device_id, second.device_id], NOW)
        for word in (first.account_id.hex(), first.account_id.hex()[:9].upper()):
            (found,) = await store.accounts(limit=9, matching=word)
            assert found.account.account_id == first.account_id and found[1:] == (0, 1, 0)
        (found,) = await store.accounts(limit=9, matching="No. 5")
        assert found.account.account_id == writers[3].account_id
        assert await store.accounts(limit=9, matching="No.") == await store.accounts(limit=9, matching="%") == []

    async def test_totals_count_what_is_there(self, store: Store, writer: Writer) -> None:
        other = await another(writer)
        await writer.put(size=300)
        await writer.put(collection_id=PHOTOS, size=400)
        await new_account(store)
        assert await store.totals() == Totals(2, 0, 3, 1, 2, 700)
        await store.revoke(writer.account_id, [other.device_id], NOW)
        assert (await store.totals()).devices == 2

    async def test_accounts_near_their_quota_are_told_the_fullest_first(self, store: Store) -> None:
        half, full, paid, small = [await new_writer(store) for _ in range(4)]
        await half.put(size=500)
        await full.put(size=900)
        await paid.put(size=900)
        await small.put(size=190)
        await store.set_terms(paid.account_id, Terms(quota_bytes=900, paid_until=NOW + 10))
        await store.set_terms(small.account_id, Terms(quota_bytes=200))

        async def near(share: float, now: float = NOW, limit: int = 9) -> list[bytes]:
            return [account.account_id for account in await store.near_quota(share, 1_000, now, limit)]

        assert await near(0.9) == [paid.account_id, small.account_id, full.account_id]
        assert await near(0.901) == [paid.account_id, small.account_id]
        assert (await near(0.9, NOW + 10))[0] == small.account_id
        assert await near(0.5, limit=2) == [paid.account_id, small.account_id] and len(await near(0.5)) == 4
        assert (await store.near_quota(1.0, 1_000, NOW, 1)) == [await account_of(store, paid.account_id)]

    async def test_silent_devices_are_told_with_the_deletions_that_wait_for_them(
        self, store: Store, writer: Writer
    ) -> None:
        silent, foreign, gone = await another(writer), a_device(writer.account_id, app_id="photos.example"), None
        await store.add_device(foreign, per_account_max=99, per_app_max=99)
        gone = await another(writer)
        await store.revoke(writer.account_id, [gone.device_id], NOW)
        await store.note_seen([writer.device_id], DAY + 31)
        await writer.put(1)
        for record in (1, 2):
            await writer.delete(record, size=250)
        await writer.delete(2, size=300)
        await writer.put(3)
        told = await store.silent_devices(DAY + 1, 9)
        account_id = writer.account_id
        assert told == [
            SilentDevice(account_id, silent.device_id, "notes.example", DAY, 550),
            SilentDevice(account_id, foreign.device_id, "photos.example", DAY, 0),
        ]
        assert await store.silent_devices(DAY + 1, 1) == told[:1]
        assert await store.silent_devices(DAY, 9) == []

    async def test_operators_are_made_and_dropped(self, store: Store, writer: Writer) -> None:
        other = await new_writer(store)
        salts = [os.urandom(16) for _ in range(3)]
        assert await store.make_operator(writer.account_id, salts[0], NOW + 1) is True
        assert await store.make_operator(other.account_id, salts[1], NOW) is True
        assert await store.make_operator(new_id(), salts[1], NOW) is False
        assert await store.operators() == [
            Operator(other.account_id, salts[1], NOW, 0),
            Operator(writer.account_id, salts[0], NOW + 1, 0),
        ]
        await store.take_step(writer.account_id, 9)
        assert await store.make_operator(writer.account_id, salts[2], NOW - 1) is True
        assert (await store.operators())[0] == Operator(writer.account_id, salts[2], NOW - 1, 0)
        assert await store.drop_operator(other.account_id) is True
        assert await store.drop_operator(other.account_id) is False
        assert await store.take_step(other.account_id, 10) is False

    async def test_a_step_is_accepted_once_of_many_at_once_and_never_an_older_one(
        self, store: Store, replica: Store, writer: Writer
    ) -> None:
        await store.make_operator(writer.account_id, os.urandom(16), NOW)
        takes = (each.take_step(writer.account_id, 7) for each in (store, replica) * 20)
        assert (await asyncio.gather(*takes)).count(True) == 1
        assert await store.take_step(writer.account_id, 7) is await store.take_step(writer.account_id, 6) is False
        assert await store.take_step(writer.account_id, 8) is True

    async def test_invites_are_listed_and_an_unused_one_is_withdrawn(self, store: Store) -> None:
        used, first, last = (bytes([number]) * 32 for number in range(3))
        for token, at in ((used, 20), (first, 10), (last, 30)):
            await store.add_invite(token, NOW + at)
        account = Account(new_id(), None, 0, DAY)
        attempt = an_attempt(invite=used)
        await store.add_attempt(attempt)
        await enrol(store, attempt, a_device(account.account_id), account, now=NOW + 1)
        known = [Invite(last, NOW + 30, None), Invite(used, NOW + 20, NOW + 1), Invite(first, NOW + 10, None)]
        assert await store.invites() == known
        assert await store.withdraw_invite(used) is await store.withdraw_invite(bytes(32)[:31]) is False
        assert await store.withdraw_invite(first) is True and await store.withdraw_invite(first) is False
        assert await store.invites() == known[:2] and not await store.invite_is_open(first, NOW)

    async def test_an_address_is_listed_relisted_and_taken_off(self, store: Store) -> None:
        one, other = os.urandom(32), os.urandom(32)
        assert await store.count_listed() == {"allowed": 0, "blocked": 0} and await store.listed(one) is None
        await store.list_address(one, "allowed", DAY)
        await store.list_address(other, "allowed", DAY)
        await store.list_address(other, "blocked", DAY + 1)
        assert (await store.listed(one), await store.listed(other)) == ("allowed", "blocked")
        assert await store.count_listed() == {"allowed": 1, "blocked": 1}
        wrapped = hashlib.sha256(one).digest()
        assert await store.rewrap_addresses(lambda tag: hashlib.sha256(tag).digest(), 1) == 0
        assert await store.listed(wrapped) == "allowed" and await store.listed(one) is None
        await store.list_address(wrapped, None, DAY)
        await store.list_address(wrapped, None, DAY)
        assert await store.listed(wrapped) is None and await store.count_listed() == {"allowed": 0, "blocked": 1}

    async def test_an_account_takes_the_address_of_an_attempt(self, store: Store) -> None:
        account_id, _, old = await new_account(store)
        _, _, taken = await new_account(store)
        attempt, theirs, expired = an_attempt(), an_attempt(taken.address_tag), an_attempt(expires_at=NOW)
        left = an_attempt(old.address_tag)
        for each in (attempt, theirs, expired, left):
            await store.add_attempt(each)
        rows = await self.sorted_rows(store)
        for each, who, code in (
            (theirs, account_id, "enrol_failed"),
            (expired, account_id, "enrol_failed"),
            (an_attempt(), account_id, "enrol_failed"),
            (attempt, new_id(), "not_found"),
        ):
            with pytest.raises(Refusal) as refused:
                await store.change_address(each.attempt_id, who, NOW)
            assert refused.value.code == code
        assert await self.sorted_rows(store) == rows
        await store.change_address(attempt.attempt_id, account_id, NOW)
        found = await store.find_account(attempt.address_tag)
        assert found is not None and found.account_id == account_id and found.address_known
        assert await store.find_account(old.address_tag) is None
        assert not mentions(await self.rows(store), old.address_tag)
        with pytest.raises(Refusal) as refused:
            await store.change_address(attempt.attempt_id, account_id, NOW)
        assert refused.value.code == "enrol_failed"

    async def test_of_two_accounts_that_take_one_address_at_once_one_gets_it(
        self, store: Store, replica: Store
    ) -> None:
        tag = os.urandom(32)
        accounts = [(await new_account(store))[0] for _ in range(6)]
        attempts = [an_attempt(tag) for _ in accounts]
        for attempt in attempts:
            await store.add_attempt(attempt)
        calls = (
            each.change_address(attempt.attempt_id, account_id, NOW)
            for each, attempt, account_id in zip((store, replica) * 3, attempts, accounts, strict=True)
        )
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert outcomes.count(None) == 1
        assert {each.code for each in outcomes if isinstance(each, Refusal)} == {"enrol_failed"}

    # --- what happened, and how it grew -----------------------------------------------------------

    async def test_what_happened_is_listed_newest_first_page_by_page(self, store: Store, writer: Writer) -> None:
        other = await new_writer(store)
        for number in range(5):
            await store.note([happening(writer, at=NOW + number, subject_id=rid(number)), happening(other)])
        entries = await store.audit(writer.account_id, before=0, limit=9)
        assert [entry[1:] for entry in entries] == [
            (NOW + number, "exported", "device", writer.device_id, rid(number), 1) for number in (4, 3, 2, 1, 0)
        ]
        numbers = [entry.number for entry in entries]
        assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) == 5
        assert await store.audit(writer.account_id, before=numbers[1], limit=2) == entries[2:4]
        assert await store.audit(writer.account_id, before=numbers[4], limit=2) == []
        theirs = [entry.number for entry in await store.audit(other.account_id, before=0, limit=9)]
        assert sorted(numbers + theirs) == [n for pair in zip(numbers[::-1], theirs[::-1], strict=True) for n in pair]

    async def test_a_happening_of_an_account_that_has_gone_is_dropped(self, store: Store, writer: Writer) -> None:
        await store.note([Happening(new_id(), NOW, "exported", "device"), happening(writer)])
        (entry,) = await store.audit(writer.account_id, before=0, limit=9)
        assert entry.what == "exported" and len(await store.audit_counts("exported", 0.0, 9)) == 1

    async def test_what_adds_up_is_one_entry_a_day(self, store: Store, replica: Store, writer: Writer) -> None:
        midnight = (DAY + 1) * 86_400.0
        refused = happening(writer, "key_refused", at=midnight - 2, adds_up=True)
        await store.note([refused, happening(writer), refused._replace(at=midnight - 1)])
        await asyncio.gather(*(each.note([refused]) for each in (store, replica) * 5))
        await store.note([refused._replace(at=midnight), refused._replace(device_id=new_id())])
        await store.note([refused])  # told late: it still is of the day before
        entries = await store.audit(writer.account_id, before=0, limit=9)
        assert [(entry.what, entry.at, entry.count) for entry in entries] == [
            ("key_refused", midnight - 2, 1),
            ("key_refused", midnight, 1),
            ("exported", NOW, 1),
            ("key_refused", midnight - 1, 13),
        ]
        assert await store.audit_counts("key_refused", midnight - 1, 9) == [(writer.account_id, 14)]
        assert await store.audit_counts("key_refused", 0.0, 9) == [(writer.account_id, 15)]

    async def test_counts_of_what_happened_have_the_most_first(self, store: Store) -> None:
        one, two = await new_writer(store), await new_writer(store)
        await store.note([happening(one), happening(two), happening(two, at=NOW - 1)])
        assert await store.audit_counts("exported", 0.0, 9) == [(two.account_id, 2), (one.account_id, 1)]
        assert await store.audit_counts("exported", 0.0, 1) == [(two.account_id, 2)]
        assert await store.audit_counts("no such", 0.0, 9) == []

    async def test_old_entries_are_forgotten(self, store: Store, writer: Writer) -> None:
        await store.note([happening(writer, at=NOW + number) for number in range(4)])
        assert await store.forget_audit(NOW + 2) == 2 and await store.forget_audit(NOW + 2) == 0
        assert [entry.at for entry in await store.audit(writer.account_id, before=0, limit=9)] == [NOW + 3, NOW + 2]

    async def test_the_facts_of_spaces_tell_what_they_hold(self, store: Store, writer: Writer) -> None:
        empty = await store.create_space(a_space(writer.account_id), 50, NOW + 5)
        await writer.put(1, size=300)
        await writer.put(1, size=300, now=NOW + 3)
        await writer.put(2, collection_id=PHOTOS, size=400, now=NOW + 2)
        assert await store.compact(NOW + 9, 9) == 1
        space, *_ = await store.spaces(writer.account_id)
        assert space.used_bytes == 700
        expected = [SpaceFacts(space, NOW, 2, 3, NOW + 3, []), SpaceFacts(empty, NOW + 5, 0, 0, 0.0, [])]
        assert await store.space_facts(writer.account_id) == expected
        assert await store.space_facts(new_id()) == []

    async def test_growth_is_noted_where_it_changed(self, store: Store, writer: Writer) -> None:
        async def growth() -> list[tuple[int, int]]:
            (facts,) = await store.space_facts(writer.account_id)
            return facts.growth

        await writer.put(1, size=300)
        assert await store.note_growth(DAY) == 1 and await growth() == [(DAY, 300)]
        assert await store.note_growth(DAY) == await store.note_growth(DAY + 1) == 0
        await writer.put(2, size=200)
        assert await store.note_growth(DAY + 2) == 1
        await writer.put(3, size=200)
        assert await store.note_growth(DAY + 2) == 1 and await growth() == [(DAY, 300), (DAY + 2, 700)]
        assert await store.forget_growth(DAY + 2) == 1 and await store.forget_growth(DAY + 2) == 0
        assert await growth() == [(DAY + 2, 700)]

    # --- moving, backing up -----------------------------------------------------------------------

    async def test_nothing_of_an_account_changes_while_it_moves(self, store: Store, writer: Writer) -> None:
        other = await another(writer)
        await writer.put(1)
        await writer.put(1)
        account_id, space_id, limits = writer.account_id, writer.space_id, {"per_account_max": 99, "per_app_max": 99}
        _, _, theirs = await new_account(store)
        (tag,) = (values(row)["address_tag"] for row in await dumped(store, [account_id]) if row[0] == "account")
        again, moved_to = an_attempt(tag), an_attempt()
        for attempt in (again, moved_to):
            await store.add_attempt(attempt)
        for due in (
            store.schedule_account_deletion(account_id, NOW),
            store.schedule_space_deletion(account_id, space_id, NOW),
        ):
            assert await due is True
        assert await store.begin_move(account_id, "wss://there.example") is True
        assert (await account_of(store, account_id)).moving_to == "wss://there.example"
        rows = await self.sorted_rows(store)
        assert await other.append(other.draft(counter=1)) == Appended([], closing="moving")
        assert await store.stopped_among([other.device_id]) == {other.device_id: "moving"}
        for call in (
            store.create_space(a_space(account_id), 50, NOW),
            store.add_device(a_device(account_id), **limits),
            enrol(store, again, a_device(account_id), None),
            store.put_witness(writer.key(), writer.device_id, 9, b"w"),
            store.revoke(account_id, [other.device_id], NOW),
            store.approve(account_id, other.device_id),
            store.schedule_space_deletion(account_id, space_id, None),
            store.delete_space(account_id, space_id),
            store.schedule_account_deletion(account_id, None),
            store.delete_account(account_id),
            store.change_address(moved_to.attempt_id, account_id, NOW),
        ):
            with pytest.raises(Refusal) as refused:
                await call
            assert refused.value.code == "unavailable"
        await store.note_seen([other.device_id], DAY + 9)
        assert await store.compact(NOW + 9, 9) == 0 and await store.due_deletions(NOW + 9) == ([], [])
        assert await self.sorted_rows(store) == rows
        assert await store.begin_move(account_id, "") is True
        await other.put(5)
        assert await store.compact(NOW + 9, 9) == 1 and await store.delete_account(account_id) is True
        assert await store.begin_move(account_id, "wss://there.example") is False
        assert await store.find_account(theirs.address_tag) is not None

    async def test_no_change_commits_after_a_move_has_begun(self, store: Store, replica: Store, writer: Writer) -> None:
        drafts = [writer.draft(collection_id=new_id()) for _ in range(100)]
        appends = [asyncio.create_task(writer.append(draft)) for draft in drafts[:50]]
        beginning = asyncio.create_task(replica.begin_move(writer.account_id, "wss://there.example"))
        appends += [asyncio.create_task(writer.append(draft)) for draft in drafts[50:]]
        assert await beginning is True
        (begun,) = await store.space_facts(writer.account_id)
        answered = await asyncio.gather(*appends)
        assert await store.space_facts(writer.account_id) == [begun]
        assert begun.changes == sum(1 for appended in answered if not appended.closing)

    async def test_after_a_move_only_where_its_devices_find_it_is_left(self, store: Store) -> None:
        bystander = await new_writer(store)
        await store.note_growth(DAY)
        before = await self.sorted_rows(store)
        writer = await a_full_account(store)
        device = await store.device(writer.device_id)
        (gone,) = (
            values(row)["device_id"]
            for row in await dumped(store, [writer.account_id])
            if row[0] == "device" and values(row)["device_id"] != writer.device_id
        )
        assert await store.end_move(writer.account_id, NOW) is False
        await store.begin_move(writer.account_id, "wss://there.example")
        assert await store.moved_device(writer.device_id) is None
        assert await store.end_move(writer.account_id, NOW + 5) is True
        assert device is not None
        moved = MovedDevice(device.device_id, device.device_pk, "wss://there.example", NOW + 5)
        assert await store.moved_device(writer.device_id) == moved
        assert await store.moved_device(gone) is None and await store.device(writer.device_id) is None
        assert not mentions(await self.rows(store), writer.account_id)
        assert not mentions(await self.rows(store), writer.space_id)
        assert await store.end_move(writer.account_id, NOW) is False
        assert await store.forget_moved(NOW + 5) == 0 and await store.forget_moved(NOW + 6) == 1
        assert await self.sorted_rows(store) == before
        await bystander.put()

    async def test_a_dump_has_every_row_once_in_its_order(self, store: Store) -> None:
        writer = await a_full_account(store)
        other = await new_writer(store)
        await store.add_invite(bytes(32), NOW)
        await store.list_address(os.urandom(32), "allowed", DAY)
        await store.claim("secrets", b"fingerprint")
        await store.remember("secrets", b"not in it")
        rows = await dumped(store)
        hub = {values(row)["key"]: values(row)["value"] for row in rows if row[0] == "hub"}
        assert hub == {
            "incarnation": await store.incarnation(),
            "tag_generation": b"0",
            "claim secrets": b"fingerprint",
        }
        assert [values(row)["account_id"] for row in rows if row[0] == "account"] == sorted(
            [writer.account_id, other.account_id]
        )
        assert all(len(row[1]) == len(TABLES[row[0]]) for row in rows)
        assert {row[0] for row in rows} == set(TABLES)
        assert await dumped(store, [writer.account_id, new_id()]) == [
            row for row in await dumped(store, [writer.account_id]) if row[0] not in ("hub", "invite", "listed")
        ]
        assert await dumped(store, []) == []
        model = MemoryStore()
        await model.open()
        await load(model, rows)
        assert await dumped(model) == rows

    async def test_what_was_dumped_can_be_loaded_and_serves_as_before(self, store: Store) -> None:
        writer = await a_full_account(store)
        await store.suspend(writer.account_id, NOW)
        rows = await dumped(store)
        there = await self.make()
        for at_once in (1, len(rows)):
            await load(there, rows, at_once=at_once)
            assert await dumped(there) == rows
            assert await account_of(there, writer.account_id) == await account_of(store, writer.account_id)
            assert await there.spaces(writer.account_id) == await store.spaces(writer.account_id)
            assert await there.space_facts(writer.account_id) == await store.space_facts(writer.account_id)
            if at_once == 1:
                await there.delete_account(writer.account_id)
        await there.suspend(writer.account_id, None)
        moved = await another_space(
            Writer(there, writer.account_id, writer.space_id, writer.device_id), writer.space_id
        )
        pages = [await each.read() for each in (writer, moved)]
        assert pages[0] == pages[1] and pages[0].changes
        for change in pages[0].changes:
            header = parse_header(change.sealed)
            if header.device_id == moved.device_id:
                assert await moved.answer(draft_of(change.sealed)) == Answer(change.seq)
        assert (await moved.answer(moved.draft(9))).seq == pages[0].head + 1
        # A retry of what was compacted still gets its first answer.
        (old, *_) = (values(row) for row in rows if row[0] == "receipt" and values(row)["device_id"] == moved.device_id)
        assert (await moved.answer(moved.draft(counter=old["counter"]))).code in ("device_cloned", "")
        await there.close()

    async def test_devices_of_an_account_get_in_when_it_has_arrived(self, store: Store) -> None:
        writer = await a_full_account(store)
        await store.begin_move(writer.account_id, "wss://there.example")
        rows = await dumped(store, [writer.account_id])
        there = await self.make()
        moved = Writer(there, writer.account_id, writer.space_id, writer.device_id)
        await there.load(rows[:-1])
        assert (await account_of(there, writer.account_id)).moving_to == ARRIVING
        assert (await moved.append(moved.draft())).closing == "moving"
        assert await there.begin_move(writer.account_id, "") is await there.end_move(writer.account_id, NOW) is False
        await there.load(rows[-1:])
        await there.end_load([writer.account_id, new_id()])
        assert (await account_of(there, writer.account_id)).moving_to == ""
        await (await another_space(moved, writer.space_id)).put()
        await there.close()

    async def test_what_only_half_arrived_can_be_deleted_without_a_trace(self, store: Store) -> None:
        writer = await a_full_account(store)
        rows = await dumped(store, [writer.account_id])
        there = await self.make()
        before = await self.sorted_rows(there)
        await there.load(rows[: len(rows) // 2])
        assert await there.delete_account(writer.account_id) is True
        await there.end_load([])
        assert await self.sorted_rows(there) == before
        await load(there, rows)
        assert await dumped(there, [writer.account_id]) == rows
        await there.close()

    async def test_a_device_that_comes_back_has_not_moved(self, store: Store) -> None:
        writer = await a_full_account(store)
        rows = await dumped(store, [writer.account_id])
        await store.begin_move(writer.account_id, "wss://there.example")
        await store.end_move(writer.account_id, NOW)
        await load(store, rows)
        assert await store.moved_device(writer.device_id) is None
        assert await dumped(store, [writer.account_id]) == rows

    async def test_a_load_with_a_row_that_cannot_be_taken_keeps_none_of_it(self, store: Store) -> None:
        writer = await a_full_account(store)
        everything = await dumped(store)
        rows = await dumped(store, [writer.account_id])
        first = {row[0]: (place, row) for place, row in reversed(list(enumerate(rows)))}
        there = await self.make()
        before = await self.sorted_rows(there)

        async def refused(*wrong: Row, code: str = "bad_request") -> None:
            with pytest.raises(Refusal) as refusal:
                await there.load(wrong)
            assert refusal.value.code == code
            await there.end_load([])
            assert await self.sorted_rows(there) == before

        for table, (place, row) in first.items():
            if table != "audit":  # which has no key of its own
                await refused(*rows[: place + 1], row, code="device_exists" if table == "device" else "bad_request")
            for column in ("account_id", "space_id"):
                if column in values(row) and table not in ("account", "space"):
                    await refused(*rows[:place], with_value(row, column, new_id()))
            await refused(*rows[:place], (row[0], row[1][:-1]))
            await refused(*rows[:place], (row[0], ("wrong", *row[1][1:])))
        await refused(*rows[1:])
        await refused(("no such table", ()))
        await refused(rows[0], rows[-1], rows[1])
        await refused(*rows, everything[0])
        place, change = first["change"]
        for column, value in (("sealed", b"short"), ("counter", 99), ("kind", 3), ("seq", 0), ("seq", 99)):
            await refused(*rows[:place], with_value(change, column, value))
        await refused(*rows[:place], *rows[place : place + 2][::-1])
        await there.close()

    async def test_what_is_here_already_is_not_loaded_over(self, store: Store) -> None:
        writer = await a_full_account(store)
        rows = await dumped(store, [writer.account_id])
        everything = await dumped(store)
        there = await self.make()
        resident = await new_writer(there)
        (own_tag,) = (values(row)["address_tag"] for row in await dumped(there) if row[0] == "account")
        own = await there.device(resident.device_id)
        assert own is not None
        await there.set_terms(resident.account_id, Terms(billing_ref="no. 5"))
        before = await self.sorted_rows(there)
        place = next(place for place, row in enumerate(rows) if row[0] == "device")
        for wrong, code in (
            ([with_value(rows[0], "address_tag", own_tag)], "bad_request"),
            ([with_value(rows[0], "billing_ref", "no. 5")], "bad_request"),
            ([with_value(rows[0], "account_id", resident.account_id)], "bad_request"),
            ([*rows[:place], with_value(rows[place], "device_id", own.device_id)], "device_exists"),
            ([*rows[:place], with_value(rows[place], "device_pk", own.device_pk)], "device_exists"),
            (everything, "bad_request"),
        ):
            with pytest.raises(Refusal) as refused:
                await there.load(wrong)
            assert refused.value.code == code
            await there.end_load([])
            assert await self.sorted_rows(there) == before
        await load(there, rows)
        await resident.put()
        with pytest.raises(Refusal):
            await there.load(rows)
        await there.close()

    async def test_a_dump_is_one_snapshot_and_writers_go_on_meanwhile(self, store: Store) -> None:
        writers = [await new_writer(store) for _ in range(4)]
        for writer in writers:
            for record in range(200):
                await writer.put(record)
        await store.compact(NOW + 1, 50)
        rows = await dumped(store)
        async with store.dump() as cursor:
            again = [await anext(cursor)]
            for writer in writers:
                await writer.put(1)
                await writer.wipe()
            await new_account(store)
            assert await store.delete_account(writers[0].account_id) is True
            async for row in cursor:
                again.append(row)
                if len(again) % 100 == 0:
                    await writers[1].put()
        assert again == rows
        assert await dumped(store) != rows

    async def test_a_dump_can_be_left_and_the_store_closed_meanwhile(self) -> None:
        store = await self.make()
        writer = await a_full_account(store)
        async with store.dump() as rows:
            await anext(rows)
        await writer.put(9)
        async with store.dump() as rows:
            await anext(rows)
            await store.close()
        with pytest.raises(StoreUnavailable):
            await writer.put(10)

    # --- many replicas ------------------------------------------------------------------------

    async def test_what_one_replica_answered_another_reads(self, store: Store, replica: Store, writer: Writer) -> None:
        there = Writer(replica, writer.account_id, writer.space_id, writer.device_id)
        for number in range(20):
            here, other = (writer, there) if number % 2 else (there, writer)
            there.counters = writer.counters
            draft = await here.put(number)
            page = await other.read(number)
            assert [change.sealed for change in page.changes] == [draft.sealed]
            assert await other.answer(draft) == Answer(number + 1)
        assert await replica.incarnation() == await store.incarnation()

    async def test_appenders_on_two_replicas_leave_no_gap_and_no_double(self, replica: Store, writer: Writer) -> None:
        writers = [writer, *[await another(writer) for _ in range(9)]]
        for each in writers[::2]:
            each.store = replica
        drafts = [each.draft(number, kind=Kind.DELTA) for number in range(10) for each in writers]
        by_device = {each.device_id: each for each in writers}
        answers = await asyncio.gather(*(by_device[draft.header.device_id].answer(draft) for draft in drafts))
        assert sorted(answer.seq for answer in answers) == list(range(1, 101))
        kept = {change.seq: change.sealed for change in (await writer.read()).changes}
        assert kept == {answer.seq: draft.sealed for answer, draft in zip(answers, drafts, strict=True)}

    async def test_a_draft_sent_to_two_replicas_at_once_is_kept_once(self, replica: Store, writer: Writer) -> None:
        there = Writer(replica, writer.account_id, writer.space_id, writer.device_id)
        for seq in range(1, 11):
            draft = writer.draft(seq)
            answers = await asyncio.gather(*(each.answer(draft) for each in (writer, there) * 5))
            assert set(answers) == {Answer(seq)}
        assert await writer.seqs() == list(range(1, 11))

    async def test_of_two_edits_on_one_base_at_two_replicas_one_wins(self, replica: Store, writer: Writer) -> None:
        base = (await writer.put()).header.change_id
        others = [await another(writer) for _ in range(10)]
        for each in others[::2]:
            each.store = replica
        answers = await asyncio.gather(*(other.answer(other.draft(base=base)) for other in others))
        assert sorted(answer.code for answer in answers) == [""] + ["conflict"] * 9
        assert {answer.newest_seq for answer in answers if answer.code} == {2}

    async def test_the_quota_is_one_over_two_replicas_and_two_spaces(self) -> None:
        store = await self.make(quota_bytes=1_000)
        replica = await self.beside(store)
        account_id, device, _ = await new_account(store)
        writers = []
        for each in (store, replica):
            space = await store.create_space(a_space(account_id), 50, NOW)
            writers += [Writer(each, account_id, space.space_id, device.device_id)]
        drafts = [writer.draft(collection_id=new_id(), size=300) for _ in range(5) for writer in writers]
        answers = await asyncio.gather(*(writers[i % 2].answer(draft) for i, draft in enumerate(drafts)))
        assert sorted(answer.code for answer in answers) == [""] * 3 + ["quota_exceeded"] * 7
        assert await writers[0].used_bytes() == 900
        if replica is not store:
            await replica.close()
        await store.close()

    async def test_no_change_commits_at_one_replica_after_a_revocation_at_another(
        self, store: Store, replica: Store, writer: Writer
    ) -> None:
        other = await another(writer)
        other.store = replica
        drafts = [other.draft(collection_id=new_id()) for _ in range(200)]
        appends = [asyncio.create_task(other.append(draft)) for draft in drafts[:100]]
        revocation = asyncio.create_task(store.revoke(writer.account_id, [other.device_id], NOW))
        appends += [asyncio.create_task(other.append(draft)) for draft in drafts[100:]]
        assert await revocation == [other.device_id]

        async def head_total() -> int:
            states = await store.states(writer.account_id, writer.space_id, other.device_id, None)
            return sum(state.head for state in states)

        at_revocation = await head_total()
        answered = await asyncio.gather(*appends)
        assert await head_total() == at_revocation
        assert sum(1 for appended in answered if not appended.closing) == at_revocation
        assert (await other.append(other.draft())).closing == "revoked"

    async def test_an_attempt_is_charged_and_used_once_over_two_replicas(self, store: Store, replica: Store) -> None:
        attempt = an_attempt()
        await store.add_attempt(attempt)
        both = (store, replica) * 10
        charged = await asyncio.gather(*(each.charge_attempt(attempt.attempt_id, NOW, 5) for each in both))
        assert sum(each is not None for each in charged) == 5
        resent = (
            each.note_resend(attempt.attempt_id, attempt.device_pk, NOW + 60, not_before_s=60, sends_max=9)
            for each in both
        )
        assert sum(each is not None for each in await asyncio.gather(*resent)) == 1

        async def enrols(each: Store) -> bool:
            account = Account(new_id(), None, 0, DAY)
            try:
                await enrol(each, attempt, a_device(account.account_id), account)
            except Refusal as refusal:
                assert refusal.code == "enrol_failed"
                return False
            return True

        assert (await asyncio.gather(*map(enrols, both))).count(True) == 1
        assert await replica.count_accounts() == 1

    async def test_spaces_devices_and_collections_are_limited_over_two_replicas(self) -> None:
        store = await self.make(limits=Limits(collections_per_space_max=3))
        replica = await self.beside(store)
        account_id, device, _ = await new_account(store)
        both = (store, replica) * 5

        async def codes_of(calls: Iterable[Any]) -> list[str]:
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            return sorted(each.code if isinstance(each, Refusal) else "" for each in outcomes)

        spaces = (each.create_space(a_space(account_id), 3, NOW) for each in both)
        assert await codes_of(spaces) == [""] * 3 + ["too_many"] * 7
        devices = (each.add_device(a_device(account_id), per_account_max=4, per_app_max=9) for each in both)
        assert await codes_of(devices) == [""] * 3 + ["too_many"] * 7
        space = (await store.spaces(account_id))[0]
        writers = [Writer(each, account_id, space.space_id, device.device_id) for each in both]
        answers = await asyncio.gather(*(each.answer(each.draft(collection_id=new_id())) for each in writers))
        assert sorted(answer.code for answer in answers) == [""] * 3 + ["too_many"] * 7
        if replica is not store:
            await replica.close()
        await store.close()
