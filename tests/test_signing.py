"""Proofs of the handshake, and the keys and signatures on which verifiers differ."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from hub.signing import Purpose, is_valid_public_key, lp, sign, transcript_hash, verify
from tests.test_vectors import vectors

AUTH = vectors("crypto")["auth"]
ED25519 = vectors("ed25519")
DEVICE = SigningKey(bytes.fromhex(AUTH["device_seed"]))
PK = bytes(DEVICE.verify_key)
URL, HELLO, CHALLENGE = AUTH["hub_url"], bytes.fromhex(AUTH["hello"]), bytes.fromhex(AUTH["challenge"])
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def test_the_proofs_are_the_published_ones() -> None:
    assert PK.hex() == AUTH["device_pk"]
    assert transcript_hash("auth", URL, HELLO, CHALLENGE).hex() == AUTH["transcript_hash"]
    assert sign(DEVICE, "auth", URL, HELLO, CHALLENGE).hex() == AUTH["signature"]
    assert sign(DEVICE, "enrol", URL, HELLO, CHALLENGE).hex() == AUTH["enrol_signature"]


def test_the_space_proof_covers_the_challenge_and_the_space() -> None:
    space = vectors("crypto")["space"][0]
    challenge = CHALLENGE + bytes.fromhex(AUTH["space_id"])
    proof = bytes.fromhex(AUTH["space_signature"])
    assert verify(bytes.fromhex(space["space_pk"]), proof, "space", URL, HELLO, challenge)
    assert not verify(bytes.fromhex(space["space_pk"]), proof, "space", URL, HELLO, CHALLENGE)


@pytest.mark.parametrize("signed", PURPOSES)
@pytest.mark.parametrize("asked", PURPOSES)
def test_a_proof_serves_its_own_purpose_only(signed: Purpose, asked: Purpose) -> None:
    proof = sign(DEVICE, signed, URL, HELLO, CHALLENGE)
    assert verify(PK, proof, asked, URL, HELLO, CHALLENGE) == (signed == asked)


@pytest.mark.parametrize(
    ("url", "hello", "challenge"),
    [
        ("wss://other.example.org", HELLO, CHALLENGE),
        (URL + "/", HELLO, CHALLENGE),
        (URL, HELLO + b" ", CHALLENGE),
        (URL, HELLO, CHALLENGE[:-1]),
        (URL, CHALLENGE, HELLO),
        (URL, HELLO + CHALLENGE, b""),
        (URL + HELLO[:1].decode(), HELLO[1:], CHALLENGE),
    ],
)
def test_a_proof_holds_for_its_own_handshake_only(url: str, hello: bytes, challenge: bytes) -> None:
    proof = sign(DEVICE, "auth", URL, HELLO, CHALLENGE)
    assert not verify(PK, proof, "auth", url, hello, challenge)


@settings(max_examples=200, deadline=None)
@given(one=st.lists(st.binary(max_size=6), max_size=4), other=st.lists(st.binary(max_size=6), max_size=4))
def test_length_prefixed_parts_are_unambiguous(one: list[bytes], other: list[bytes]) -> None:
    assert (lp(*one) == lp(*other)) == (one == other)


@settings(max_examples=200, deadline=None)
@given(public_key=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_verifying_nonsense_is_false_and_never_raises(public_key: bytes, signature: bytes) -> None:
    assert not verify(public_key, signature, "auth", URL, HELLO, CHALLENGE)
    assert not verify(PK, signature, "auth", URL, HELLO, CHALLENGE)


@pytest.mark.parametrize("vector", ED25519["public_keys"], ids=lambda vector: vector["name"])
def test_only_canonical_points_of_prime_order_are_device_keys(vector: dict[str, Any]) -> None:
    assert is_valid_public_key(bytes.fromhex(vector["public_key"])) == vector["valid"]


@pytest.mark.parametrize("vector", ED25519["signatures"], ids=lambda vector: vector["name"])
def test_a_signature_that_verifiers_could_dispute_is_refused(vector: dict[str, Any]) -> None:
    public_key, message, signature = (bytes.fromhex(vector[name]) for name in ("public_key", "message", "signature"))
    try:
        VerifyKey(public_key).verify(message, signature)
        valid = True
    except (CryptoError, ValueError):
        valid = False
    assert valid == vector["valid"]


def test_a_proof_cannot_be_respelled() -> None:
    proof = sign(DEVICE, "auth", URL, HELLO, CHALLENGE)
    respelled = proof[:32] + (int.from_bytes(proof[32:], "little") + L).to_bytes(32, "little")
    assert verify(PK, proof, "auth", URL, HELLO, CHALLENGE)
    assert not verify(PK, respelled, "auth", URL, HELLO, CHALLENGE)


# --- the vectors are what they say they are: plain arithmetic on the curve, RFC 8032 section 5.1 ---

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]


def decoded(encoded: bytes) -> Point | None:
    """The point as RFC 8032 decodes it, but tolerating y >= p and a sign on x = 0; None when off the curve."""
    number = int.from_bytes(encoded, "little")
    y, sign_bit = (number & (1 << 255) - 1) % P, number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return (P - x if x % 2 != sign_bit else x) % P, y


def added(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    both = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + both, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - both, -1, P) % P


def times(scalar: int, point: Point) -> Point:
    total: Point = (0, 1)
    for bit in bin(scalar)[2:]:
        total = added(total, total)
        total = added(total, point) if bit == "1" else total
    return total


def encoded(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


@pytest.mark.parametrize("vector", ED25519["public_keys"], ids=lambda vector: vector["name"])
def test_a_key_vector_is_what_its_name_says(vector: dict[str, Any]) -> None:
    key, name = bytes.fromhex(vector["public_key"]), vector["name"]
    if len(key) != 32:
        assert not vector["valid"]
        return
    point = decoded(key)
    if "not on the curve" in name:
        assert point is None
        return
    assert point is not None
    canonical, small, prime = encoded(point) == key, times(8, point) == (0, 1), times(L, point) == (0, 1)
    assert canonical == ("not canonical" not in name)
    if "small order" in name:
        order = int(name.split("order ")[1].split(",")[0])
        assert times(order, point) == (0, 1) and all(times(n, point) != (0, 1) for n in range(1, order))
    assert vector["valid"] == (canonical and prime and not small)


def test_the_published_small_order_points_are_all_there_are() -> None:
    small = [vector for vector in ED25519["public_keys"] if vector["name"].startswith("small order")]
    assert len({vector["public_key"] for vector in small}) == 8
