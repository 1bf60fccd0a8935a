"""Keys: the published vectors, RFC 5869, and what must not happen."""

from __future__ import annotations

import unicodedata

import pytest
from nacl.signing import SigningKey

from hub.client.keys import SpaceKeys, hkdf
from tests.test_vectors import vectors

CRYPTO = vectors("crypto")
FIRST, SECOND = (bytes.fromhex(vector["app_key"]) for vector in CRYPTO["space"])


def derived(index: int) -> SpaceKeys:
    """The keys of one space vector."""
    return SpaceKeys.derive(FIRST) if index == 0 else SpaceKeys.derive(SECOND, 1, FIRST)


@pytest.mark.parametrize("index", [0, 1])
def test_every_key_is_the_published_one(index: int) -> None:
    keys, vector = derived(index), CRYPTO["space"][index]
    names = ("space_pk", "space_id", "content_key", "witness_key", "name_key", "set_key", "key_id")
    assert {name: getattr(keys, name).hex() for name in names} == {name: vector[name] for name in names}
    assert keys.key_epoch == vector["key_epoch"]
    assert bytes(keys.signing_key.verify_key) == keys.space_pk


@pytest.mark.parametrize("vector", [CRYPTO["names"], *CRYPTO["names"]["more"]])
@pytest.mark.parametrize("index", [0, 1])
def test_names_have_the_published_ids_under_every_app_key(index: int, vector: dict[str, str]) -> None:
    keys = derived(index)
    collection_id = keys.collection_id(vector["collection"])
    assert collection_id.hex() == vector["collection_id"]
    assert keys.record_id(collection_id, vector["record"]).hex() == vector["record_id"]


def test_names_are_not_normalised() -> None:
    composed, decomposed = "Größe", unicodedata.normalize("NFD", "Größe")
    assert derived(0).collection_id(composed) != derived(0).collection_id(decomposed)


def test_the_same_record_key_has_another_id_in_another_collection() -> None:
    keys = derived(0)
    assert keys.record_id(keys.collection_id("a"), "x") != keys.record_id(keys.collection_id("b"), "x")


def test_repr_shows_ids_and_no_key() -> None:
    keys = derived(1)
    shown = repr(keys) + str(keys) + f"{keys}"
    assert keys.space_id.hex() in shown
    secrets = [keys.content_key, keys.witness_key, keys.name_key, keys.set_key, bytes(keys.signing_key), SECOND, FIRST]
    assert not [secret for secret in secrets if secret.hex() in shown or repr(secret) in shown]


@pytest.mark.parametrize(
    ("app_key", "key_epoch", "first_key"),
    [
        (FIRST[:-1], 0, None),
        (FIRST + b"\0", 0, None),
        (SECOND, 1, None),  # ids stand on the first key
        (SECOND, 1, FIRST[:-1]),
        (FIRST, 0, SECOND),
        (FIRST, -1, None),
        (FIRST, 2**32, FIRST),
    ],
)
def test_keys_that_cannot_be_are_refused(app_key: bytes, key_epoch: int, first_key: bytes | None) -> None:
    with pytest.raises(ValueError):
        SpaceKeys.derive(app_key, key_epoch, first_key)


def test_the_last_key_epoch_is_usable() -> None:
    assert SpaceKeys.derive(SECOND, 2**32 - 1, FIRST).space_id == derived(0).space_id


def test_keys_cannot_be_altered() -> None:
    with pytest.raises(AttributeError):
        derived(0).signing_key = SigningKey(bytes(32))  # type: ignore[misc]


# RFC 5869, appendix A.1 to A.3.
@pytest.mark.parametrize(
    ("input_key", "salt", "info", "length", "output"),
    [
        (
            b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(80)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100)), 82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            b"\x0b" * 22, b"", b"", 42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)  # fmt: skip
def test_hkdf_is_that_of_rfc_5869(input_key: bytes, salt: bytes, info: bytes, length: int, output: str) -> None:
    assert hkdf(input_key, salt, info, length).hex() == output
