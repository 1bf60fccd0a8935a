"""A hub that lies, against the real client engine: each lie raises its named alarm and touches no local data.

The lies are those of docs/threat-model.md "Malicious operator".  The last part is the
other half of the promise: a thousand honest schedules raise none.
"""

from __future__ import annotations

import pytest

from hub.client.check import ALARMS
from hub.client.keys import SpaceKeys
from hub.client.sealing import record_plaintext, seal
from hub.client.values import encode_body
from hub.terms import ZERO_ID, Kind
from hub.wire.header import parse_header
from tests.engine_hub import KEYS, Log, Peer, World
from tests.test_engine_any_order import finish, make_world, plain, play

COLLECTION = KEYS.collection_id("notes")
MANY = 5


class Lie:
    """Two devices in step; then the laptop goes away, the phone writes on, and the hub begins to lie."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.world.hub.page = 100
        self.phone, self.laptop = self.world.peer("phone"), self.world.peer("laptop")
        for number in range(6):
            self.phone.put(f"old{number}", number)
        self.world.settle()
        self.laptop.put("from laptop", 1)
        self.world.quiesce()
        self.world.pass_time(30)
        assert self.phone.items() == self.laptop.items() and len(self.phone.items()) == 7
        self.laptop.cut()
        self.known = self.log.head
        for number in range(4):
            self.phone.put(f"new{number}", number)
        self.phone.delete("old1")
        self.world.quiesce()
        self.world.pass_time(30)  # and the phone has stated what it holds

    @property
    def log(self) -> Log:
        return self.world.hub.log(COLLECTION)

    def fresh(self) -> Peer:
        return self.world.peer("tablet")

    def forge(
        self, keys: SpaceKeys = KEYS, *, key: str = "x", record_key: str = "x", collection: str = "notes"
    ) -> bytes:
        """A change by the laptop itself, sealed as ``keys`` allow."""
        collection_id = keys.collection_id(collection)
        return seal(
            keys,
            kind=Kind.PUT,
            flags_conditional=False,
            collection_id=collection_id,
            record_id=keys.record_id(collection_id, record_key),
            change_id=self.world.random.randbytes(16),
            device_id=b"stranger________",
            counter=1,
            base=ZERO_ID,
            plaintext=record_plaintext(key, encode_body("evil")),
            nonce=self.world.random.randbytes(24),
        )

    def add(self, sealed: bytes) -> None:
        """Put bytes at the end of the log as if they had been appended."""
        self.log.head += 1
        self.log.kept[self.log.head] = sealed
        self.log.live[self.world.random.randbytes(16)] = [self.log.head]

    def tell(self, *listeners: Peer) -> set[str]:
        """Let the listeners hear the hub for a while; the alarms they raise."""
        for peer in listeners:
            peer.connect()
        self.world.quiesce()
        for _ in range(3):
            self.world.pass_time(40)
            for peer in listeners:
                peer.connect()
            self.world.quiesce()
        return {name for peer in listeners for name in peer.alarms()}


def caught(lie: Lie, expected: set[str], listener: Peer) -> None:
    """The lie raises one of the alarms it must, and what was on the device is still there."""
    before = listener.items()
    before.pop("old1", None)  # the phone did delete that one
    alarms = lie.tell(listener)
    assert alarms and alarms <= expected, alarms
    assert before.items() <= listener.items().items(), "local data was touched"
    listener.put("after the alarm", "still works")
    assert listener.get("after the alarm") == "still works"
    assert listener.status().phase == "alarm"


seeds = pytest.mark.parametrize("seed", range(MANY))


@seeds
def test_a_change_left_out_for_a_device_that_lags(seed: int) -> None:
    lie = Lie(seed)
    victim = lie.world.random.randrange(lie.known + 1, lie.log.head)
    del lie.log.kept[victim]
    caught(lie, {"digest_mismatch", "omission", "gap"}, lie.laptop)


@seeds
def test_a_live_change_left_out_for_a_fresh_device_after_compaction(seed: int) -> None:
    lie = Lie(seed)
    lie.world.hub.compact()
    del lie.log.kept[lie.world.random.choice(sorted(lie.log.kept)[:-1])]
    for seqs in lie.log.live.values():
        seqs[:] = [seq for seq in seqs if seq in lie.log.kept]
    caught(lie, {"digest_mismatch", "omission", "gap"}, lie.fresh())


@seeds
def test_a_log_rolled_back_under_a_device_that_remembers(seed: int) -> None:
    lie = Lie(seed)
    cut = lie.known - 2
    lie.log.kept = {seq: sealed for seq, sealed in lie.log.kept.items() if seq <= cut}
    lie.log.head = cut
    caught(lie, {"rollback"}, lie.laptop)


@seeds
def test_a_log_rolled_back_for_a_fresh_device_while_witnesses_are_kept(seed: int) -> None:
    lie = Lie(seed)
    cut = lie.log.head - 2
    lie.log.kept = {seq: sealed for seq, sealed in lie.log.kept.items() if seq <= cut}
    for seqs in lie.log.live.values():
        seqs[:] = [seq for seq in seqs if seq <= cut]
    lie.log.head = cut
    caught(lie, {"withheld", "digest_mismatch"}, lie.fresh())


def swap(lie: Lie, one: int, other: int) -> None:
    kept = lie.log.kept
    kept[one], kept[other] = kept[other], kept[one]


@seeds
def test_two_changes_of_one_author_swapped(seed: int) -> None:
    lie = Lie(seed)
    swap(lie, lie.log.head - 1, lie.log.head - 2)
    caught(lie, {"gap", "replay"}, lie.laptop)


@seeds
def test_two_changes_of_different_authors_swapped(seed: int) -> None:
    lie = Lie(seed)
    tablet = lie.fresh()
    lie.phone.put("p", 1)
    lie.world.quiesce()
    lie.laptop.connect()
    lie.world.quiesce()
    lie.laptop.put("q", 2)
    lie.world.quiesce()
    lie.world.pass_time(30)
    swap(lie, lie.log.head, lie.log.head - 1)
    caught(lie, {"digest_mismatch"}, tablet)


@seeds
def test_a_change_of_another_collection(seed: int) -> None:
    lie = Lie(seed)
    lie.add(lie.forge(collection="other"))
    caught(lie, {"forged"}, lie.laptop)


@pytest.mark.parametrize("offset", range(0, 112, 3))
def test_a_flipped_bit_of_the_header(offset: int) -> None:
    lie = Lie(offset)
    flip(lie, offset)
    caught(lie, {"forged"}, lie.laptop)


@pytest.mark.parametrize("offset", range(112, 270, 13))
def test_a_flipped_bit_of_nonce_ciphertext_or_tag(offset: int) -> None:
    lie = Lie(offset)
    flip(lie, offset)
    caught(lie, {"forged"}, lie.laptop)


def flip(lie: Lie, offset: int) -> None:
    sealed = bytearray(lie.log.kept[lie.log.head])
    sealed[offset] ^= 1 << lie.world.random.randrange(8)
    lie.log.kept[lie.log.head] = bytes(sealed)


@seeds
def test_an_old_change_shown_again_under_a_new_seq(seed: int) -> None:
    lie = Lie(seed)
    lie.add(lie.log.kept[lie.world.random.choice(sorted(lie.log.kept))])
    caught(lie, {"replay"}, lie.laptop)


@seeds
def test_a_change_of_another_space(seed: int) -> None:
    lie = Lie(seed)
    lie.add(lie.forge(SpaceKeys.derive(b"?" * 32)))
    caught(lie, {"forged"}, lie.laptop)


@seeds
def test_a_body_under_another_records_id(seed: int) -> None:
    lie = Lie(seed)
    lie.add(lie.forge(key="x", record_key="y"))
    caught(lie, {"record_mismatch"}, lie.laptop)


@seeds
def test_an_old_version_of_a_record_for_a_fresh_device(seed: int) -> None:
    lie = Lie(seed)
    lie.phone.put("old0", "newer")
    lie.phone.put("another", 1)
    lie.world.quiesce()
    lie.world.pass_time(30)
    record_id = KEYS.record_id(COLLECTION, "old0")
    first, last = [seq for seq, s in sorted(lie.log.kept.items()) if parse_header(s).record_id == record_id]
    del lie.log.kept[last]
    lie.log.live[record_id] = [first]
    caught(lie, {"digest_mismatch", "omission", "gap"}, lie.fresh())


@seeds
def test_a_delete_that_is_held_back(seed: int) -> None:
    lie = Lie(seed)
    lie.phone.put("after the delete", 1)
    lie.world.quiesce()
    lie.world.pass_time(30)
    (delete,) = [seq for seq, s in lie.log.kept.items() if parse_header(s).kind is Kind.DELETE]
    del lie.log.kept[delete]
    caught(lie, {"digest_mismatch", "omission", "gap"}, lie.laptop)


@seeds
def test_a_fork_as_soon_as_one_witness_crosses_it(seed: int) -> None:
    lie = Lie(seed)
    phones_log = lie.log.copy()
    lie.phone.cut()
    lie.laptop.connect()
    lie.world.quiesce()
    lie.laptop.put("only here", 1)
    lie.world.quiesce()
    lie.world.pass_time(30)
    laptops_witness = lie.log.witnesses[lie.laptop.device_id]
    lie.laptop.cut()
    lie.world.hub.spaces[KEYS.space_id][COLLECTION] = phones_log
    lie.phone.connect()
    lie.world.quiesce()
    lie.phone.put("only there", 1)
    lie.world.quiesce()
    lie.world.pass_time(30)
    assert not lie.phone.alarms()
    phones_log.witnesses[lie.laptop.device_id] = laptops_witness
    lie.phone.cut()
    caught(lie, {"digest_mismatch", "omission"}, lie.phone)


@seeds
def test_an_emptied_collection_without_a_wipe(seed: int) -> None:
    lie = Lie(seed)
    lie.world.hub.spaces[KEYS.space_id][COLLECTION] = Log()
    caught(lie, {"rollback"}, lie.laptop)


@seeds
def test_a_space_that_is_gone_without_a_wipe(seed: int) -> None:
    lie = Lie(seed)
    lie.phone.cut()
    lie.world.hub.spaces.clear()
    caught(lie, {"emptied"}, lie.laptop)


# --- what cannot be noticed, and is said so ---


@seeds
def test_a_fork_that_is_never_joined_is_not_noticed(seed: int) -> None:
    lie = Lie(seed)
    phones_log = lie.log.copy()
    lie.phone.cut()
    lie.laptop.connect()
    lie.world.quiesce()
    lie.laptop.put("only here", 1)
    lie.world.quiesce()
    lie.laptop.cut()
    lie.world.hub.spaces[KEYS.space_id][COLLECTION] = phones_log
    assert lie.tell(lie.phone) == set()


@seeds
def test_a_whole_old_state_for_a_device_without_memory_is_not_noticed(seed: int) -> None:
    lie = Lie(seed)
    old = lie.log.copy()
    lie.phone.put("later", 1)
    lie.world.quiesce()
    lie.phone.cut()
    lie.world.hub.spaces[KEYS.space_id][COLLECTION] = old
    assert lie.tell(lie.fresh()) == set()


def test_every_alarm_has_a_sentence() -> None:
    assert {"rollback", "replay", "gap", "omission", "digest_mismatch", "withheld", "emptied"} <= set(ALARMS)


# --- honest hubs ---


@pytest.mark.parametrize("hundred", range(10))
def test_a_thousand_honest_schedules_raise_no_alarm(hundred: int) -> None:
    from hub.client.storage import MemoryStorage

    for seed in range(100 * hundred, 100 * hundred + 100):
        world = make_world(10_000 + seed, lambda conflict: "mine", lambda name: MemoryStorage())
        play(world, plain, 30, deltas=bool(seed % 2))
        finish(world)
        assert [peer.alarms() for peer in world.peers] == [[], [], []], seed
