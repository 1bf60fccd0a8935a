"""Makes the test vectors in vectors/ that every client of the protocol must pass.

Nothing here is random, so running it again changes nothing:

    python tools/make_vectors.py            writes vectors/*.json
    python tools/make_vectors.py --check    exit code 1 when a file would change

Files: crypto.json (keys, names, sealed changes, key codes), values.json (bodies),
ed25519.json (keys and signatures on which verifiers are known to differ).  Bytes are
lower-case hex.  A vector once published is never changed; new ones are added.
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec.msgpack import Ext
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_core_ed25519_add,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_scalarmult_ed25519_base_noclamp,
)
from nacl.signing import SigningKey

from hub.client.check import CheckState, Counter, MemoryLiveSet, SyncCheck, term
from hub.client.keycode import key_code, printable, qr_text
from hub.client.keys import SpaceKeys
from hub.client.pairing import (
    Giver,
    Grant,
    Hand,
    Me,
    PairingKeys,
    Scan,
    Take,
    Taker,
    Transcript,
    Vouch,
    channel_of,
    pairing_code,
)
from hub.client.sealing import padded_bytes, record_plaintext, seal
from hub.client.values import Blob, TypedArray, encode_body
from hub.signing import LABEL, sign, transcript_hash
from hub.terms import ZERO_ID, Kind
from hub.wire.header import HEADER, parse_header

Json = dict[str, Any]

FIRST_KEY = bytes(range(32))
SECOND_KEY = bytes(range(0x40, 0x60))
KEYS = [SpaceKeys.derive(FIRST_KEY), SpaceKeys.derive(SECOND_KEY, 1, FIRST_KEY)]
NOTES = KEYS[0].collection_id("notes")
OTHER = KEYS[0].collection_id("other")
NOTE_1 = KEYS[0].record_id(NOTES, "note-1")
CHANGE, DEVICE, OTHER_DEVICE = b"\xe1" * 16, b"\xd1" * 16, b"\xd2" * 16
INCARNATION = b"\x1c" * 16
NONCE = bytes(range(0x80, 0x98))
HUB_URL = "wss://hub.example.org"


# --- crypto.json -----------------------------------------------------------------------------


def crypto() -> Json:
    """Keys, names, sealed changes, proofs and key codes."""
    return {
        "about": "made by tools/make_vectors.py; bytes are hex; see docs/protocol.md",
        "label": LABEL.decode(),
        "space": [space(FIRST_KEY, KEYS[0]), space(SECOND_KEY, KEYS[1])],
        "names": {
            "collection": "notes", "collection_id": NOTES.hex(), "record": "note-1", "record_id": NOTE_1.hex(),
            "more": more_names(),
        },
        "padme": {str(n): padded_bytes(n) for n in (0, 1, 100, 124, 125, 200, 300, 1000, 4096, 65536, 1000000)},
        "change": the_change(),
        "digest": digest(),
        "sealed": [sealed_vector(**given) for given in changes()],
        "witness": witness(),
        "unopenable": unopenable(),
        "wrong_record": wrong_records(),
        "auth": auth(),
        "key_code": key_codes(),
        "pair": pair(),
        "email": EMAIL,
        "otp": OTP,
    }  # fmt: skip


def space(app_key: bytes, keys: SpaceKeys) -> Json:
    """One app key and all that follows from it."""
    return {
        "app_key": app_key.hex(), "key_epoch": keys.key_epoch, "space_pk": keys.space_pk.hex(),
        "space_id": keys.space_id.hex(), "content_key": keys.content_key.hex(), "witness_key": keys.witness_key.hex(),
        "name_key": keys.name_key.hex(), "set_key": keys.set_key.hex(), "key_id": keys.key_id.hex(),
    }  # fmt: skip


def more_names() -> list[Json]:
    """Names beyond ASCII, in the very bytes of their UTF-8: nothing is normalised."""
    names = [("", ""), ("Größe", "schön.txt"), ("Gro\u0308ße", "scho\u0308n.txt"), ("日記", "🦦/1")]
    return [
        {
            "collection": collection, "collection_id": KEYS[0].collection_id(collection).hex(), "record": record,
            "record_id": KEYS[0].record_id(KEYS[0].collection_id(collection), record).hex(),
        }
        for collection, record in names
    ]  # fmt: skip


def the_change() -> Json:
    """The one change that the digest below counts too, with its plaintext before and after padding."""
    plaintext = record_plaintext("note-1", b"hello")
    return sealed_vector("hello", plaintext=plaintext) | {
        "padded": (len(plaintext).to_bytes(4, "big") + plaintext).ljust(padded_bytes(len(plaintext)), b"\0").hex()
    }


def digest() -> Json:
    """One term, and the digest of two live changes."""
    one = term(KEYS[0].set_key, NOTES, NOTE_1, CHANGE, 7)
    two = term(KEYS[0].set_key, NOTES, NOTE_1, b"\xe2" * 16, 8)
    return {
        "collection_id": NOTES.hex(), "record_id": NOTE_1.hex(), "change_id": CHANGE.hex(), "seq": 7,
        "term": one.to_bytes(32, "big").hex(), "second_change_id": "e2" * 16, "second_seq": 8,
        "sum": ((one + two) % 2**256).to_bytes(32, "big").hex(),
    }  # fmt: skip


def changes() -> list[Json]:
    """One change of every kind, with and without the conditional flag, under both app keys."""
    record = record_plaintext("note-1", encode_body({"title": "hello"}, schema=2, at_ms=1_700_000_000_000))
    chained = {"counter": 2, "base": CHANGE, "change_id": b"\xe2" * 16}
    return [
        {"name": "put", "plaintext": record},
        {"name": "put, conditional on its base", "plaintext": record, "conditional": True, **chained},
        {"name": "put, conditional, the record must not exist", "plaintext": record, "conditional": True},
        {"name": "delete", "kind": Kind.DELETE, "plaintext": record_plaintext("note-1", b""), **chained},
        {"name": "delta", "kind": Kind.DELTA, "plaintext": record_plaintext("note-1", b"\x01\x02"), "counter": 3},
        {"name": "purge up to 40", "kind": Kind.PURGE, "base": (40).to_bytes(16, "big"), "counter": 4},
        {"name": "wipe", "kind": Kind.WIPE, "counter": 5},
        {"name": "keyring under the second app key", "kind": Kind.KEYRING, "keys": 1, "counter": 2**53 - 1,
         "plaintext": record_plaintext("note-1", encode_body([FIRST_KEY]))},
        {"name": "put under the second app key", "keys": 1, "plaintext": record},
        {"name": "put with an empty body", "plaintext": record_plaintext("note-1", b"")},
        {"name": "put of 124 bytes: the last that is padded to 128",
        "plaintext": record_plaintext("note-1", bytes(117))},
        {"name": "put of 125 bytes: padded to 144", "plaintext": record_plaintext("note-1", bytes(118))},
    ]  # fmt: skip


def sealed_vector(
    name: str, *, kind: Kind = Kind.PUT, plaintext: bytes = b"", conditional: bool = False, keys: int = 0,
    counter: int = 1, base: bytes = ZERO_ID, change_id: bytes = CHANGE,
) -> Json:  # fmt: skip
    """What goes in and the bytes that come out."""
    record_id = ZERO_ID if kind in (Kind.PURGE, Kind.WIPE) else NOTE_1
    sealed = seal(
        KEYS[keys], kind=kind, flags_conditional=conditional, collection_id=NOTES, record_id=record_id,
        change_id=change_id, device_id=DEVICE, counter=counter, base=base, plaintext=plaintext, nonce=NONCE,
    )  # fmt: skip
    return {
        "name": name, "space": keys, "kind": int(kind), "conditional": conditional, "collection_id": NOTES.hex(),
        "record_id": record_id.hex(), "change_id": change_id.hex(), "device_id": DEVICE.hex(), "counter": counter,
        "base": base.hex(), "nonce": NONCE.hex(), "plaintext": plaintext.hex(), "sealed": sealed.hex(),
    }  # fmt: skip


def witness() -> Json:
    """A witness that has seen two devices."""
    state = CheckState(incarnation=INCARNATION, seq=8, reached=8, digest=bytes.fromhex(digest()["sum"]), n_live=2)
    state.counters = {DEVICE: Counter(5, True), OTHER_DEVICE: Counter(3, False)}
    check = SyncCheck(KEYS[0], NOTES, DEVICE, state, MemoryLiveSet())
    sealed = check.make_witness(3, b"\xe3" * 16, NONCE, 1_700_000_000_000)
    assert sealed is not None
    return {
        "collection_id": NOTES.hex(), "device_id": DEVICE.hex(), "incarnation": INCARNATION.hex(), "counter": 3,
        "change_id": "e3" * 16, "nonce": NONCE.hex(), "seq": 8, "digest": state.digest.hex(), "n_live": 2,
        "counters": [[DEVICE.hex(), 5], [OTHER_DEVICE.hex(), 3]], "at_ms": 1_700_000_000_000, "sealed": sealed.hex(),
    }  # fmt: skip


def unopenable() -> list[Json]:
    """Bytes that a client must refuse when it reads ``notes`` with the first app key."""
    good = bytes.fromhex(the_change()["sealed"])
    vectors = [*flipped(good), *cut(good), *misplaced(), *sealed_against_the_rules(good)]
    return [{"name": name, "collection_id": NOTES.hex(), "sealed": sealed.hex()} for name, sealed in vectors]


def flipped(good: bytes) -> list[tuple[str, bytes]]:
    """One bit turned in each header field, the nonce, the ciphertext and the tag."""
    places = {
        "version": 0, "suite": 1, "kind": 2, "flags": 3, "key_epoch": 7, "space_id": 8, "collection_id": 24,
        "record_id": 40, "change_id": 56, "device_id": 72, "counter": 94, "base": 96, "nonce": 112,
        "ciphertext": 136, "tag": len(good) - 1,
    }  # fmt: skip
    return [
        (f"{name}: one bit flipped", good[:at] + bytes([good[at] ^ 2]) + good[at + 1 :]) for name, at in places.items()
    ]


def cut(good: bytes) -> list[tuple[str, bytes]]:
    """Too short and too long."""
    return [
        ("nothing", b""), ("header only", good[:112]), ("header and nonce", good[:136]),
        ("a tag of 15 bytes", good[:151]),
        ("no ciphertext", good[:152]), ("the last byte is missing", good[:-1]), ("a byte too many", good + b"\0"),
    ]  # fmt: skip


def misplaced() -> list[tuple[str, bytes]]:
    """Sealed properly, but for another place."""
    stranger = SpaceKeys.derive(bytes(32))
    common: Json = {
        "kind": Kind.PUT, "flags_conditional": False, "record_id": NOTE_1, "change_id": CHANGE, "device_id": DEVICE,
        "counter": 1, "base": ZERO_ID, "plaintext": b"note-1\0", "nonce": NONCE,
    }  # fmt: skip
    return [
        ("of another collection", seal(KEYS[0], collection_id=OTHER, **common)),
        ("of another space", seal(stranger, collection_id=NOTES, **common)),
        ("of another key_epoch", seal(KEYS[1], collection_id=NOTES, **common)),
    ]


def sealed_against_the_rules(good: bytes) -> list[tuple[str, bytes]]:
    """The seal is whole, so only a client that checks the rule refuses these."""
    header, padded = parse_header(good), bytes.fromhex(the_change()["padded"])

    def altered(**fields: Any) -> bytes:
        return sealed_raw(HEADER.pack(*header._replace(**fields)), padded, KEYS[0].content_key)

    def with_plaintext(plaintext: bytes) -> bytes:
        return sealed_raw(header.pack(), plaintext, KEYS[0].content_key)

    about_all = {"kind": Kind.WIPE, "record_id": ZERO_ID}
    return [
        ("version 2", altered(version=2)), ("version 0", altered(version=0)), ("suite 2", altered(suite=2)),
        ("kind 0", altered(kind=0)), ("kind 7, reserved", altered(kind=7)), ("kind 9", altered(kind=9)),
        ("flag bit 2", altered(flags=5)), ("flag bit 7", altered(flags=129)), ("counter 0", altered(counter=0)),
        ("a wipe with a record id", altered(kind=Kind.WIPE)), ("a wipe, conditional", altered(flags=3, **about_all)),
        ("a purge whose base does not begin with zeros", altered(kind=Kind.PURGE, record_id=ZERO_ID, base=CHANGE)),
        ("a delta with a base", altered(kind=Kind.DELTA, base=CHANGE)),
        ("a delta, conditional", altered(kind=8, flags=3)),
        ("a witness under the content key", altered(kind=Kind.WITNESS, record_id=ZERO_ID)),
        ("a put under the witness key", sealed_raw(header.pack(), padded, KEYS[0].witness_key)),
        ("a length beyond the padding", with_plaintext((125).to_bytes(4, "big") + bytes(124))),
        ("a length of 2^32 - 1", with_plaintext(b"\xff" * 4 + bytes(124))),
        ("padded, and shorter than its length field", with_plaintext(b"\0\0\0")),
        ("padding that is not zeros", with_plaintext(padded[:-1] + b"\x01")),
    ]  # fmt: skip


def sealed_raw(header: bytes, padded: bytes, key: bytes) -> bytes:
    """A seal over anything at all."""
    return header + NONCE + crypto_aead_xchacha20poly1305_ietf_encrypt(padded, header, NONCE, key)


def wrong_records() -> list[Json]:
    """Changes that open, but whose record key inside does not fit the record id."""
    plaintexts = {
        "the key of another record": b"note-2\0hello", "no separator": b"note-1", "an empty key": b"\0hello",
        "empty": b"", "not UTF-8": b"note-\xff\0hello", "a key of 1025 bytes": b"n" * 1025 + b"\0",
    }  # fmt: skip
    return [sealed_vector(name, plaintext=plaintext) for name, plaintext in plaintexts.items()]


def auth() -> Json:
    """Both proofs of one handshake."""
    device = SigningKey(bytes(range(0x20, 0x40)))
    hello = b'{"t":"hello","v":[1],"device":"d1","nonce":"c"}'
    challenge = b'{"t":"challenge","v":1,"nonce":"s"}'
    for_space = challenge + KEYS[0].space_id
    return {
        "device_seed": bytes(device).hex(), "device_pk": bytes(device.verify_key).hex(), "hub_url": HUB_URL,
        "hello": hello.hex(), "challenge": challenge.hex(),
        "transcript_hash": transcript_hash("auth", HUB_URL, hello, challenge).hex(),
        "signature": sign(device, "auth", HUB_URL, hello, challenge).hex(),
        "space_id": KEYS[0].space_id.hex(),
        "space_signature": sign(KEYS[0].signing_key, "space", HUB_URL, hello, for_space).hex(),
        "enrol_signature": sign(device, "enrol", HUB_URL, hello, challenge).hex(),
    }  # fmt: skip


def key_codes() -> Json:
    """Key codes, their tolerated spellings and their wrong ones."""
    code, second = key_code(FIRST_KEY, 0), key_code(SECOND_KEY, 1)
    swapped = code[:20] + code[21] + code[20] + code[22:]
    return {
        "payload": (b"\x01\x00" + bytes(4) + FIRST_KEY).hex(),
        "code": code, "printable": printable(code), "qr": qr_text(code, "wss://hub.example.org:8443/v1/ws"),
        "second": {"app_key": SECOND_KEY.hex(), "key_epoch": 1, "code": second},
        "tolerated": [
            code, code.lower(), printable(code),
            printable(code).replace(" ", "-"), printable(code).replace(" ", "\r\n"),
            f"  {code}\n", code[:9].lower() + code[9:], qr_text(code, HUB_URL), code.replace("Q", "Q\u2013", 1),
        ],
        "wrong": {
            "empty": "", "blank": " - ", "something else": "hello", "a pairing code": "HUBPAIR1QYQQ",
            "only the prefix": "HUBKEY1",
            "a letter that does not occur": code.replace("Z", "B", 1),
            "a digit 1 inside": code[:20] + "1" + code[21:],
            "one character changed": code[:40] + ("P" if code[40] != "P" else "Q") + code[41:],
            "two neighbours swapped": swapped, "the last character missing": code[:-1],
            "one character too many": code + "Q",
            "no checksum": code[:-6], "bech32 instead of bech32m": bech32_of(FIRST_KEY),
            "version 2": code_of(b"\x02\x00" + bytes(4) + FIRST_KEY),
            "type 1": code_of(b"\x01\x01" + bytes(4) + FIRST_KEY),
            "bits after the payload": code_of(b"\x01\x00" + bytes(4) + FIRST_KEY, filled=1),
        },
    }  # fmt: skip


PAIR_SECRET = b"\x33" * 32
PAIR_KEYS = {True: b"\x11" * 32, False: b"\x22" * 32}  # X25519, the giver's and the taker's
PAIR_URL = "wss://hub.example.org/v1/ws"
GIVER = Me(DEVICE, bytes(SigningKey(b"\x44" * 32).verify_key), "org.example.notes", PAIR_URL)
TAKER = Me(OTHER_DEVICE, bytes(SigningKey(b"\x55" * 32).verify_key), "org.example.notes", PAIR_URL)
PAIR_ACCOUNT = b"\xac" * 16


def pair() -> Json:
    """A pairing in either direction with every frame; codes to refuse, and public keys of low order."""
    keys = KEYS[0]
    grant = Grant(keys.space_id, 0, FIRST_KEY, keys.key_id, INCARNATION, [(NOTES, 7)])
    shown = pairing_code(crypto_scalarmult_base(PAIR_KEYS[True]), PAIR_SECRET, PAIR_URL, has_key=True)
    payload = b"\x01\x01" + crypto_scalarmult_base(PAIR_KEYS[True]) + PAIR_SECRET
    return {
        "s": PAIR_SECRET.hex(), "channel": channel_of(PAIR_SECRET).hex(), "hub_url": PAIR_URL,
        "giver_sk": PAIR_KEYS[True].hex(), "taker_sk": PAIR_KEYS[False].hex(),
        "account_id": PAIR_ACCOUNT.hex(), "app_id": GIVER.app_id,
        "giver_id": GIVER.device_id.hex(), "giver_device_pk": GIVER.device_pk.hex(),
        "taker_id": TAKER.device_id.hex(), "taker_device_pk": TAKER.device_pk.hex(), "taker_name": "Anna's phone",
        "app_key": FIRST_KEY.hex(), "grant": msgspec.msgpack.encode(grant).hex(),
        "directions": [paired(grant, shown_by_giver=True), paired(grant, shown_by_giver=False)],
        "refused": {
            "a key code": key_code(FIRST_KEY, 0),
            "one character changed": shown[:40] + ("Q" if shown[40] != "Q" else "P") + shown[41:],
            "the last character missing": shown.partition("/")[0][:-1],
            "version 2": code_of(b"\x02" + payload[1:], prefix="hubpair"),
            "role 0": code_of(b"\x01\x00" + payload[2:], prefix="hubpair"),
            "role 3": code_of(b"\x01\x03" + payload[2:], prefix="hubpair"),
        },
        "low_order": [point.hex() for point in LOW_ORDER_X25519],
    }  # fmt: skip


def paired(grant: Grant, *, shown_by_giver: bool) -> Json:
    """One pairing from the code to the end."""

    def fresh(private_key: bytes) -> Any:
        given = iter([private_key, PAIR_SECRET])
        return lambda n: next(given)

    public = {has_key: crypto_scalarmult_base(private) for has_key, private in PAIR_KEYS.items()}
    scan = Scan(shown_by_giver, public[shown_by_giver], PAIR_SECRET, "hub.example.org")
    giver_fresh, taker_fresh = fresh(PAIR_KEYS[True]), fresh(PAIR_KEYS[False])
    giver = Giver(GIVER, PAIR_ACCOUNT, grant, giver_fresh, 0.0, None if shown_by_giver else scan)
    taker = Taker(TAKER, "Anna's phone", taker_fresh, 0.0, scan if shown_by_giver else None)
    transcript = Transcript(
        PAIR_URL, shown_by_giver, public[True], public[False], PAIR_ACCOUNT, GIVER.device_id, GIVER.device_pk,
        TAKER.device_id, TAKER.device_pk, GIVER.app_id,
    )  # fmt: skip
    shared = crypto_scalarmult(PAIR_KEYS[True], public[False])
    keys = PairingKeys.derive(shared, PAIR_SECRET, transcript)
    frames: list[Json] = []

    def carry(side: Giver | Taker, effects: list[Any]) -> None:
        other = taker if side is giver else giver
        for effect in effects:
            if isinstance(effect, Hand):
                frames.append({"from": "giver" if side is giver else "taker", "body": effect.body.hex()})
                carry(other, other.received(effect.body))
            elif isinstance(effect, Vouch):
                carry(giver, giver.vouched())
            elif isinstance(effect, Take):
                carry(taker, taker.taken())

    carry(giver, giver.begin())
    carry(taker, taker.begin())
    carry(taker, taker.confirmed(keys.digits))
    carry(giver, giver.confirmed(keys.digits))
    return {
        "shown_by": "giver" if shown_by_giver else "taker",
        "code": (giver if shown_by_giver else taker).code,
        "shared": shared.hex(), "transcript": transcript.packed().hex(),
        "to_taker": keys.to_taker.hex(), "to_giver": keys.to_giver.hex(), "digits": keys.digits,
        "name_key": keys.name.hex(), "frames": frames,
    }  # fmt: skip


# Points whose product with any private key is zero.
LOW_ORDER_X25519 = [
    bytes(32), b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"), (2**255 - 19).to_bytes(32, "little"), (2**255 - 18).to_bytes(32, "little"),
]  # fmt: skip


def code_of(payload: bytes, *, constant: int = 0x2BC830A3, filled: int = 0, prefix: str = "hubkey") -> str:
    """A code with a right checksum over any payload; written anew here, so it also checks the product's."""
    letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    bits = "".join(f"{byte:08b}" for byte in payload)
    bits += f"{filled:0{-len(bits) % 5}b}"
    values = [int(bits[start : start + 5], 2) for start in range(0, len(bits), 5)]
    expanded = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    state = 1
    for value in [*expanded, *values, 0, 0, 0, 0, 0, 0]:
        top, state = state >> 25, (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            state ^= generator * (top >> bit & 1)
    checksum = [(state ^ constant) >> 5 * (5 - place) & 31 for place in range(6)]
    return (prefix + "1" + "".join(letters[value] for value in values + checksum)).upper()


def bech32_of(app_key: bytes) -> str:
    """The same payload with the older checksum, which lets some insertions pass."""
    return code_of(b"\x01\x00" + bytes(4) + app_key, constant=1)


# These two belong to the hub alone; no client computes them.
EMAIL: Json = {
    "address": "anna@example.org",
    "hub_salt": "00" * 16,
    "argon2id": "t=2 m=19MiB p=1 L=32",
    "peppers": ["01" * 32, "02" * 32],
    "tag_v1": "2e6e3321a0112faef337cd687bec04273122ebb4d20028fa06528ef299219e0c",
    "tag_v2": "2ae2e7990fcd06c661da723058d2597c0f7514ee2e895a50ba5c8aaf0162e267",
}
OTP: Json = {
    "k_otp": "03" * 32,
    "attempt_id": "a1" * 16,
    "email_tag": EMAIL["tag_v1"],
    "device_pk": "29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7",
    "code": "41239346",
}


# --- values.json -----------------------------------------------------------------------------


def values() -> Json:
    """Bodies with their values in a tagged notation, and bodies to refuse."""
    return {
        "about": 'made by tools/make_vectors.py; {"$": tag, "of": ...} stands for what JSON lacks; bodies are hex',
        "bodies": [
            {"name": name, "value": tagged(value), "schema": schema, "at_ms": at_ms,
             "body": encode_body(value, schema=schema, at_ms=at_ms).hex()}
            for name, value, schema, at_ms in bodies()
        ],
        "refused": [{"name": name, "body": body.hex()} for name, body in refused_bodies()],
    }  # fmt: skip


def bodies() -> list[tuple[str, Any, int, int]]:
    """Every type of the table, alone and nested."""
    moment = datetime(2024, 2, 29, 12, 30, 45, 123000, tzinfo=UTC)
    return [
        ("null", None, 0, 0), ("true", True, 0, 0), ("zero", 0, 0, 0), ("a negative number", -129, 0, 0),
        ("a fraction", 1.5, 0, 0), ("infinity", float("inf"), 0, 0), ("not a number", float("nan"), 0, 0),
        ("empty text", "", 0, 0), ("text", "Grüße 🦦", 0, 0), ("bytes", b"\x00\xff", 0, 0), ("empty bytes", b"", 0, 0),
        ("a list", [1, [], ["a", None]], 0, 0), ("a map", {"b": 1, "a": {"c": []}}, 0, 0), ("an empty map", {}, 0, 0),
        ("schema and time", "x", 3, 1_700_000_000_000),
        ("the largest plain number", 2**53 - 1, 0, 0), ("the smallest plain number", 1 - 2**53, 0, 0),
        ("the first big number", 2**53, 0, 0), ("the first negative big number", -(2**53), 0, 0),
        ("a number beyond 64 bits", 10**30, 0, 0),
        ("a moment", moment, 0, 0),
        ("a moment before 1970", datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC), 0, 0),
        ("a moment of a whole second", datetime(2000, 1, 1, tzinfo=UTC), 0, 0),
        ("a moment after 2514", datetime(9999, 12, 31, tzinfo=UTC), 0, 0),
        ("a set", {"b", "a", 3}, 0, 0), ("an empty set", set(), 0, 0),
        ("a set of sets", {frozenset({1}), frozenset()}, 0, 0),
        ("a map with other keys", {1: "one", "a": b"x", None: [1]}, 0, 0),
        ("a map with list keys", {(1, 2): "p"}, 0, 0),
        ("a blob", Blob("image/png", b"\x89PNG"), 0, 0), ("a file", Blob("text/plain", b"hi", "hi.txt"), 0, 0),
        ("a typed array", TypedArray("Int16", b"\x01\x00\xff\xff"), 0, 0),
        ("an empty typed array", TypedArray("Float64", b""), 0, 0),
        ("all in one", {"when": [moment], "who": {1: {"x"}}, "n": [2**64], "f": Blob("a/b", b"")}, 1, 5),
    ]  # fmt: skip


