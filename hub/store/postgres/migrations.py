"""The schema of a Postgres database: made, brought up to date, and granted to the role the hub runs as.

Versions count from 1.  Each migration has two halves.  *pre* only adds, so that the
older program keeps running beside the newer one; it runs when the first newer replica
starts, or before, by ``migrate``.  *post* removes what only the older program needed;
it runs by ``migrate(post=True)`` when no older replica is left.

The table ``hub`` keeps ``schema_version``, up to which the *pre* halves have run, and
``schema_compatible``, the oldest program that can run, up to which the *post* halves
have.  Everything runs in one transaction under one advisory lock: of many that start
at once one does it and the others find it done.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import asyncpg

from hub.store import SchemaTooNew, SchemaTooOld
from hub.store.postgres.pool import DRIVER_ERRORS, Connection, connect, unavailable
from hub.terms import ID_BYTES

LOCK = (1752523364, 0)  # "hub" and a number, so that other programs' advisory locks are others
# An old replica's long read must not hold up everybody's writes behind a waiting ALTER TABLE.
DDL_SETTINGS = {"statement_timeout": "0", "lock_timeout": "5000", "idle_in_transaction_session_timeout": "0"}
DDL_COMMAND_S = 3_600.0


class Migration(NamedTuple):
    """The statements that lead from one version to the next."""

    pre: tuple[str, ...]
    post: tuple[str, ...] = ()


def schema() -> str:
    """The text of schema.sql: in the package when installed, beside it in a checkout."""
    packed = files("hub") / "schema.sql"
    return (packed if packed.is_file() else files("hub").joinpath("..", "schema.sql")).read_text("utf-8")


def _function(name: str) -> str:
    """The statement that gives a function the text it has in schema.sql, keeping its grants."""
    found = re.search(rf"^create function {name}\(.*?^end \$\$;$", schema(), re.MULTILINE | re.DOTALL)
    assert found, f"schema.sql has no function {name}"
    return found[0].replace("create function", "create or replace function", 1)


# Hubs of version 1 call it and know but one reason why a device may not append: that it was revoked, which would
# end the device for good.  To those of a suspended or moving account the hub is full instead: they keep what they
# have and try again later.
_APPEND_BATCH_OF_1 = """
create or replace function append_batch(
    account_ids bytea[],
    device_ids bytea[], device_account integer[],
    space_ids bytea[], space_account integer[],
    log_ids bytea[], log_space integer[],
    writer_log integer[], writer_device integer[],
    append_space integer[], append_device integer[], append_first integer[], append_last integer[],
    append_atomic boolean[],
    draft_writer integer[], draft_kind smallint[], draft_conditional boolean[], draft_record bytea[],
    draft_change bytea[], draft_counter bigint[], draft_base bytea[], draft_upto bigint[], draft_sealed bytea[],
    now_s double precision, now_ms bigint, collections_max integer, default_quota bigint,
    out alive boolean[], out used_before bigint[],
    out codes text[], out seqs bigint[], out newest_seqs bigint[], out newest_ids bytea[], out mores bigint[]
) language plpgsql set search_path from current as $$
declare
    answer record;
begin
    answer := append_all(
        account_ids, device_ids, device_account, space_ids, space_account, log_ids, log_space, writer_log,
        writer_device, append_space, append_device, append_first, append_last, append_atomic, draft_writer,
        draft_kind, draft_conditional, draft_record, draft_change, draft_counter, draft_base, draft_upto,
        draft_sealed, now_s, now_ms, collections_max, default_quota
    );
    used_before := answer.used_before;
    codes := answer.codes;
    seqs := answer.seqs;
    newest_seqs := answer.newest_seqs;
    newest_ids := answer.newest_ids;
    mores := answer.mores;
    select array_agg(closing is distinct from 'revoked' order by n) into alive
        from unnest(answer.closings) with ordinality as c(closing, n);
    for i in 1..cardinality(append_device) loop
        if answer.closings[append_device[i]] in ('suspended', 'moving') and append_first[i] <= append_last[i] then
            codes[append_first[i]:append_last[i]] :=
                array_fill('quota_exceeded'::text, array[append_last[i] - append_first[i] + 1]);
        end if;
    end loop;
