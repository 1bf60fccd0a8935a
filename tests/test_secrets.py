"""The secrets file: made once and whole, read by nobody else, shown nowhere."""

from __future__ import annotations

import itertools
import os
import secrets as random_source
import stat
from dataclasses import replace

import pytest

from hub import secrets
from hub.secrets import BadSecrets, add_pepper, fingerprint, load, load_or_make, make, new_secrets

RANDOM = random_source.token_bytes


def test_what_was_made_is_read_again(tmp_path):
    path = tmp_path / "keys" / "secrets.toml"
    made = make(path, RANDOM)
    assert load(path) == made
    assert [len(p) for p in made.peppers] == [32]
    assert (len(made.hub_salt), len(made.otp_key), len(made.internal_key)) == (16, 32, 32)
    assert len({*made.peppers, made.otp_key, made.internal_key}) == 3


def test_only_the_owner_may_read_it_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        make(tmp_path / "secrets.toml", RANDOM)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secrets.toml").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_file_open_to_others_is_refused_with_the_remedy(tmp_path, mode):
    path = tmp_path / "secrets.toml"
    make(path, RANDOM)
    path.chmod(mode)
    with pytest.raises(BadSecrets, match="chmod 600"):
        load(path)
    path.chmod(0o400)
    load(path)


def of_somebody_else(monkeypatch):
    """Let this program be another user than the one whose files these are."""
    me = os.geteuid()
    monkeypatch.setattr(secrets.os, "geteuid", lambda: me + 1)


@pytest.mark.parametrize(
    ("mode", "usable"), [(0o400, True), (0o440, True), (0o640, True), (0o444, False), (0o644, False), (0o460, False)]
)
def test_a_file_of_somebody_else_may_be_open_to_the_hubs_group(tmp_path, monkeypatch, mode, usable):
    path = tmp_path / "secrets.toml"
    made = make(path, RANDOM)
    path.chmod(mode)
    of_somebody_else(monkeypatch)
    if usable:
        assert load(path) == made
    else:
        with pytest.raises(BadSecrets, match="chmod 440"):
            load(path)


@pytest.mark.parametrize("owner_is_me", [True, False])
@pytest.mark.parametrize(
    ("mode", "usable"), [(0o400, True), (0o444, True), (0o644, True), (0o664, False), (0o646, False), (0o666, False)]
)
def test_what_a_container_was_given_may_be_readable_by_all_and_writable_by_no_other(
    tmp_path, monkeypatch, owner_is_me, mode, usable
):
    path = tmp_path / "given" / "hub.toml"
    made = make(path, RANDOM)
    path.chmod(mode)
    monkeypatch.setattr(secrets, "GIVEN", tmp_path / "given")
    if not owner_is_me:
        of_somebody_else(monkeypatch)
    if usable:
        assert load(path) == made
    else:
        with pytest.raises(BadSecrets, match="open to others"):
            load(path)
    beside = tmp_path / "given.toml"
    path.rename(beside)
    beside.chmod(0o444)
    with pytest.raises(BadSecrets, match="open to others"):
        load(beside)


def test_a_file_that_cannot_be_written_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadSecrets, match="cannot be written"):
        make(tmp_path / "file" / "secrets.toml", RANDOM)
    with pytest.raises(BadSecrets, match="cannot be written"):
        load_or_make(tmp_path / "file" / "keys" / "secrets.toml", RANDOM, store_is_empty=True)


def test_the_fingerprint_tells_salts_and_peppers_apart_and_nothing_else():
    made = new_secrets(RANDOM)
    one = fingerprint(made, 1)
    assert len(one) == 16
    assert fingerprint(replace(made, otp_key=RANDOM(32), internal_key=RANDOM(32)), 1) == one
    more = replace(made, peppers=(*made.peppers, RANDOM(32)))
    assert fingerprint(more, 1) == one != fingerprint(more, 2)
    assert fingerprint(replace(made, hub_salt=RANDOM(16)), 1) != one
    assert fingerprint(replace(made, peppers=(RANDOM(32),)), 1) != one
    assert fingerprint(replace(more, peppers=(*made.peppers, RANDOM(32))), 2) != fingerprint(more, 2)


def test_an_older_file_is_never_overwritten(tmp_path):
    path = tmp_path / "secrets.toml"
    made = make(path, RANDOM)
    with pytest.raises(BadSecrets, match="already"):
        make(path, RANDOM)
    assert load(path) == made
    assert [each.name for each in tmp_path.iterdir()] == ["secrets.toml"]


def test_a_crash_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(secrets.os, "fsync", full)
    with pytest.raises(OSError):
        make(tmp_path / "secrets.toml", RANDOM)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_made_for_an_empty_store_only(tmp_path):
    path = tmp_path / "secrets.toml"
    with pytest.raises(BadSecrets, match="nobody could sign in"):
        load_or_make(path, RANDOM, store_is_empty=False)
    assert not path.exists()
    made = load_or_make(path, RANDOM, store_is_empty=True)
    assert load_or_make(path, RANDOM, store_is_empty=False) == made
    assert load_or_make(path, RANDOM, store_is_empty=True) == made


def test_of_two_replicas_that_make_it_at_once_both_get_the_winners(tmp_path):
    path, calls = tmp_path / "secrets.toml", itertools.count()

    def other_replica_is_faster(length):
        if next(calls) == 0:
            make(path, RANDOM)
        return RANDOM(length)

    assert load_or_make(path, other_replica_is_faster, store_is_empty=True) == load(path)


def test_a_new_pepper_is_added_behind_the_older_ones(tmp_path):
    path = tmp_path / "secrets.toml"
    made = make(path, RANDOM)
    added = add_pepper(path, RANDOM)
    assert load(path) == added
    assert added.peppers[:1] == made.peppers and len(added.peppers) == 2
    assert (added.hub_salt, added.otp_key, added.internal_key) == (made.hub_salt, made.otp_key, made.internal_key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secrets.toml"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hub_salt", "salt"),
        ("peppers = [", "peppers = []  # ["),
        ("peppers = [", "peppers = [7, "),
        ('otp_key = "', 'otp_key = "00'),
        ('otp_key = "', 'otp_key = "zz'),
        ("internal_key = ", "internal_key = 3 # "),
        ("=", "&"),
    ],
)
def test_a_damaged_file_is_refused_without_quoting_it(tmp_path, old, new):
    path = tmp_path / "secrets.toml"
    made = make(path, RANDOM)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BadSecrets, match="damaged") as caught:
        load(path)
    assert caught.value.__suppress_context__
    assert made.otp_key.hex()[:8] not in str(caught.value)


def test_bytes_that_are_no_text_are_damage_too(tmp_path):
    path = tmp_path / "secrets.toml"
    make(path, RANDOM)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadSecrets, match="damaged"):
        load(path)


def test_a_missing_file_and_a_folder_are_told_in_a_sentence(tmp_path):
    with pytest.raises(BadSecrets, match="no secrets file"):
        load(tmp_path / "secrets.toml")
    with pytest.raises(BadSecrets, match="cannot be read"):
        load(tmp_path)


def test_secrets_do_not_show_themselves():
    made = new_secrets(RANDOM)
    shown = f"{made!r} {made} {[made]}"
    for key in (*made.peppers, made.hub_salt, made.otp_key, made.internal_key):
        assert key.hex() not in shown and repr(key) not in shown
