"""The published vectors hold what they always held, and the generator still makes them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "vectors"


def vectors(name: str) -> Any:
    """One file of vectors/, read."""
    return json.loads((VECTORS / f"{name}.json").read_text())


# First made with PyNaCl and recomputed with noble and WebCrypto.  They may never change.
FROZEN: dict[str, Any] = {
    "label": "hub/v1/",
    "space": [
        {
            "app_key": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "key_epoch": 0,
            "space_pk": "14828fc255b031e670b26f4feb5dcf6f36fed8f8eb4773228b7540788dedc2a3",
            "space_id": "27881e9abb149868695f8bf221fec1d1",
            "content_key": "7b7aac6350db7bb2f4f78e2e1e9a770a7393f5654f3624c77589e0b29c14ebe4",
            "witness_key": "5f68d3718bc2f9a39b456490ec4baaeacd57fbae6c01fd3c94aa301cb4a2d286",
            "name_key": "a97ca8a5c2490cc2b583fe0e50049dcfef8709f8c1c4c3c42617991b9934926b",
            "set_key": "ba4025f57e82402e4396ddb94ac19abf91470fb0dcff0e6900e624562b250f1c",
            "key_id": "3eb9fbc8e7d3a20f9353d894886b7a57",
        },
        {
            "app_key": "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f",
            "key_epoch": 1,
            "space_pk": "2d31391c4a381348e833f07cb151ef5a088bd5b53f15d972ae7c55ce7130d364",
            "space_id": "27881e9abb149868695f8bf221fec1d1",
            "content_key": "171f8c4034ee8e06cf4f1b91f597a11cf524b11b5009cf2b52fb080d1fe9807a",
            "witness_key": "3e2610b52a8cd2060381db6b266dfeef748e6ccdd9f9cc028eadb505386f44b5",
            "name_key": "a97ca8a5c2490cc2b583fe0e50049dcfef8709f8c1c4c3c42617991b9934926b",
            "set_key": "ba4025f57e82402e4396ddb94ac19abf91470fb0dcff0e6900e624562b250f1c",
            "key_id": "8c2ed0599246b98fb9edfeea1ca53553",
        },
    ],
    "names": {
        "collection": "notes",
        "collection_id": "616c88f6cf28f3452276b2636713cec9",
        "record": "note-1",
        "record_id": "fd6ddc5e47c624d893110255e5ea0e6f",
    },
    "change": {
        "kind": 1,
        "change_id": "e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1",
        "device_id": "d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1",
        "counter": 1,
        "base": "00000000000000000000000000000000",
        "nonce": "808182838485868788898a8b8c8d8e8f9091929394959697",
        "plaintext": "6e6f74652d310068656c6c6f",
        "padded": "0000000c6e6f74652d310068656c6c6f" + "00" * 112,
        "sealed": "010101010000000027881e9abb149868695f8bf221fec1d1616c88f6cf28f3452276b2636713cec9"
        "fd6ddc5e47c624d893110255e5ea0e6fe1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1"
        "000000000000000100000000000000000000000000000000808182838485868788898a8b8c8d8e8f9091929394959697"
        "df185f4c475e0e8db7e15d3a5a83ede04c445acac70c9c3ab77e6c87312ecb3529fd04fc892be1dd4a09175fca7d10b4"
        "1b180b9b937f11f6c71de605b8c655c8c6761b8a79db5b59cb1488c7e059d0450b746114092bc5762226491ad4c392ac"
        "4cbc0af6e4a8a33876e274f9f0fcaf3081617f7ca1f2f93073925f4a110f6d8c860b9356dcef49aeadaee53743ab4106",
    },
    "digest": {"seq": 7, "term": "2513e1f9954ecba2a95ff630ba8a62869e271afdd13920fd39465982ff4f0302"},
    "auth": {
        "device_seed": "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",
        "device_pk": "29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7",
        "hello": "7b2274223a2268656c6c6f222c2276223a5b315d2c22646576696365223a226431222c226e6f6e6365223a2263227d",
        "challenge": "7b2274223a226368616c6c656e6765222c2276223a312c226e6f6e6365223a2273227d",
        "hub_url": "wss://hub.example.org",
        "transcript_hash": "9e3ff7424dd8bdb16e950e974bafd38fbcb24387c6b1cf9e02673a4008d9b4d2",
        "signature": "4d05c6a11fe6c9e57704747d727a0eb7f81882a91b3cafdd0a6265073f07e9c5"
        "c5b594535c5f5fcaf8432bc215550634efd0fa349e360953dc7312643fbe3208",
        "space_signature": "66522df3d1482a52943c9d901a86f8f07fbfb45e7283e3129ad5896428fd492c"
        "89c4f6d690de8d9a19086315abd0312da4995e70966b9146905a079e87be4401",
    },
    "email": {
        "address": "anna@example.org",
        "hub_salt": "00000000000000000000000000000000",
        "argon2id": "t=2 m=19MiB p=1 L=32",
        "peppers": [
            "0101010101010101010101010101010101010101010101010101010101010101",
            "0202020202020202020202020202020202020202020202020202020202020202",
        ],
        "tag_v1": "2e6e3321a0112faef337cd687bec04273122ebb4d20028fa06528ef299219e0c",
        "tag_v2": "2ae2e7990fcd06c661da723058d2597c0f7514ee2e895a50ba5c8aaf0162e267",
    },
    "otp": {
        "k_otp": "0303030303030303030303030303030303030303030303030303030303030303",
        "attempt_id": "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1",
        "code": "41239346",
    },
    "key_code": {
        "payload": "010000000000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "code": "HUBKEY1QYQQQQQQQQQQZQSRQSZSVPCGPY9QKRQDPC83QYGJZV2P29SHRQV35XCUR50P777JDFH",
    },
    "pair": {
        "s": "33" * 32,
        "channel": "ac04dbb7c75420a470b0104082bdc451",
        "giver_sk": "11" * 32,
        "taker_sk": "22" * 32,
    },
    "padme": {
        "0": 128, "1": 128, "100": 128, "124": 128, "125": 144, "200": 208, "300": 304, "1000": 1024, "4096": 4352,
        "65536": 67584, "1000000": 1015808,
    },
}  # fmt: skip


# Shown by the giver, then by the taker: the digits, and SHA-256 of everything else of that direction.
FROZEN_PAIRINGS = {
    "giver": ("586631", "ef597b7c5fc4645e7da45991a31b665f92b8866bc87280ff98bbf7fa6867ee59"),
    "taker": ("847300", "19ae56e0ff6f928da96ae139691024310aed85a8bf0f5d8a59f8a3f0dd072049"),
}


def test_the_pairings_that_were_published_stand_unchanged() -> None:
    for direction in vectors("crypto")["pair"]["directions"]:
        packed = json.dumps(direction, sort_keys=True).encode()
        frozen = FROZEN_PAIRINGS[direction["shown_by"]]
        assert (direction["digits"], hashlib.sha256(packed).hexdigest()) == frozen


@pytest.mark.parametrize("part", FROZEN)
def test_what_was_published_stands_unchanged(part: str) -> None:
    published, frozen = vectors("crypto")[part], FROZEN[part]
    if isinstance(frozen, dict):  # more may have been added beside it
        published = {key: published.get(key) for key in frozen}
    assert published == frozen


def test_the_generator_makes_exactly_these_files() -> None:
    run = subprocess.run(
        [sys.executable, "tools/make_vectors.py", "--check"],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "3"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_every_kind_that_travels_is_among_the_sealed_vectors() -> None:
    published = vectors("crypto")
    kinds = {vector["kind"] for vector in published["sealed"]}
    assert kinds == {1, 2, 3, 4, 6, 8} and published["witness"]["sealed"][4:6] == "05"
    assert {vector["conditional"] for vector in published["sealed"]} == {True, False}