def tagged(value: Any) -> Any:
    """A value in JSON; what JSON lacks becomes a tagged map."""
    if isinstance(value, float) and value - value != 0:
        return {"$": "float", "of": str(value)}
    if isinstance(value, int) and abs(value) >= 2**53:
        return {"$": "int", "of": str(value)}
    if isinstance(value, bytes):
        return {"$": "bytes", "of": value.hex()}
    if isinstance(value, datetime):
        return {"$": "time", "of": value.isoformat()}
    if isinstance(value, (list, tuple)):
        return [tagged(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return {"$": "set", "of": sorted((tagged(item) for item in value), key=json.dumps)}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: tagged(item) for key, item in value.items()}
        return {"$": "map", "of": [[tagged(key), tagged(item)] for key, item in value.items()]}
    if isinstance(value, Blob):
        return {"$": "blob", "type": value.type, "of": value.data.hex(), "name": value.name}
    if isinstance(value, TypedArray):
        return {"$": "array", "kind": value.kind, "of": value.data.hex()}
    return value


def refused_bodies() -> list[tuple[str, bytes]]:
    """Bytes that are no body of this format."""

    def wrap(value: Any, **more: Any) -> bytes:
        return msgspec.msgpack.encode({"v": value, **more})

    def ext(code: int, value: Any) -> bytes:
        return wrap(Ext(code, msgspec.msgpack.encode(value)))

    return [
        ("nothing", b""), ("no map", b"\x90"), ("no value", b"\x80"), ("cut off", wrap("hello")[:-1]),
        ("a byte too many", wrap(1) + b"\0"), ("text that is not UTF-8", b"\x81\xa1v\xa1\xff"),
        ("a schema below zero", wrap(1, s=-1)), ("a schema that is text", wrap(1, s="1")),
        ("a time beyond 2^53 - 1", wrap(1, t=2**53)),
        ("extension 0", ext(0, 1)), ("extension 6", ext(6, [])), ("extension -2", ext(-2, 1)),
        ("a timestamp of 5 bytes", wrap(Ext(-1, bytes(5)))), ("a set that is no array", ext(1, {"a": 1})),
        ("a set with a byte too many", wrap(Ext(1, b"\x90\x00"))), ("a map of no pairs", ext(2, [1, 2])),
        ("a map of triples", ext(2, [[1, 2, 3]])), ("a blob without a name", ext(3, ["a/b", b""])),
        ("a blob of text", ext(3, ["a/b", "text", ""])), ("a typed array of an unknown kind", ext(4, ["Int7", b""])),
        ("a typed array of half an item", ext(4, ["Int16", b"\x01"])), ("a big number of nothing", wrap(Ext(5, b""))),
        ("a big number in hex", wrap(Ext(5, b"0x10"))),
        ("a big number with a plus", wrap(Ext(5, b"+9007199254740992"))),
        ("a big number with a zero in front", wrap(Ext(5, b"09007199254740992"))),
        ("a big number with an underscore", wrap(Ext(5, b"9_007199254740992"))),
        ("a big number with a space", wrap(Ext(5, b" 9007199254740992"))), ("minus nothing", wrap(Ext(5, b"-"))),
    ]  # fmt: skip


# --- ed25519.json ----------------------------------------------------------------------------

FIELD = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
TORSION_8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")  # a point of order 8


def ed25519() -> Json:
    """Public keys to accept and to refuse at enrolment, and signatures with the answer of libsodium."""
    return {
        "about": 'made by tools/make_vectors.py; valid is what hub.signing answers; docs/protocol.md "Device keys"',
        "public_keys": [{"name": name, "public_key": key.hex(),
        "valid": valid} for name, key, valid in public_keys()],
        "signatures": signatures(),
    }  # fmt: skip


def public_keys() -> list[tuple[str, bytes, bool]]:
    """Honest keys, the eight points of small order, their non-canonical spellings, and mixtures."""
    honest = bytes(SigningKey(bytes(range(32))).verify_key)
    torsion = torsion_points()
    keys = [("an honest key", honest, True), ("another honest key", bytes(SigningKey(b"\x07" * 32).verify_key), True)]
    keys += [(f"small order: {name}", point, False) for name, point in torsion]
    keys += [
        (f"mixed order: an honest key plus the point of {name}", crypto_core_ed25519_add(honest, point), False)
        for name, point in torsion
        if point != torsion[0][1]
    ]
    keys += [
        ("not canonical: y = p, order 4", FIELD.to_bytes(32, "little"), False),
        ("not canonical: y = p, order 4, sign set", (FIELD | 1 << 255).to_bytes(32, "little"), False),
        ("not canonical: y = p + 1, the identity", (FIELD + 1).to_bytes(32, "little"), False),
        ("not canonical: y = p + 1, sign set", (FIELD + 1 | 1 << 255).to_bytes(32, "little"), False),
        ("not canonical: the identity, sign set", (1 | 1 << 255).to_bytes(32, "little"), False),
        ("not canonical: y = -1, sign set", (FIELD - 1 | 1 << 255).to_bytes(32, "little"), False),
        ("not canonical: y = p + 3", (FIELD + 3).to_bytes(32, "little"), False),
        ("not on the curve: y = 2", (2).to_bytes(32, "little"), False),
        ("not on the curve: y = 7", (7).to_bytes(32, "little"), False),
        ("31 bytes", honest[:-1], False),
        ("33 bytes", honest + b"\0", False),
        ("nothing", b"", False),
    ]
    return keys


def torsion_points() -> list[tuple[str, bytes]]:
    """The eight points of small order: multiples of one of order 8; the identity comes first."""
    orders = [1, 8, 4, 8, 2, 8, 4, 8]
    points, point = [], (1).to_bytes(32, "little")
    for multiple, order in enumerate(orders):
        points.append((f"order {order}, {multiple} times the point of order 8", point))
        point = crypto_core_ed25519_add(point, TORSION_8)
    assert point == points[0][1]
    return points


def signatures() -> list[Json]:
    """One honest signature and what can be done to it."""
    key, message = SigningKey(bytes(range(32))), b"hub/v1/"
    public_key, signature = bytes(key.verify_key), bytes(key.sign(message).signature)
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    identity, torsion = (1).to_bytes(32, "little"), TORSION_8
    made = [
        ("honest", public_key, signature, True),
        ("S + L: the same point, other bytes", public_key, r + (s + ORDER).to_bytes(32, "little"), False),
        ("S + 2L", public_key, r + (s + 2 * ORDER).to_bytes(32, "little"), False),
        ("S = L", public_key, r + ORDER.to_bytes(32, "little"), False),
        ("S with its top bit set", public_key, r + (s | 1 << 255).to_bytes(32, "little"), False),
        ("R with its sign turned", public_key, r[:31] + bytes([r[31] ^ 0x80]) + signature[32:], False),
        ("R plus a point of order 8: only cofactored verifiers accept", public_key,
         signed_with(key, message, lambda point: crypto_core_ed25519_add(point, torsion)), False),
        ("R is the identity", public_key, signed_with(key, message, lambda _: identity, nonce=0), False),
        ("R is the identity, not canonical", public_key,
         signed_with(key, message, lambda _: (FIELD + 1).to_bytes(32, "little"), nonce=0), False),
        ("the key is the identity, R too, S is zero", identity, identity + bytes(32), False),
        ("zeros", public_key, bytes(64), False),
        ("63 bytes", public_key, signature[:-1], False),
        ("65 bytes", public_key, signature + b"\0", False),
        ("another key's", bytes(SigningKey(b"\x07" * 32).verify_key), signature, False),
    ]  # fmt: skip
    return [
        {"name": name, "public_key": pk.hex(), "message": message.hex(), "signature": made.hex(), "valid": valid}
        for name, pk, made, valid in made
    ]


def signed_with(key: SigningKey, message: bytes, bend: Any, nonce: int = 12345) -> bytes:
    """A signature by the equation S = r + k a (RFC 8032, 5.1.6), whose R is bent before k is taken."""
    digest = bytearray(hashlib.sha512(bytes(key)).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    secret = crypto_core_ed25519_scalar_reduce(bytes(digest) + bytes(32))
    r = nonce.to_bytes(32, "little")
    point = bend(crypto_scalarmult_ed25519_base_noclamp(r) if nonce else b"")
    k = crypto_core_ed25519_scalar_reduce(hashlib.sha512(point + bytes(key.verify_key) + message).digest())
    return bytes(point + crypto_core_ed25519_scalar_add(r, crypto_core_ed25519_scalar_mul(k, secret)))


def main(arguments: list[str]) -> int:
    """Write the files, or with --check say which would change."""
    folder = Path(__file__).resolve().parent.parent / "vectors"
    changed = 0
    for name, made in (("crypto", crypto()), ("values", values()), ("ed25519", ed25519())):
        path, text = folder / f"{name}.json", json.dumps(made, indent=1, ensure_ascii=True) + "\n"
        if path.exists() and path.read_text() == text:
            continue
        changed += 1
        print(f"{path.name} {'would change' if '--check' in arguments else 'written'}")
        if "--check" not in arguments:
            path.write_text(text)
    return 1 if changed and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