end $$;
"""

# What appending is made of, each before what calls it.
APPENDING = ("append_draft", "append_drafts", "append_singly", "lock_spaces", "append_move", "append_all")

# Hubs of version 2 (and through the one above, those of 1) call it, with what the one of schema.sql is not told any
# more.  Their drafts are judged and kept one after another, which takes twice the time and needs none of that.
_APPEND_ALL_OF_2 = """
create or replace function joined(parts bytea[]) returns bytea language sql immutable
return (select coalesce(string_agg(part, '' order by n), '') from unnest(parts) with ordinality as p(part, n));

create or replace function append_all(
    account_ids bytea[],
    device_ids bytea[], device_account integer[],
    space_ids bytea[], space_account integer[],
    log_ids bytea[], log_space integer[],
    writer_log integer[], writer_device integer[],
    append_space integer[], append_device integer[], append_first integer[], append_last integer[],
    append_atomic boolean[],
    draft_writer integer[], draft_kind smallint[], draft_conditional boolean[], draft_record bytea[],
    draft_change bytea[], draft_counter bigint[], draft_base bytea[], draft_upto bigint[], draft_sealed bytea[],
    now_s double precision, now_ms bigint, collections_max integer, default_quota bigint,
    out closings text[], out used_before bigint[],
    out codes text[], out seqs bigint[], out newest_seqs bigint[], out newest_ids bytea[], out mores bigint[]
) language plpgsql set search_path from current as $$
declare
    answer record;
    draft_at integer[];
    draft_bytes integer[];
begin
    select array_agg(coalesce(before, 0)::integer order by n), array_agg(length(sealed) order by n)
        into draft_at, draft_bytes from (
            select n, sealed, sum(length(sealed)) over (order by n rows between unbounded preceding and 1 preceding)
                as before
            from unnest(draft_sealed) with ordinality as d(sealed, n)
        ) as d;
    answer := append_all(
        joined(account_ids), array_fill(0::bigint, array[cardinality(account_ids)]), joined(device_ids),
        array(select min(space) from unnest(append_device, append_space) as a(device, space)
              group by device order by device),
        joined(space_ids), space_account, array_fill(0::bigint, array[cardinality(space_ids)]),
        joined(log_ids), log_space, array_fill(0, array[cardinality(log_ids)]), writer_log, writer_device,
        array_fill(0::bigint, array[cardinality(writer_log)]), array_fill(0::bigint, array[cardinality(writer_log)]),
        append_last, append_atomic, draft_writer, array_fill(0, array[cardinality(draft_writer)]), draft_counter,
        null::boolean[], draft_at, draft_bytes, joined(draft_sealed), false, true,
        now_s, now_ms, collections_max, default_quota
    );
    closings := answer.closings;
    used_before := array(select min(used) from unnest(space_account, answer.used_before) as s(account, used)
                         group by account order by account);
    codes := answer.codes;
    seqs := answer.seqs;
    newest_seqs := answer.newest_seqs;
    newest_ids := answer.newest_ids;
    mores := answer.mores;
end $$;
"""
# Of what version 2 called, nothing is called any more; the names are those of functions with other arguments.
_DROP_APPENDS_OF_2 = """
do $$
declare
    old regprocedure;
begin
    for old in
        select oid from pg_proc where pronamespace = current_schema()::regnamespace
        and (proname, pronargs) in (('append_all', 27), ('append_draft', 16), ('append_drafts', 16),
                                    ('append_singly', 17), ('append_plain', 21),
                                    ('joined', 1))
    loop
        execute format('drop function %s', old);
    end loop;
