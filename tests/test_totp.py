"""The operator's second proof: the codes of an authenticator app, and that each step counts once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest

from hub.store.memory import MemoryStore
from hub.totp import SALT_BYTES, matching_step, operator_secret, step_at, text_of, uri_of
from tests.store_exam import new_account

RFC_SECRET = b"12345678901234567890"
# RFC 6238 Appendix B, SHA-1: the last six of its eight digits are the code of six.
RFC_CODES = {
    59: "94287082",
    1111111109: "07081804",
    1111111111: "14050471",
    1234567890: "89005924",
    2000000000: "69279037",
    20000000000: "65353130",
}
KEY, ACCOUNT, SALT = b"k" * 32, b"a" * 16, b"s" * SALT_BYTES


@pytest.mark.parametrize("now", RFC_CODES)
def test_the_vectors_of_rfc_6238_are_met(now):
    assert matching_step(RFC_SECRET, RFC_CODES[now][2:], now) == now // 30


def test_a_code_holds_one_step_early_and_one_late_and_no_longer():
    at = 30 * 1_000
    code = pyotp.TOTP(text_of(RFC_SECRET)).at(at)
    assert [matching_step(RFC_SECRET, code, at + late) for late in (-30, -1, 0, 29, 30, 59)] == [1_000] * 6
    assert matching_step(RFC_SECRET, code, at - 31) is None
    assert matching_step(RFC_SECRET, code, at + 60) is None


def test_near_the_beginning_of_time_nothing_breaks():
    assert matching_step(RFC_SECRET, pyotp.TOTP(text_of(RFC_SECRET)).at(0), 0.0) == 0


@pytest.mark.parametrize("typed", ["287 082", "287-082", " 287082 "])
def test_spaces_and_hyphens_do_not_count(typed):
    assert matching_step(RFC_SECRET, typed, 59) == 1


@pytest.mark.parametrize(
    "typed",
    ["", "28708", "2870820", "28708x", "٢٨٧٠٨٢", "２８７０８２", "287082\n", "94287082"],
)
def test_what_is_not_six_ascii_digits_is_no_code(typed):
    assert matching_step(RFC_SECRET, typed, 59) is None


def test_a_secret_follows_from_key_account_and_salt_and_from_nothing_else():
    secret = operator_secret(KEY, ACCOUNT, SALT)
    assert secret == hmac.digest(KEY, b"hub/v1/totp\0" + ACCOUNT + SALT, hashlib.sha256)[:20]
    others = [
        operator_secret(b"K" * 32, ACCOUNT, SALT),
        operator_secret(KEY, b"A" * 16, SALT),
        operator_secret(KEY, ACCOUNT, b"S" * SALT_BYTES),
    ]
    assert len({secret, *others}) == 4


def test_an_authenticator_app_gets_the_same_codes_from_the_uri():
    secret = operator_secret(KEY, ACCOUNT, SALT)
    uri = uri_of(secret, ACCOUNT, "Family: hub")
    fields = parse_qs(urlsplit(uri).query)
    assert base64.b32decode(fields["secret"][0]) == secret
    assert fields["issuer"] == ["Family  hub"]  # a colon would end the issuer in the label
    app = pyotp.parse_uri(uri)
    assert matching_step(secret, app.at(1_700_000_000), 1_700_000_000) == step_at(1_700_000_000)


async def test_a_step_is_accepted_once_also_when_many_come_at_once():
    store = MemoryStore()
    await store.open()
    account_id, _, _ = await new_account(store)
    salt, now = b"t" * SALT_BYTES, 1_750_000_000.0
    assert await store.make_operator(account_id, salt, now)
    secret = operator_secret(KEY, account_id, salt)
    code = pyotp.TOTP(text_of(secret)).at(int(now))

    async def enter(at):
        step = matching_step(secret, code, at)
        return step is not None and await store.take_step(account_id, step)

    assert sorted(await asyncio.gather(*(enter(now) for _ in range(20)))) == [False] * 19 + [True]
    assert not await enter(now + 30)  # a step late it is still the same step
    earlier = pyotp.TOTP(text_of(secret)).at(int(now) - 30)
    assert matching_step(secret, earlier, now) == step_at(now) - 1
    assert not await store.take_step(account_id, step_at(now) - 1)  # and none before it is accepted any more
    assert await store.take_step(account_id, step_at(now) + 1)
    await store.close()
