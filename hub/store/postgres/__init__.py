"""The promises of the store in Postgres, 15 or newer, for many replicas at once.

What happens often is one statement or one function of schema.sql, so one round trip:
``append`` keeps the drafts of a whole batch of requests that way.  What happens
seldom is a transaction of a few statements.  Everything runs at READ COMMITTED: the
first statement locks, the ones after it see what the lock's holder before left.
schema.sql says who waits for whom, and why nobody waits in a circle.

* Durable: the answer is given after the commit, with ``synchronous_commit`` on.
* Appends have a connection of their own, so that reads never starve them; a dump has
  one more while it lasts.
* The hub's role reads and writes rows and makes no tables; ``migration_url`` belongs
  to the role that does.
* Deleted means deleted as far as a table can tell; what VACUUM, WAL and backups keep
  for how long is the operator's (docs/operating.md).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import cast

from hub.store import Store
from hub.store.loading import CLAIM, Loading
from hub.store.postgres.accounts import Accounts
from hub.store.postgres.crowd import Crowd
from hub.store.postgres.log import Log
from hub.store.postgres.migrations import MIGRATIONS, Migration, is_current, migrate, versions
from hub.store.postgres.moving import Moving
from hub.store.postgres.operators import Operators
from hub.store.postgres.pool import Pool
from hub.terms import ID_BYTES, Incarnation, Limits, Policy

__all__ = ["MIGRATIONS", "Migration", "PostgresStore", "migrate"]

MEMO = "memo "  # stands before the name of what is remembered, in the table ``hub``


class PostgresStore(Log, Crowd, Accounts, Operators, Moving):
    """Keeps everything in the database at ``url``.

    It opens at most ``connections``, and one more for each dump under way.  Without
    ``migration_url`` the role of ``url`` must be able to make tables in an empty
    database, or find them made.
    """

    def __init__(
        self,
        url: str,
        *,
        migration_url: str = "",
        connections: int = 10,
        limits: Limits | None = None,
        quota_bytes: int | None = None,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        assert connections >= 2, "one for appends and one for the rest"
        self._url = url
        self._migration_url = migration_url
        self._limits = limits or Limits()
        self._quota_bytes = Policy().quota_bytes if quota_bytes is None else quota_bytes
        self._migrations = migrations
        self._appends = Pool(url, 1)
        self._calls = Pool(url, connections - 1)
        self._loading = Loading()

    # --- life ---

    async def open(self) -> None:
        """Ready to serve; makes the tables in an empty database, or runs what may run beside older hubs.

        Raises ``StoreUnavailable`` when the database does not answer (opening again is
        safe), ``SchemaTooNew``, or ``SchemaTooOld`` when the tables have to be made or
        changed and no role was given that may.
        """
        self._calls.start()
        self._appends.start()
        try:
            if not is_current(await self._calls.run(versions), self._migrations):
                await self._migrate()
        except BaseException:
            await self.close()
            raise

    async def _migrate(self) -> None:
        url = self._migration_url or self._url
        await migrate(url, serving_url=self._url, migrations=self._migrations)

    async def close(self) -> None:
        """Finish what is under way, and hang up."""
        await self._appends.stop()
        await self._calls.stop()

    async def ping(self) -> None:
        """Answers when the database does, on the connection of the appends too."""
        await self._calls.run(lambda db: db.fetchval("select 1"))
        await self._appends.run(lambda db: db.fetchval("select 1"))

    async def incarnation(self) -> Incarnation:
        """The name of this life of the log."""
        return cast(bytes, await self._value("select value from hub where key = 'incarnation'"))

    async def renew_incarnation(self) -> Incarnation:
        """A new name for it."""
        query = "update hub set value = $1 where key = 'incarnation' returning value"
        return cast(bytes, await self._value(query, secrets.token_bytes(ID_BYTES)))

    async def claim(self, name: str, value: bytes) -> bytes:
        """As promised."""
        key = CLAIM + name
        # Two statements: the second one sees whom the first one waited for.
        await self._execute("insert into hub (key, value) values ($1, $2) on conflict do nothing", key, value)
        return cast(bytes, await self._value("select value from hub where key = $1", key))

    async def remember(self, name: str, value: bytes) -> None:
        """As promised; apart from what was claimed."""
        query = "insert into hub (key, value) values ($1, $2) on conflict (key) do update set value = excluded.value"
        await self._execute(query, MEMO + name, value)

    async def recall(self, name: str) -> bytes | None:
        """As promised; apart from what was claimed."""
        return cast("bytes | None", await self._value("select value from hub where key = $1", MEMO + name))


_: type[Store] = PostgresStore
