"""Fills an empty hub from a bundle; the devices bring what is newer.

Accounts come in closed and are let in together at the end, after the log got a new
incarnation.  What was interrupted is begun anew: accounts that never were let in are
removed first.
"""

from __future__ import annotations

import secrets as random_source
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hub.backup import files
from hub.bundle import End, Head
from hub.codes import settle_secrets
from hub.errors import Refusal
from hub.secrets import BadSecrets, Secrets, fingerprint, load
from hub.store import ARRIVING, Row, Store
from hub.store.rows import TABLES
from hub.terms import AccountId

TAG_BYTES = 32
PAGE = 200


class NotPossible(Exception):
    """It cannot be done so; the text is a sentence for the operator.  Nothing was changed unless it says so."""


class Restored(NamedTuple):
    """What came in."""

    accounts: int
    devices: int
    changes: int
    sealed_bytes: int


async def restore(store: Store, secrets: Secrets, path: Path, *, new_secrets: bool, tell: files.Tell) -> Restored:
    """Load the bundle of a whole hub into a store without accounts, and let their devices in.

    With ``new_secrets`` the address tags are left behind: the devices stay signed in,
    and give the account an address again.  Raises ``NotPossible``, ``BadSecrets``,
    ``BadBundle``, ``OSError``, ``StoreUnavailable``; then no device is let in, and the
    same call may be made again.
    """
    head, end = head_of(path), files.check(path)
    if not new_secrets:
        refuse_other_secrets(secrets, head)
    await _make_room(store)
    arrived: list[AccountId] = []
    done = 0
    for part in files.read(path):
        if not isinstance(part, list):
            continue
        rows = [row for each in part if (row := stranger(each) if new_secrets else each)]
        arrived += [_id_of(row) for row in rows if row[0] == "account"]
        await _load(store, rows)
        done += sum(len(_sealed(row)) for row in part)
        tell(done)
    await settle_secrets(store, secrets)
    await store.renew_incarnation()
    await store.end_load(arrived)
    return _counted(end)


def head_of(path: Path) -> Head:
    """The head of a bundle of a whole hub.  Raises ``BadBundle``, ``NotPossible``, ``OSError``."""
    head = next(files.read(path))  # without one a reader is not content
    assert isinstance(head, Head), "the first frame"
    if head.what != "hub":
        raise NotPossible(f"{path} is a person's export; a hub is restored from what hub backup wrote.")
    return head


def secrets_for(path: Path, *, what: str) -> Secrets:
    """The secrets in this file.  Raises ``BadSecrets`` when there are none, saying what to do."""
    if not path.exists():
        raise BadSecrets(f"There is no secrets file {path}. {what}")
    return load(path)


def refuse_other_secrets(secrets: Secrets, head: Head) -> None:
    """Raises ``BadSecrets`` when the addresses in the bundle were tagged with others."""
    if len(secrets.peppers) < head.generation or fingerprint(secrets, head.generation) != head.secrets:
        raise BadSecrets(
            "This secrets file is not the one that the backup was made with: nobody could sign in on a new device. "
            "Put the right one in its place, or leave the addresses behind with --new-secrets."
        )


def stranger(row: Row) -> Row | None:
    """The row as a hub with other secrets can take it: no address is known, no operator, nothing about secrets."""
    table, values = row
    if table == "account":
        named = dict(zip(TABLES[table], values, strict=True))
        named |= {"address_tag": random_source.token_bytes(TAG_BYTES), "address_known": False}
        return table, tuple(named.values())
    return None if table in ("hub", "listed", "operator") else row


async def arriving(store: Store) -> tuple[list[AccountId], bool]:
    """The accounts that were never let in, and whether there are others."""
    found: list[AccountId] = []
    others, after = False, b""
    while page := await store.accounts(after=after, limit=PAGE):
        for facts in page:
            if facts.account.moving_to == ARRIVING:
                found.append(facts.account.account_id)
            else:
                others = True
        after = page[-1].account.account_id
    return found, others


async def _make_room(store: Store) -> None:
    left_over, others = await arriving(store)
    if others:
        raise NotPossible(
            "This hub has accounts; a backup is restored into an empty one. Name another data_dir or database, or move "
            "the old one away first."
        )
    for account_id in left_over:
        await store.delete_account(account_id)


async def _load(store: Store, rows: list[Row]) -> None:
    try:
        await store.load(rows)
    except Refusal as refusal:
        raise NotPossible(f"The backup cannot be taken in: {refusal.message}. No device was let in.") from refusal


def _counted(end: End) -> Restored:
    def of(table: str) -> int:
        return end.rows.get(table, 0)

    return Restored(of("account"), of("device"), of("change"), end.sealed_bytes)


def _id_of(row: Row) -> AccountId:
    account_id = _named(row)["account_id"]
    assert isinstance(account_id, bytes)
    return account_id


def _sealed(row: Row) -> bytes:
    sealed = _named(row).get("sealed", b"")
    assert isinstance(sealed, bytes)
    return sealed


def _named(row: Row) -> Mapping[str, object]:
    return dict(zip(TABLES[row[0]], row[1], strict=True))
