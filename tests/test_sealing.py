"""Sealing: the published changes, every lie about them, and bytes at random."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.client.keys import SpaceKeys
from hub.client.sealing import (
    Unopenable,
    WrongRecord,
    open_sealed,
    padded_bytes,
    record_plaintext,
    seal,
    split_record,
)
from hub.terms import ZERO_ID, Kind
from tests.test_keys import derived
from tests.test_vectors import vectors

CRYPTO = vectors("crypto")
KEYS = derived(0)
CID = KEYS.collection_id("notes")
RECORD = KEYS.record_id(CID, "note-1")
PUT = bytes.fromhex(CRYPTO["change"]["sealed"])


def unhex(vector: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(vector[name]) for name in names]


def sealed_put(plaintext: bytes, keys: SpaceKeys = KEYS) -> bytes:
    return seal(
        keys, kind=Kind.PUT, flags_conditional=False, collection_id=CID, record_id=RECORD, change_id=b"c" * 16,
        device_id=b"d" * 16, counter=1, base=ZERO_ID, plaintext=plaintext, nonce=b"n" * 24,
    )  # fmt: skip


@pytest.mark.parametrize("vector", [CRYPTO["change"], *CRYPTO["sealed"]], ids=lambda vector: vector["name"])
def test_sealing_gives_the_published_bytes_and_opening_gives_them_back(vector: dict[str, Any]) -> None:
    keys, kind = derived(vector["space"]), Kind(vector["kind"])
    collection_id, record_id, change_id = unhex(vector, "collection_id", "record_id", "change_id")
    device_id, base, nonce, plaintext = unhex(vector, "device_id", "base", "nonce", "plaintext")
    sealed = seal(
        keys, kind=kind, flags_conditional=vector["conditional"], collection_id=collection_id, record_id=record_id,
        change_id=change_id, device_id=device_id, counter=vector["counter"], base=base, plaintext=plaintext,
        nonce=nonce,
    )  # fmt: skip
    assert sealed.hex() == vector["sealed"]
    opened = open_sealed(keys, sealed, collection_id=collection_id)
    assert opened.plaintext == plaintext
    assert opened.header.pack() == sealed[:112]
    assert (opened.header.kind, opened.header.conditional) == (kind, vector["conditional"])


@pytest.mark.parametrize("vector", CRYPTO["unopenable"], ids=lambda vector: vector["name"])
def test_what_must_not_open_does_not(vector: dict[str, str]) -> None:
    collection_id, sealed = unhex(vector, "collection_id", "sealed")
    with pytest.raises(Unopenable):
        open_sealed(KEYS, sealed, collection_id=collection_id)


@pytest.mark.parametrize("place", ["of another space", "of another key_epoch", "of another collection"])
def test_a_change_from_elsewhere_is_refused_before_its_seal_is_tried(place: str) -> None:
    vector = next(vector for vector in CRYPTO["unopenable"] if vector["name"] == place)
    reason = {"of another key_epoch": "under another app key"}.get(place, place.replace("of", "for"))
    with pytest.raises(Unopenable, match=reason):
        open_sealed(KEYS, bytes.fromhex(vector["sealed"]), collection_id=CID)


@pytest.mark.parametrize("vector", CRYPTO["wrong_record"], ids=lambda vector: vector["name"])
def test_a_key_inside_that_is_not_the_records_is_refused(vector: dict[str, str]) -> None:
    collection_id, sealed = unhex(vector, "collection_id", "sealed")
    opened = open_sealed(KEYS, sealed, collection_id=collection_id)
    with pytest.raises(WrongRecord):
        split_record(KEYS, opened)


def test_turning_any_bit_breaks_the_seal() -> None:
    for bit in range(len(PUT) * 8):
        altered = bytearray(PUT)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Unopenable):
            open_sealed(KEYS, bytes(altered), collection_id=CID)


def test_cutting_anywhere_breaks_the_seal() -> None:
    for end in range(len(PUT)):
        with pytest.raises(Unopenable):
            open_sealed(KEYS, PUT[:end], collection_id=CID)


@settings(max_examples=500, deadline=None)
@given(sealed=st.one_of(st.binary(max_size=400), st.binary(max_size=300).map(PUT[:112].__add__)))
def test_any_bytes_raise_unopenable_and_nothing_else(sealed: bytes) -> None:
    with pytest.raises(Unopenable):
        open_sealed(KEYS, sealed, collection_id=CID)


@settings(max_examples=200, deadline=None)
@given(plaintext=st.binary(max_size=600))
def test_whatever_is_sealed_opens_to_the_same(plaintext: bytes) -> None:
    sealed = sealed_put(plaintext)
    assert open_sealed(KEYS, sealed, collection_id=CID).plaintext == plaintext
    assert len(sealed) == 112 + 24 + padded_bytes(len(plaintext)) + 16


@pytest.mark.parametrize(("plaintext_bytes", "padded"), CRYPTO["padme"].items())
def test_padding_has_the_published_sizes(plaintext_bytes: str, padded: int) -> None:
    assert padded_bytes(int(plaintext_bytes)) == padded


def test_padding_never_shrinks_and_costs_at_most_an_eighth() -> None:
    sizes = [padded_bytes(size) for size in range(20_000)]
    assert sizes == sorted(sizes)
    assert all(size + 4 <= padded <= max(128, (size + 4) * 1.12) for size, padded in enumerate(sizes))


def test_an_unpadded_change_of_another_client_opens() -> None:
    from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

    header = PUT[:3] + b"\0" + PUT[4:112]
    sealed = (
        header + b"n" * 24 + crypto_aead_xchacha20poly1305_ietf_encrypt(b"bare", header, b"n" * 24, KEYS.content_key)
    )
    assert open_sealed(KEYS, sealed, collection_id=CID).plaintext == b"bare"


@pytest.mark.parametrize("key", ["n", "n" * 1024, "ü" * 512, "a/b c", "\x01"])
def test_a_record_key_travels_inside(key: str) -> None:
    sealed = seal(
        KEYS, kind=Kind.PUT, flags_conditional=False, collection_id=CID, record_id=KEYS.record_id(CID, key),
        change_id=b"c" * 16, device_id=b"d" * 16, counter=1, base=ZERO_ID,
        plaintext=record_plaintext(key, b"a\0body\0"), nonce=b"n" * 24,
    )  # fmt: skip
    assert split_record(KEYS, open_sealed(KEYS, sealed, collection_id=CID)) == (key, b"a\0body\0")


@pytest.mark.parametrize("key", ["", "n" * 1025])
def test_a_key_of_a_wrong_length_is_refused_even_under_its_own_record_id(key: str) -> None:
    sealed = seal(
        KEYS, kind=Kind.PUT, flags_conditional=False, collection_id=CID, record_id=KEYS.record_id(CID, key),
        change_id=b"c" * 16, device_id=b"d" * 16, counter=1, base=ZERO_ID, plaintext=key.encode() + b"\0",
        nonce=b"n" * 24,
    )  # fmt: skip
    with pytest.raises(WrongRecord, match="no record key"):
        split_record(KEYS, open_sealed(KEYS, sealed, collection_id=CID))


@pytest.mark.parametrize("key", ["", "n" * 1025, "ü" * 513, "a\0b", "\0"])
def test_a_record_key_that_cannot_travel_is_refused_before_sealing(key: str) -> None:
    with pytest.raises(ValueError, match="record's key"):
        record_plaintext(key, b"")


def test_a_lone_surrogate_in_a_record_key_is_refused_before_sealing() -> None:
    with pytest.raises(ValueError):
        record_plaintext("\ud800", b"")


@pytest.mark.parametrize("name", ["collection_id", "record_id", "change_id", "device_id", "base", "nonce"])
def test_an_id_of_a_wrong_length_is_our_own_mistake(name: str) -> None:
    given: dict[str, Any] = {
        "kind": Kind.PUT, "flags_conditional": False, "collection_id": CID, "record_id": RECORD, "change_id": b"c" * 16,
        "device_id": b"d" * 16, "counter": 1, "base": ZERO_ID, "plaintext": b"", "nonce": b"n" * 24,
    }  # fmt: skip
    with pytest.raises(AssertionError):
        seal(KEYS, **(given | {name: given[name][:-1]}))
