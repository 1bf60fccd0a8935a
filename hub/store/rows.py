"""The tables of a dump and their columns: what a hub keeps, said without any database's ways.

``Store.dump`` gives rows of these tables and ``Store.load`` takes them, so that what one
keeper wrote another can read; ``hub.bundle`` makes a file of them and docs/bundle.md
describes it for everybody else.  A column is only ever added at the end of its table, with
the value an older row has written beside it.

Order: the tables stand in the order rows come in.  All rows of one account follow its row of
``account``; a row never comes before the one it belongs to; within their table rows come by
their keys: changes of a collection by their seqs, what happened in the order it did.  Rows of
``hub``, ``invite`` and ``listed`` come first, and only in a dump of the whole hub.

Ids, keys and sealed bytes are bytes; times are Unix seconds as floats; None where a
column may be empty.
"""

from __future__ import annotations

TABLES: dict[str, tuple[str, ...]] = {
    # Of the whole hub: incarnation, tag_generation and what was claimed (the fingerprints of its secrets).
    "hub": ("key", "value"),
    "invite": ("token_hash", "expires_at", "used_at"),
    "listed": ("address_tag", "kind", "listed_day"),
    # Of one account.
    "account": (
        "account_id",
        "address_tag",
        "address_known",
        "quota_bytes",
        "created_day",
        "deleted_at",
        "plan",
        "billing_ref",
        "paid_until",
        "suspended_at",
    ),
    "operator": ("account_id", "salt", "since", "last_step"),
    "device": (
        "account_id",
        "device_id",
        "device_pk",
        "scope",
        "app_id",
        "enrolled_via",
        "enrolled_at",
        "last_seen_day",
        "probation_until",
        "revoked_at",
    ),
    "space": ("account_id", "space_id", "app_id", "key_epoch", "space_pk", "created_at", "deleted_at"),
    "growth": ("account_id", "space_id", "day", "used_bytes"),
    "collection": ("account_id", "space_id", "collection_id", "head"),
    # The rows below belong to the last row of ``collection``.
    "change": (
        "seq",
        "kind",
        "record_id",
        "change_id",
        "device_id",
        "counter",
        "appended_at_ms",
        "replaced_at",
        "sealed",
    ),
    "counter": ("device_id", "last"),
    "receipt": ("device_id", "counter", "seq", "hash16"),
    "witness": ("device_id", "counter", "sealed"),
    # Of the account again.
    "audit": ("account_id", "at", "what", "actor", "device_id", "subject_id", "count"),
}

# Not in a dump: ``attempt`` and ``spent`` are forgotten within a day, ``moved`` is about accounts that are not here,
# and what a hub only remembers (``Store.remember``) is said anew.