end $$
"""


def _index_anew(name: str, text: str) -> tuple[str, ...]:
    """Another index under the name of an old one.  Readers go on while it is made, writers wait."""
    create = text.replace(name, f"{name}_anew", 1)
    return create, f"drop index {name}", f"alter index {name}_anew rename to {name}"


# The first entry leads from version 1 to 2.  schema.sql is always what all of them together lead to.  A function
# has the text it has there, whatever version gave it that: all migrations that are missing run together.
MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        pre=(
            """
            alter table account
                add column plan text not null default '',
                add column billing_ref text unique,
                add column paid_until double precision,
                add column suspended_at double precision,
                add column moving_to text not null default '',
                add column address_known boolean not null default true
            """,
            """
            create table operator (
                account_id bytea primary key references account on delete cascade,
                salt bytea not null,
                since double precision not null,
                last_step bigint not null
            )
            """,
            "create table listed (address_tag bytea primary key, kind text not null, listed_day integer not null)",
            """
            create table moved (
                device_id bytea primary key,
                device_pk bytea not null,
                url text not null,
                moved_at double precision not null
            )
            """,
            """
            create table audit (
                account_id bytea not null references account on delete cascade,
                number bigint not null,
                at double precision not null,
                what text not null,
                actor text not null,
                device_id bytea not null,
                subject_id bytea not null,
                count bigint not null,
                primary key (account_id, number)
            ) partition by hash (account_id)
            """,
            "create index audit_by_age on audit (at)",
            "create sequence audit_number",
            """
            create table growth (
                account_id bytea not null,
                space_id bytea not null,
                day integer not null,
                used_bytes bigint not null,
                primary key (account_id, space_id, day),
                foreign key (account_id, space_id) references space on delete cascade
            ) partition by hash (account_id)
            """,
            """
            do $$ begin
                for part in 0..15 loop
                    execute format('create table audit_%1$s partition of audit'
                        ' for values with (modulus 16, remainder %1$s)', part);
                    execute format('create table growth_%1$s partition of growth'
                        ' for values with (modulus 16, remainder %1$s)', part);
                end loop;
            end $$
            """,
            *(_function(name) for name in ("put_witness", "compact")),
            _APPEND_BATCH_OF_1,
        ),
        post=(
            """
            drop function append_batch(
                bytea[], bytea[], integer[], bytea[], integer[], bytea[], integer[], integer[], integer[], integer[],
                integer[], integer[], integer[], boolean[], integer[], smallint[], boolean[], bytea[], bytea[],
                bigint[], bytea[], bigint[], bytea[], double precision, bigint, integer, bigint
            )
            """,
        ),
    ),
    Migration(
        pre=(
            *(_function(name) for name in APPENDING),
            _APPEND_ALL_OF_2,
        ),
        post=(
            _DROP_APPENDS_OF_2,
            *_index_anew(
                "change_once",
                "create unique index change_once on change (collection, counter, device_id, account_id)",
            ),
            *_index_anew(
                "change_live_of_record",
                "create index change_live_of_record on change (collection, record_id, account_id, seq)"
                " where replaced_at is null",
            ),
            *_index_anew(
                "change_replaced_of_record",
                "create index change_replaced_of_record on change (collection, record_id, account_id, seq)"
                " where replaced_at is not null",
            ),
        ),
    ),
    # To 4: the tables stay in the partitions they were made with; new databases have none.
    Migration(pre=(_function("append_one"),)),
)


class Versions(NamedTuple):
    """Where a database stands; 0 = it has no tables of ours, or none that this role may read."""

    version: int
    compatible: int


async def versions(db: Connection) -> Versions:
    """Where the database stands."""
    if not await db.fetchval("select has_table_privilege(to_regclass('hub'), 'select')"):
        return Versions(0, 0)
    rows = await db.fetch("select key, value from hub where key in ('schema_version', 'schema_compatible')")
    values = {key: int(value) for key, value in rows}
    return Versions(values["schema_version"], values["schema_compatible"])


def is_current(found: Versions, migrations: Sequence[Migration]) -> bool:
    """Whether a program that knows these migrations can run on it as it is; raises ``SchemaTooNew``."""
    known = 1 + len(migrations)
    if found.compatible > known:
        raise SchemaTooNew(
            f"the database was changed for a newer hub (schema version {found.version}; it takes hubs that know"
            f" {found.compatible} or more, and this one knows {known}). Start the newer hub."
        )
    return found.version >= known


async def migrate(
    url: str, *, post: bool = False, serving_url: str = "", migrations: Sequence[Migration] = MIGRATIONS
) -> str:
    """Make the schema in an empty database, or run what is missing; a sentence that says what was done.

    ``url`` belongs to the role that owns the tables, ``serving_url`` to the one the hub
    runs as, which is granted what it needs and no more.  With ``post`` also what only
    older hubs needed is removed: none may be running any more.

    Raises ``SchemaTooNew``, ``SchemaTooOld`` when the role may not, ``StoreUnavailable``
    when the database does not answer or is busy; then nothing was changed.
    """
    try:
        role = await _role_of(serving_url) if serving_url else ""
        db = await connect(url, **DDL_SETTINGS)
        try:
            return await _migrate(db, migrations, role, post)
        finally:
            await db.close(timeout=5)
    except asyncpg.InsufficientPrivilegeError as exc:
        raise _too_old(exc.message) from None
    except DRIVER_ERRORS as exc:
        raise unavailable(exc) from None


def _too_old(why: str) -> SchemaTooOld:
    return SchemaTooOld(
        f"the tables have to be made or changed first, and this role may not do that ({why}):"
        " run hub migrate with the migration_url of the role that may"
    )


async def _role_of(url: str) -> str:
    db = await connect(url)
    try:
        return str(await db.fetchval("select current_user"))
    finally:
        await db.close(timeout=5)


async def _migrate(db: Connection, migrations: Sequence[Migration], role: str, post: bool) -> str:
    async with db.transaction():
        await db.execute("select pg_advisory_xact_lock($1, $2)", *LOCK, timeout=DDL_COMMAND_S)
        await _fix_search_path(db)
        found = await versions(db)
        if found.version == 0:
            done = await _make(db, migrations)
        else:
            done = await _bring_up(db, found, migrations, post)
        if role:
            await _grant(db, role)
    return done


async def _fix_search_path(db: Connection) -> None:
    """So that ``set search_path from current`` of the functions names one schema and nothing a stranger could make."""
    where = await db.fetchval("select quote_ident(current_schema())")
    if where is None:
        raise _too_old("it can use no schema")
    await db.execute(f"set local search_path = {where}, pg_temp")


async def _make(db: Connection, migrations: Sequence[Migration]) -> str:
    await db.execute(schema(), timeout=DDL_COMMAND_S)
    # The text is what MIGRATIONS lead to; a caller's further ones are run on top of it.
    await _run(db, [each for migration in migrations[len(MIGRATIONS) :] for each in (*migration.pre, *migration.post)])
    known = b"%d" % (1 + len(migrations))
    values = {
        "schema_version": known,
        "schema_compatible": known,
        "incarnation": secrets.token_bytes(ID_BYTES),
        "tag_generation": b"0",
    }
    await db.executemany("insert into hub (key, value) values ($1, $2)", list(values.items()))
    return f"the database was made, at schema version {known.decode()}"


async def _bring_up(db: Connection, found: Versions, migrations: Sequence[Migration], post: bool) -> str:
    known = 1 + len(migrations)
    done = []
    if not is_current(found, migrations):
        await _run(db, [each for migration in migrations[found.version - 1 :] for each in migration.pre])
        await _set_value(db, "schema_version", known)
        done.append(f"the database was brought from schema version {found.version} to {known}")
    if post and found.compatible < known:
        await _run(db, [each for migration in migrations[found.compatible - 1 :] for each in migration.post])
        await _set_value(db, "schema_compatible", known)
        done.append(f"what hubs older than schema version {known} needed was removed")
    return "; ".join(done) or f"the database is at schema version {found.version}; nothing to do"


async def _run(db: Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        await db.execute(statement, timeout=DDL_COMMAND_S)


async def _set_value(db: Connection, key: str, version: int) -> None:
    await db.execute("update hub set value = $2 where key = $1", key, b"%d" % version)


async def _grant(db: Connection, role: str) -> None:
    """Rows and functions, but no table to make, change or drop."""
    if role == await db.fetchval("select current_user"):
        return
    await db.execute(
        await db.fetchval(
            """
            select string_agg(statement, '; ') from (
                select format('grant usage on schema %I to %I', current_schema(), $1::text) as statement
                union all
                select format(
                    case relkind when 'S' then 'grant usage on sequence %s to %I'
                         else 'grant select, insert, update, delete on %s to %I' end,
                    oid::regclass, $1::text
                ) from pg_class
                where relnamespace = current_schema()::regnamespace and relowner = current_user::regrole
                and relkind in ('r', 'p', 'S') and not relispartition
                union all
                select format('grant execute on function %s to %I', oid::regprocedure, $1::text) from pg_proc
                where pronamespace = current_schema()::regnamespace and proowner = current_user::regrole
            ) as statements
            """,
            role,
        )
    )
