"""Pairing: one scan adds a device, and nobody in between learns or changes anything.

The hub between the two devices is played by the test: it may read, hold back, double,
replay and put in what it likes.  What pairing asks of the real hub is in
test_pairing_hub.py.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base

from hub.client.keycode import WrongKeyCode
from hub.client.keys import SpaceKeys
from hub.client.pairing import (
    FAULTS,
    HEADS_MAX,
    WITHIN_S,
    Effect,
    Failed,
    Giver,
    Grant,
    Hand,
    Me,
    Named,
    Paired,
    PairingKeys,
    Scan,
    Show,
    Side,
    Take,
    Taker,
    Transcript,
    Vouch,
    channel_of,
    pairing_code,
    parse_pairing_code,
)
from hub.client.sealing import padded_bytes
from hub.terms import Limits

VECTORS = json.loads((Path(__file__).parent.parent / "vectors/crypto.json").read_text())["pair"]
URL, APP, ACCOUNT = "wss://hub.example.org/v1/ws", "org.example.notes", b"\xac" * 16
OLD = Me(b"\xd1" * 16, b"\x0d" * 32, APP, URL)
NEW = Me(b"\xd2" * 16, b"\x0e" * 32, APP, URL)
APP_KEY = bytes(range(32))
KEYS = SpaceKeys.derive(APP_KEY)
GRANT = Grant(KEYS.space_id, 0, APP_KEY, KEYS.key_id, b"\x1c" * 16, [(b"c" * 16, 7)])
HEAD = {"giver offer": 1, "taker offer": 2, "name": 3, "grant": 4, "taken": 5, "cancel": 6}
BOTH = pytest.mark.parametrize("shown_by", ["giver", "taker"])

Between = Callable[[str, bytes], list[bytes]]
"""What the hub makes of a frame of "giver" or "taker"; an empty list holds it back."""


def honest(_: str, body: bytes) -> list[bytes]:
    return [body]


class Couple:
    """Two devices, a person who looks at both, and a hub that does what the test says."""

    def __init__(
        self,
        shown_by: str,
        between: Between = honest,
        *,
        old: Me = OLD,
        new: Me = NEW,
        grant: Grant = GRANT,
        fresh: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.between = between
        self.shown_by = shown_by
        self.now = 0.0
        self.frames: list[tuple[str, bytes]] = []
        self.told: dict[str, list[Effect]] = {"giver": [], "taker": []}
        self.sides: dict[str, Side] = {}
        if shown_by == "giver":
            self.sides["giver"] = Giver(old, ACCOUNT, grant, fresh, 0.0)
            self.sides["taker"] = Taker(new, "Anna's phone", fresh, 0.0, parse_pairing_code(self.sides["giver"].code))
        else:
            self.sides["taker"] = Taker(new, "Anna's phone", fresh, 0.0)
            self.sides["giver"] = Giver(old, ACCOUNT, grant, fresh, 0.0, parse_pairing_code(self.sides["taker"].code))

    @property
    def giver(self) -> Giver:
        giver = self.sides["giver"]
        assert isinstance(giver, Giver)
        return giver

    @property
    def taker(self) -> Taker:
        taker = self.sides["taker"]
        assert isinstance(taker, Taker)
        return taker

    @property
    def scanned_by(self) -> str:
        return "taker" if self.shown_by == "giver" else "giver"

    def carry(self, who: str, effects: list[Effect]) -> None:
        other = "taker" if who == "giver" else "giver"
        for effect in effects:
            self.told[who].append(effect)
            match effect:
                case Hand(body=body):
                    self.frames.append((who, body))
                    for arrived in self.between(who, body):
                        self.carry(other, self.sides[other].received(arrived))
                case Vouch():
                    self.carry("giver", self.giver.vouched())
                case Take():
                    self.carry("taker", self.taker.taken())

    def begin(self) -> Couple:
        for who, side in self.sides.items():
            self.carry(who, side.begin())
        return self

    def digits(self, who: str) -> str:
        """What this device shows, or empty."""
        return next((effect.digits for effect in self.told[who] if isinstance(effect, Show)), "")

    def agree(self) -> Couple:
        """The person reads the digits where the code was scanned, and types them where it was shown."""
        read = self.digits(self.scanned_by)
        for who, digits in ((self.scanned_by, ""), (self.shown_by, read)):
            if self.digits(who):
                self.carry(who, self.sides[who].confirmed(digits))
        return self

    def kinds(self, who: str) -> list[type]:
        return [type(effect) for effect in self.told[who]]

    def fault(self, who: str) -> str:
        return next((effect.name for effect in self.told[who] if isinstance(effect, Failed)), "")

    def nothing_was_given(self) -> bool:
        return Vouch not in self.kinds("giver") and Take not in self.kinds("taker") and not self.frame("grant")

    def frame(self, name: str) -> bytes:
        return next((body for _, body in self.frames if body[0] == HEAD[name]), b"")


# --- the code that is shown ------------------------------------------------------------------


@BOTH
def test_what_is_shown_is_what_is_scanned(shown_by: str) -> None:
    couple = Couple(shown_by)
    shown = couple.sides[shown_by]
    assert len(shown.code) == 136 and shown.code == shown.code.upper()
    scan = parse_pairing_code(shown.code.lower().replace("hubpair1", "HUBPAIR 1-"))
    assert scan.has_key is (shown_by == "giver") and scan.public_key == shown.public_key
    assert scan.host == "hub.example.org" and channel_of(scan.secret) == shown.channel
    assert couple.sides[couple.scanned_by].channel == shown.channel


def test_a_code_that_was_typed_without_the_host_works_too() -> None:
    code = pairing_code(b"p" * 32, b"s" * 32, URL, has_key=True)
    assert parse_pairing_code(code.partition("/")[0]) == Scan(True, b"p" * 32, b"s" * 32, "")


def test_every_mistyped_character_is_found() -> None:
    code = pairing_code(b"p" * 32, b"s" * 32, URL, has_key=True).partition("/")[0]
    for place in range(len("HUBPAIR1"), len(code)):
        with pytest.raises(WrongKeyCode, match="is wrong; please compare"):
            parse_pairing_code(code[:place] + ("Q" if code[place] != "Q" else "P") + code[place + 1 :])


@pytest.mark.parametrize("what", VECTORS["refused"])
def test_what_is_no_pairing_code_is_refused_with_a_sentence(what: str) -> None:
    with pytest.raises(WrongKeyCode) as found:
        parse_pairing_code(VECTORS["refused"][what])
    assert str(found.value).endswith((".", "else."))


def test_two_devices_with_the_key_or_two_without_it_have_nothing_to_give() -> None:
    giver, taker = Couple("giver").giver, Couple("taker").taker
    with pytest.raises(WrongKeyCode, match="Both devices"):
        Giver(OLD, ACCOUNT, GRANT, secrets.token_bytes, 0.0, parse_pairing_code(giver.code))
    with pytest.raises(WrongKeyCode, match="Neither device"):
        Taker(NEW, "", secrets.token_bytes, 0.0, parse_pairing_code(taker.code))


def test_a_code_of_another_hub_is_refused_before_anything_is_said() -> None:
    with pytest.raises(WrongKeyCode, match=r"another hub: hub\.example\.org"):
        Couple("giver", new=NEW._replace(hub_url="wss://other.example.org/v1/ws"))


# --- the vectors -----------------------------------------------------------------------------


def expanded(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256, written anew."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    blocks, block = b"", b""
    for index in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([index]), "sha256")
        blocks += block
    return blocks[:length]


@pytest.mark.parametrize("direction", VECTORS["directions"], ids=lambda direction: direction["shown_by"])
def test_the_published_keys_follow_from_the_protocols_own_words(direction: dict[str, Any]) -> None:
    v = {name: bytes.fromhex(text) for name, text in VECTORS.items() if name in BYTES}
    giver_pk, taker_pk = crypto_scalarmult_base(v["giver_sk"]), crypto_scalarmult_base(v["taker_sk"])
    parts = [
        b"hub/v1/pair", VECTORS["hub_url"].encode(), b"\1" if direction["shown_by"] == "giver" else b"\2",
        giver_pk, taker_pk, v["account_id"], v["giver_id"], v["giver_device_pk"], v["taker_id"], v["taker_device_pk"],
        VECTORS["app_id"].encode(),
    ]  # fmt: skip
    transcript = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    assert transcript.hex() == direction["transcript"]
    shared = crypto_scalarmult(v["taker_sk"], giver_pk)
    assert shared.hex() == direction["shared"]
    keys = expanded(shared + v["s"], hashlib.sha256(transcript).digest(), b"hub/v1/pair", 102)
    assert [keys[:32].hex(), keys[32:64].hex(), keys[70:].hex()] == [
        direction[name] for name in ("to_taker", "to_giver", "name_key")
    ]
    assert direction["digits"] == f"{int.from_bytes(keys[64:70]) % 1_000_000:06}"
    assert expanded(v["s"], b"", b"hub/v1/pair-chan", 16).hex() == VECTORS["channel"]


BYTES = (
    "s", "giver_sk", "taker_sk", "account_id", "giver_id", "giver_device_pk", "taker_id", "taker_device_pk",
)  # fmt: skip


@pytest.mark.parametrize("direction", VECTORS["directions"], ids=lambda direction: direction["shown_by"])
def test_both_sides_make_exactly_the_published_frames(direction: dict[str, Any]) -> None:
    v = {name: bytes.fromhex(text) for name, text in VECTORS.items() if name in BYTES}
    old = Me(v["giver_id"], v["giver_device_pk"], VECTORS["app_id"], VECTORS["hub_url"])
    new = Me(v["taker_id"], v["taker_device_pk"], VECTORS["app_id"], VECTORS["hub_url"])
    shown = [v["giver_sk" if direction["shown_by"] == "giver" else "taker_sk"], v["s"]]
    scanning = [v["taker_sk" if direction["shown_by"] == "giver" else "giver_sk"]]
    given = iter(shown + scanning)
    grant = msgspec.msgpack.decode(bytes.fromhex(VECTORS["grant"]), type=Grant)
    couple = Couple(direction["shown_by"], old=old, new=new, grant=grant, fresh=lambda n: next(given)).begin().agree()
    assert couple.sides[direction["shown_by"]].code == direction["code"]
    assert couple.digits("giver") == couple.digits("taker") == direction["digits"]
    frames = [{"from": who, "body": body.hex()} for who, body in couple.frames]
    assert frames == direction["frames"]


# --- as it should go -------------------------------------------------------------------------


@BOTH
def test_one_scan_hands_over_the_key_and_both_know(shown_by: str) -> None:
    couple = Couple(shown_by).begin()
    assert couple.digits("giver") == couple.digits("taker") and len(couple.digits("giver")) == 6
    assert couple.nothing_was_given()
    couple.agree()
    assert Named("Anna's phone") in couple.told["giver"]
    assert Vouch(NEW.device_id, NEW.device_pk) in couple.told["giver"]
    assert Take(GRANT, ACCOUNT) in couple.told["taker"]
    assert couple.told["giver"][-1] == couple.told["taker"][-1] == Paired()


@BOTH
def test_the_hub_sees_neither_key_nor_name_nor_digits_nor_secret(shown_by: str) -> None:
    couple = Couple(shown_by).begin().agree()
    seen = b"".join(body for _, body in couple.frames) + couple.giver.channel
    scan = parse_pairing_code(couple.sides[shown_by].code)
    for hidden in (APP_KEY, b"Anna", couple.digits("giver").encode(), scan.secret, KEYS.content_key):
        assert hidden not in seen


@BOTH
def test_the_name_is_padded_so_that_its_length_tells_nothing(shown_by: str) -> None:
    sizes = set()
    for name in ("", "x" * 64, "🦦" * 20):
        couple = Couple(shown_by)
        couple.taker._name = name
        sizes.add(len(couple.begin().agree().frame("name")))
    assert sizes == {1 + 128 + 16}


def test_a_name_has_64_characters_and_is_cut_after_them_on_both_sides() -> None:
    for said in ("x" * 64, "x" * 65):
        assert Taker(NEW, said, secrets.token_bytes, 0.0)._name == "x" * 64
    couple = Couple("giver")
    couple.taker._name = "x" * 65  # a device that does not keep to it
    couple.begin()
    assert Named("x" * 64) in couple.told["giver"]


def test_half_a_character_in_a_name_is_replaced_as_it_has_no_place_in_utf8() -> None:
    couple = Couple("giver")
    couple.taker._name = "a\ud800b"
    couple.begin()
    assert Named("a?b") in couple.told["giver"]


@BOTH
def test_every_frame_fits_also_with_the_longest_name_and_the_most_heads(shown_by: str) -> None:
    heads = [(secrets.token_bytes(16), 2**53 - 1) for _ in range(HEADS_MAX)]
    couple = Couple(shown_by, grant=msgspec.structs.replace(GRANT, heads=heads))
    couple.taker._name = "🦦" * 64
    couple.begin().agree()
    assert couple.told["taker"][-1] == Paired()
    limits = Limits()
    assert max(len(body) for _, body in couple.frames) <= limits.pairing_bytes_max
    assert len(couple.frames) < limits.pairing_frames_max


@BOTH
def test_a_frame_that_comes_twice_changes_nothing(shown_by: str) -> None:
    couple = Couple(shown_by, lambda _, body: [body, body]).begin().agree()
    assert couple.told["giver"][-1] == couple.told["taker"][-1] == Paired()
    assert couple.kinds("giver").count(Vouch) == couple.kinds("taker").count(Take) == 1


def test_digits_may_be_typed_as_they_are_read_aloud() -> None:
    couple = Couple("giver").begin()
    digits = couple.digits("taker")
    couple.carry("giver", couple.giver.confirmed(f" {digits[:3]} - {digits[3:]} "))
    assert couple.told["giver"][-1] == Paired()


# --- the six digits --------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("typed", ["", "000000", "12345", "right and more", "Arabic"])
def test_wrong_digits_end_it_at_once_and_nothing_was_handed_over(shown_by: str, typed: str) -> None:
    couple = Couple(shown_by).begin()
    right = couple.digits("giver")
    typed = {"right and more": right + "0", "000000": "000001" if right == "000000" else "000000"}.get(typed, typed)
    if typed == "Arabic":
        typed = "".join(chr(0x660 + int(digit)) for digit in right)
    couple.carry(shown_by, couple.sides[shown_by].confirmed(typed))
    assert couple.fault(shown_by) == "wrong_digits" and couple.fault(couple.scanned_by) == "cancelled"
    couple.carry(shown_by, couple.sides[shown_by].confirmed(right))  # there is no second try
    assert couple.nothing_was_given()


def test_the_giver_enrols_nobody_before_the_digits_were_compared_where_the_code_was_shown() -> None:
    couple = Couple("taker").begin()
    couple.carry("giver", couple.giver.confirmed(""))
    assert couple.nothing_was_given() and Named not in couple.kinds("giver")
    couple.carry("taker", couple.taker.confirmed(couple.digits("giver")))
    assert couple.told["taker"][-1] == couple.told["giver"][-1] == Paired()


def test_the_device_that_showed_the_code_takes_no_key_before_the_digits_were_compared() -> None:
    """Not even from a giver that does not wait for that."""
    couple = Couple("taker").begin()
    couple.giver._named = True
    couple.carry("giver", couple.giver.confirmed(""))
    assert couple.frame("grant") and Take not in couple.kinds("taker") and couple.fault("taker") == "interfered"


def test_the_giver_gives_nothing_before_its_person_agrees_even_where_it_scanned() -> None:
    couple = Couple("taker").begin()
    couple.carry("taker", couple.taker.confirmed(couple.digits("giver")))
    assert couple.nothing_was_given() and Named("Anna's phone") in couple.told["giver"]
    couple.carry("giver", couple.giver.cancel())
    assert couple.fault("taker") == "cancelled" and couple.nothing_was_given()


# --- the hub in the middle -------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", ["giver offer", "taker offer", "name", "grant", "taken"])
def test_no_byte_of_any_frame_can_be_changed(shown_by: str, name: str) -> None:
    length = len(Couple(shown_by).begin().agree().frame(name))
    for place in range(length):

        def flip(_: str, body: bytes, place: int = place) -> list[bytes]:
            if body[0] != HEAD[name]:
                return [body]
            return [body[:place] + bytes([body[place] ^ 0x20]) + body[place + 1 :]]

        couple = Couple(shown_by, flip).begin().agree()
        assert Paired() not in couple.told["giver"], (name, place)
        if name in ("giver offer", "taker offer", "name"):
            assert couple.nothing_was_given(), (name, place)
        if name != "taken":
            assert Take not in couple.kinds("taker"), (name, place)


@BOTH
@pytest.mark.parametrize("name", ["giver offer", "taker offer", "name", "grant", "taken"])
@pytest.mark.parametrize("cut", [1, 2, 16, -1, -16, -17])
def test_a_frame_cut_short_ends_the_pairing(shown_by: str, name: str, cut: int) -> None:
    couple = Couple(shown_by, lambda _, body: [body[:cut]] if body[0] == HEAD[name] else [body]).begin().agree()
    assert Paired() not in couple.told["giver"]
    assert "interfered" in (couple.fault("giver"), couple.fault("taker")) or couple.fault("taker") == "other_app"


FIELDS = {
    "hub_url": "wss://hub.example.com/v1/ws", "shown_by_giver": False, "giver_public_key": b"x" * 32,
    "taker_public_key": b"x" * 32, "account_id": b"x" * 16, "giver_id": b"x" * 16, "giver_pk": b"x" * 32,
    "taker_id": b"x" * 16, "taker_pk": b"x" * 32, "app_id": "org.example.other",
}  # fmt: skip


def test_every_key_depends_on_everything_that_both_must_agree_on() -> None:
    good = Transcript(URL, True, b"g" * 32, b"t" * 32, ACCOUNT, *OLD[:2], *NEW[:2], APP)
    assert set(FIELDS) == set(good._fields)
    seen = [PairingKeys.derive(b"d" * 32, b"s" * 32, good), PairingKeys.derive(b"e" * 32, b"s" * 32, good)]
    seen.append(PairingKeys.derive(b"d" * 32, b"z" * 32, good))
    seen += [PairingKeys.derive(b"d" * 32, b"s" * 32, good._replace(**{name: FIELDS[name]})) for name in FIELDS]  # type: ignore[arg-type]
    for field in ("to_taker", "to_giver", "name"):
        assert len({getattr(keys, field) for keys in seen}) == len(seen), field
    assert len({key for keys in seen for key in (keys.to_taker, keys.to_giver, keys.name)}) == 3 * len(seen)


def test_there_are_six_digits_also_when_they_begin_with_zero() -> None:
    transcript = Transcript(URL, True, b"g" * 32, b"t" * 32, ACCOUNT, *OLD[:2], *NEW[:2], APP)
    drawn = [PairingKeys.derive(bytes([n]) * 32, b"s" * 32, transcript).digits for n in range(100)]
    assert {len(digits) for digits in drawn} == {6} and any(digits.startswith("0") for digits in drawn)


class Thief:
    """Somebody who works with the hub, plays one side towards each device, and may have seen the code."""

    def __init__(self, couple: Couple, *, saw_the_code: bool) -> None:
        scan = parse_pairing_code(couple.sides[couple.shown_by].code)
        self.scan = scan if saw_the_code else scan._replace(secret=secrets.token_bytes(32))
        self.sent: dict[str, list[bytes]] = {"giver": [], "taker": []}
        self.taker = Taker(NEW._replace(device_id=b"\xee" * 16), "Anna's phone", secrets.token_bytes, 0.0)
        stolen = Grant(KEYS.space_id, 0, APP_KEY, KEYS.key_id)
        self.giver = Giver(OLD._replace(device_id=b"\xee" * 16), b"\xee" * 16, stolen, secrets.token_bytes, 0.0)
        for side in (self.taker, self.giver):
            side._secret = self.scan.secret
        shown_by_giver = couple.shown_by == "giver"
        self.taker._scanned = self.scan if shown_by_giver else None
        self.giver._scanned = None if shown_by_giver else self.scan

    def between(self, who: str, body: bytes) -> list[bytes]:
        """Answer each device oneself; nothing of the one reaches the other."""
        mine: Side = self.taker if who == "giver" else self.giver
        answers = [effect.body for effect in mine.received(body) if isinstance(effect, Hand)]
        return [answer for answer in answers if answer[0] != HEAD["cancel"]]  # a thief does not warn


@BOTH
@pytest.mark.parametrize("saw_the_code", [False, True])
def test_a_thief_between_the_two_is_caught_by_the_digits_even_with_a_photo_of_the_code(
    shown_by: str, saw_the_code: bool
) -> None:
    couple = Couple(shown_by)
    thief = Thief(couple, saw_the_code=saw_the_code)

    def between(who: str, body: bytes) -> list[bytes]:
        # The answers go back to the one that spoke.
        for answer in thief.between(who, body):
            couple.carry(who, couple.sides[who].received(answer))
        return []

    couple.between = between
    shown = couple.sides[shown_by]
    opening = thief.taker._offer() if shown_by == "giver" else thief.giver._offer()
    couple.carry(shown_by, shown.received(opening))
    couple.carry(couple.scanned_by, couple.sides[couple.scanned_by].begin())
    # The device that scanned talks to nobody but the device whose code it scanned.
    assert couple.digits(couple.scanned_by) == "" or couple.scanned_by == "taker"
    if couple.digits(shown_by):
        read = couple.digits(couple.scanned_by) or "000000"
        assert read != couple.digits(shown_by)
        couple.carry(shown_by, shown.confirmed(read))
        assert couple.fault(shown_by) == "wrong_digits"
    else:
        assert couple.fault(shown_by) == "interfered"
    assert couple.nothing_was_given()


def test_a_thief_with_a_photo_would_need_the_digits_and_one_try_is_all_there_is() -> None:
    couple = Couple("giver")
    thief = Thief(couple, saw_the_code=True)

    def between(who: str, body: bytes) -> list[bytes]:
        for answer in thief.between(who, body):
            couple.carry(who, couple.sides[who].received(answer))
        return []

    couple.between = between
    couple.carry("giver", couple.giver.received(thief.taker._offer()))
    assert couple.digits("giver")  # so far the giver cannot tell
    guess = f"{(int(couple.digits('giver')) + 1) % 10**6:06}"
    couple.carry("giver", couple.giver.confirmed(guess))
    couple.carry("giver", couple.giver.confirmed(couple.digits("giver")))
    assert couple.nothing_was_given()


@BOTH
def test_frames_of_an_earlier_pairing_of_the_same_devices_are_worth_nothing(shown_by: str) -> None:
    earlier = Couple(shown_by).begin().agree()
    for name in ("giver offer", "taker offer", "name", "grant", "taken"):
        replayed = earlier.frame(name)
        couple = Couple(shown_by, lambda _, body: [replayed] if body[0] == replayed[0] else [body])  # noqa: B023
        couple.begin().agree()
        assert Paired() not in couple.told["giver"], name
        assert name == "taken" or Take not in couple.kinds("taker"), name


@BOTH
def test_a_device_does_not_talk_to_its_own_echo(shown_by: str) -> None:
    couple = Couple(shown_by, lambda _, body: [])
    for who, side in couple.sides.items():
        for effect in side.begin():
            assert isinstance(effect, Hand)
            couple.carry(who, side.received(effect.body))
            assert couple.fault(who) == "interfered"
    assert couple.nothing_was_given()


@BOTH
@pytest.mark.parametrize("point", VECTORS["low_order"])
def test_a_key_of_low_order_is_refused_wherever_it_stands(shown_by: str, point: str) -> None:
    bad = bytes.fromhex(point)
    for name in ("giver offer", "taker offer"):
        couple = Couple(shown_by, lambda _, body: [body[:1] + bad + body[33:]] if body[0] == HEAD[name] else [body])  # noqa: B023
        couple.begin().agree()
        assert "interfered" in (couple.fault("giver"), couple.fault("taker")) and couple.nothing_was_given()
    scan = Scan(shown_by == "giver", bad, b"s" * 32, "")
    side: Side
    if shown_by == "giver":
        side = Taker(NEW, "", secrets.token_bytes, 0.0, scan)
        offer = b"\1" + bad + ACCOUNT + OLD.device_id + OLD.device_pk + APP.encode()
    else:
        side = Giver(OLD, ACCOUNT, GRANT, secrets.token_bytes, 0.0, scan)
        offer = b"\2" + bad + NEW.device_id + NEW.device_pk
    assert Failed("interfered") in side.received(offer)


@BOTH
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_second_device_at_the_same_code_ends_it_for_all(shown_by: str, when: str) -> None:
    couple = Couple(shown_by).begin()
    scan = parse_pairing_code(couple.sides[shown_by].code)
    second: Side
    if shown_by == "giver":
        second = Taker(NEW._replace(device_id=b"\xee" * 16), "", secrets.token_bytes, 0.0, scan)
    else:
        second = Giver(OLD._replace(device_id=b"\xee" * 16), ACCOUNT, GRANT, secrets.token_bytes, 0.0, scan)
    if when == "after":
        couple.between = lambda who, body: []  # the answers are still under way
        if shown_by == "taker":
            couple.carry("taker", couple.taker.confirmed(couple.digits("giver")))
    (hello,) = second.begin()
    assert isinstance(hello, Hand)
    couple.carry(shown_by, couple.sides[shown_by].received(hello.body))
    assert couple.fault(shown_by) == "two_devices" and couple.nothing_was_given()


BAD_GRANTS = {
    "another space": msgspec.structs.replace(GRANT, space_id=b"x" * 16),
    "another key": msgspec.structs.replace(GRANT, app_key=b"x" * 32),
    "a short key": msgspec.structs.replace(GRANT, app_key=b"x" * 31),
    "another key id": msgspec.structs.replace(GRANT, key_id=b"x" * 16),
    "a later key_epoch": msgspec.structs.replace(GRANT, key_epoch=1),
    "a short collection id": msgspec.structs.replace(GRANT, heads=[(b"x", 1)]),
    "a head below zero": msgspec.structs.replace(GRANT, heads=[(b"c" * 16, -1)]),
}


@BOTH
@pytest.mark.parametrize("what", BAD_GRANTS)
def test_a_grant_that_contradicts_itself_is_not_taken(shown_by: str, what: str) -> None:
    couple = Couple(shown_by, grant=BAD_GRANTS[what]).begin().agree()
    assert couple.fault("taker") == "interfered" and Take not in couple.kinds("taker")


@BOTH
def test_a_grant_of_a_later_program_may_hold_more(shown_by: str) -> None:
    class Later(Grant, frozen=True):
        roster: bytes = b"hash"

    later = Later(**msgspec.structs.asdict(GRANT))
    couple = Couple(shown_by, grant=later).begin().agree()
    assert Take(GRANT, ACCOUNT) in couple.told["taker"]


@pytest.mark.parametrize("packed", [b"", b"\xc0", b"\x80", b"\x93\x01\x02\x03", b"\xc1" * 40])
def test_a_grant_that_is_none_is_not_taken(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    couple = Couple("giver").begin()
    monkeypatch.setattr(msgspec.msgpack, "encode", lambda _: packed)
    couple.agree()
    assert couple.fault("taker") == "interfered"


def test_a_device_of_another_app_is_told_so() -> None:
    couple = Couple("giver", new=NEW._replace(app_id="org.example.other")).begin()
    assert couple.fault("taker") == "other_app" and couple.fault("giver") == "cancelled"


def test_two_names_of_one_hub_are_two_hubs() -> None:
    """The host in the code is compared; where it was left out, the transcript finds it."""
    giver = Couple("giver").giver
    scan = parse_pairing_code(giver.code.partition("/")[0])
    elsewhere = NEW._replace(hub_url="wss://alias.example.org/v1/ws")
    taker = Taker(elsewhere, "", secrets.token_bytes, 0.0, scan)
    (offer,) = taker.begin()
    assert isinstance(offer, Hand)
    (answer,) = giver.received(offer.body)
    assert isinstance(answer, Hand)
    name = taker.received(answer.body)[0]
    assert isinstance(name, Hand)
    assert Failed("interfered") in giver.received(name.body)


# --- time, and giving up ---------------------------------------------------------------------


@BOTH
def test_after_three_minutes_it_is_over_and_not_a_moment_before(shown_by: str) -> None:
    for who in ("giver", "taker"):
        couple = Couple(shown_by).begin()
        side = couple.sides[who]
        assert side.ends_at == WITHIN_S == 180.0
        couple.carry(who, side.timer_fired(179.999))
        assert couple.fault(who) == ""
        couple.carry(who, side.timer_fired(180.0))
        assert couple.fault(who) == "expired"
        assert couple.agree().nothing_was_given()


@BOTH
@pytest.mark.parametrize("who", ["giver", "taker"])
def test_either_may_cancel_and_the_other_is_told(shown_by: str, who: str) -> None:
    couple = Couple(shown_by).begin()
    couple.carry(who, couple.sides[who].cancel())
    assert couple.fault("giver") == couple.fault("taker") == "cancelled"
    assert couple.agree().nothing_was_given()
    assert couple.sides[who].cancel() == []


@BOTH
def test_after_the_end_nothing_more_comes(shown_by: str) -> None:
    couple = Couple(shown_by).begin().agree()
    for side in couple.sides.values():
        assert side.received(b"\x06") == side.received(b"x") == side.confirmed("1") == side.timer_fired(1e9) == []
    assert couple.giver.vouched() == couple.taker.taken() == []


def test_every_fault_has_a_sentence() -> None:
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in FAULTS.values())


@given(st.lists(st.binary(max_size=300), max_size=5), st.booleans(), st.booleans())
def test_no_bytes_raise_anything_or_get_the_key(frames: list[bytes], shown: bool, begun: bool) -> None:
    couple = Couple("giver" if shown else "taker")
    if begun:
        couple.begin()
    for body in frames:
        for who, side in couple.sides.items():
            couple.carry(who, side.received(body))
    assert couple.nothing_was_given()


@given(st.sampled_from(range(7)), st.binary(max_size=200))
def test_no_frame_of_any_kind_raises_anything(kind: int, rest: bytes) -> None:
    for shown_by in ("giver", "taker"):
        couple = Couple(shown_by).begin()
        for who, side in couple.sides.items():
            couple.carry(who, side.received(bytes([kind]) + rest))
        assert couple.nothing_was_given()


def test_the_grant_is_padded_like_a_change() -> None:
    couple = Couple("giver").begin().agree()
    assert len(couple.frame("grant")) == 1 + padded_bytes(len(msgspec.msgpack.encode(GRANT))) + 16
