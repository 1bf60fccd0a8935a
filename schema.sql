-- The hub's Postgres schema, version 4.  The same tables and columns as
-- hub/store/sqlite_schema.sql (a test compares them), and the functions in which
-- everything happens that takes more than one statement and happens often.
--
-- Ids are 16 raw bytes.  Times are Unix seconds unless the name says ms or day.
-- Nothing here opens anything: no key but public ones, no address, no code.
--
-- Primary keys prevent the same thing from being kept twice.  Foreign keys prevent
-- rows that outlive what they belong to: a deletion that forgets a table fails.
-- Only `change` and `receipt` have none: checking one for every change made a full
-- batch take an eighth to a third longer, and their rows are written and removed by
-- the functions below and by nothing else.  What only tells of an account or a space
-- (operator, audit, growth) goes with it by itself.
--
-- Every table that grows with data (space, collection, change, counter, receipt,
-- witness, audit, growth) has account_id in its primary key, every unique index and every
-- foreign key; an engine that spreads tables over machines by account (Citus) can take
-- them as they are.  The small tables (hub, account, operator, device, spent, attempt,
-- invite, listed, moved) are looked up by other things than the account and stay whole:
-- reference tables, in Citus.
--
-- Databases that were made before schema version 4 keep what grows in partitions, by hash
-- of account_id: sixteen of each table, or since version 3 four of change and two of the
-- others.  All that stands here holds for them too.  New ones have none: every statement
-- sets up all partitions that it might look into and finds the right one for each row,
-- which was an eighth of what an append cost, alone in its batch or among 300.
--
-- Who waits for whom.  All rows `space` of an account are the lock of its log: they
-- are locked, in the order (account_id, space_id), before anything of the log is
-- looked at or written, and the statements after that see what the one before left
-- (READ COMMITTED takes a fresh snapshot for each).  So two replicas never judge a
-- draft by the same head, and none appends for a device whose revocation has
-- committed: revoking takes the same lock, and so do suspending an account and
-- beginning to move it.  Locks are always taken in the order attempt, account, space,
-- device, and within a table by id, so nobody ever waits in a circle.

-- What the database says of itself: schema_version, schema_compatible, incarnation, tag_generation, what was claimed
-- and what is remembered.
create table hub (
    key text primary key,
    value bytea not null
);

-- One person's standing with this hub.
create table account (
    account_id bytea primary key,
    -- HMAC of the address; unique, so that one address never gets two accounts.
    address_tag bytea not null unique,
    quota_bytes bigint,                -- null = the hub's default
    created_day integer not null,
    deleted_at double precision,       -- when a delayed deletion takes effect
    plan text not null default '',     -- a word of the operator's
    -- How a billing system calls the account; unique, so that no payment counts for two.
    billing_ref text unique,
    paid_until double precision,       -- from then on quota_bytes counts no more
    suspended_at double precision,     -- no device gets in, nothing is lost
    -- The URL of the hub it is leaving for, or * while its rows are being loaded; no device gets in meanwhile.
    moving_to text not null default '',
    address_known boolean not null default true  -- false: its address tag is random
);
-- Serves the deletion task: it never looks at accounts that stay.
create index account_due on account (deleted_at) where deleted_at is not null;

-- An account that may operate the hub.
create table operator (
    account_id bytea primary key references account on delete cascade,
    salt bytea not null,               -- 16 bytes; the TOTP secret follows from it and the hub's otp key
    since double precision not null,
    last_step bigint not null          -- the TOTP step accepted last; none up to it is accepted again
);

-- One installation holding one Ed25519 key.  A revoked device stays, so that its id is never given again.
create table device (
    account_id bytea not null references account,
    device_id bytea not null,
    device_pk bytea not null,
    scope text not null,
    app_id text not null,
    enrolled_via text not null,
    enrolled_at double precision not null,
    last_seen_day integer not null,
    probation_until double precision,
    revoked_at double precision,
    primary key (account_id, device_id)
);
-- Prevents one id on two accounts; serves the handshake, which knows only the device.
create unique index device_by_id on device (device_id);
-- Prevents one key from being two devices.
create unique index device_by_key on device (device_pk);

-- When something limited was done, by a key that stands for whoever did it: not who, and not what.
create table spent (
    key bytea not null,                -- 16 bytes
    at double precision not null
);
-- Serves the limits: the newest few of one key.
create index spent_by_key on spent (key, at);
-- Serves forgetting.
create index spent_by_age on spent (at);

-- One try at proving an address; dropped after a day.
create table attempt (
    attempt_id bytea primary key,
    address_tag bytea not null,
    device_pk bytea not null,
    purpose text not null,
    app_id text not null,
    created_at double precision not null,
    expires_at double precision not null,
    invite bytea,
    welcome boolean not null,
    tries integer not null,
    sends integer not null,
    sent_at double precision not null,
    consumed_at double precision
);
-- Serves the deletion of an account: the attempts of its address go with it.
create index attempt_by_address on attempt (address_tag);
-- Serves forgetting.
create index attempt_by_age on attempt (created_at);

-- An invitation to sign up: the hash of its token.  Used by the enrolment that makes an account.
create table invite (
    token_hash bytea primary key,
    expires_at double precision not null,
    used_at double precision
);

-- Addresses that the operator allows or blocks, each as its tag.
create table listed (
    address_tag bytea primary key,
    kind text not null,
    listed_day integer not null
);

-- Where the devices of an account that has left dial now.
create table moved (
    device_id bytea primary key,
    device_pk bytea not null,
    url text not null,
    moved_at double precision not null
);

-- What one app key opens: all of one app's data of one account.  What an account uses is the sum of its spaces.
-- Room in the pages of rows that change with every append (space, collection, counter) keeps those updates off the
-- indexes.
create table space (
    account_id bytea not null references account,
    space_id bytea not null,
    app_id text not null,
    key_epoch bigint not null,
    space_pk bytea not null,
    created_at double precision not null,
    used_bytes bigint not null default 0,
    deleted_at double precision,
    primary key (account_id, space_id)
) with (fillfactor = 70);
-- Serves the deletion task.
create index space_due on space (deleted_at) where deleted_at is not null;

-- Gives collections their short numbers; never the same one again.
create sequence collection_number;

-- Tells which session is newer (Store.session_order).
create sequence session_order;

-- One log: its head.  Below it, other tables name the collection by the short number.
create table collection (
    account_id bytea not null,
    number bigint not null,
    space_id bytea not null,
    collection_id bytea not null,
    head bigint not null,
    primary key (account_id, number),
    foreign key (account_id, space_id) references space
) with (fillfactor = 70);
-- Prevents one collection from having two logs; serves every look-up by name.
create unique index collection_by_name on collection (account_id, space_id, collection_id);

-- The kept changes.
create table change (
    account_id bytea not null,
    collection bigint not null,
    seq bigint not null,
    kind smallint not null,
    record_id bytea not null,
    change_id bytea not null,
    device_id bytea not null,
    counter bigint not null,
    appended_at_ms bigint not null,
    replaced_at double precision,      -- null = live
    sealed bytea not null,
    primary key (account_id, collection, seq)
);
-- Ciphertext does not compress: trying costs time and gains nothing.
alter table change alter column sealed set storage external;
-- In this and in the indexes by record the numbers stand first: they tell most rows apart by themselves, and
-- comparing and keeping them costs less than an account_id that is the same for all neighbours.
-- Prevents a draft from being in the log twice; serves the first answer to a retry.
create unique index change_once on change (collection, counter, device_id, account_id);
-- Serves a cold device: its pages cost what is live, not what was ever written.
create index change_live on change (account_id, collection, seq) where replaced_at is null;
-- Serves replacing, the conditional base and the young half of a record's history.
create index change_live_of_record on change (collection, record_id, account_id, seq) where replaced_at is null;
-- Serves the old half of a record's history.  Two halves: each change is in one of them only.
create index change_replaced_of_record on change (collection, record_id, account_id, seq)
    where replaced_at is not null;
-- Serves compaction: the oldest replaced first.
create index change_replaced on change (replaced_at) where replaced_at is not null;
-- Serves a purge (kind 2 is delete): it looks at tombstones only.
create index change_tombstone on change (account_id, collection, seq) where kind = 2 and replaced_at is null;

-- How many changes a device has appended to a collection.
create table counter (
    account_id bytea not null,
    collection bigint not null,
    device_id bytea not null,
    last bigint not null,
    primary key (account_id, collection, device_id),
    foreign key (account_id, collection) references collection
) with (fillfactor = 70);

-- What is left of a change that was compacted or purged: the answer its retry gets.
create table receipt (
    account_id bytea not null,
    collection bigint not null,
    device_id bytea not null,
    counter bigint not null,
    seq bigint not null,
    hash16 bytea not null,             -- the first 16 bytes of SHA-256 of the sealed bytes
    primary key (account_id, collection, device_id, counter)
);

-- The newest witness of each device; not part of the log.
create table witness (
    account_id bytea not null,
    collection bigint not null,
    device_id bytea not null,
    counter bigint not null,
    sealed bytea not null,
    primary key (account_id, collection, device_id),
    foreign key (account_id, collection) references collection
);
alter table witness alter column sealed set storage external;

-- What happened on an account, for its owner to read; kept for half a year.
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
);
-- Serves forgetting, and counting what happened lately.
create index audit_by_age on audit (at);

-- Gives entries of the audit their numbers.
create sequence audit_number;

-- What a space used on a day; a day on which that did not change has no row.
create table growth (
    account_id bytea not null,
    space_id bytea not null,
    day integer not null,
    used_bytes bigint not null,
    primary key (account_id, space_id, day),
    foreign key (account_id, space_id) references space on delete cascade
);


-- --- functions --------------------------------------------------------------------------------
--
-- They run with the rights of whoever calls them and find their tables where they
-- were made, whatever the caller's search_path.

-- What a draft that has its seq does to older changes of its record (kind 1 put, 2 delete, 3 purge, 6 keyring, 8
-- delta): the kinds it replaces.  A delta and a wipe (4) replace nothing.
create function replaced_by(kind smallint) returns smallint[] language sql immutable
return case
    when kind in (1, 2) then '{1,2,8}'::smallint[]
    when kind in (3, 6) then array[kind]
    else '{}'::smallint[]
end;

-- Judge one draft and keep it if it is good; the caller holds the account's lock and
-- has seen that device and space are there.  code is null when the draft is in the
-- log; more_bytes, which may be negative, is null unless this call put it there.
-- the_base is null when the draft is not conditional.
create function append_draft(
    the_account bytea, the_space bytea, the_device bytea,
    the_collection bytea, the_kind smallint, the_record bytea, the_change bytea,
    the_counter bigint, the_base bytea, upto bigint, the_sealed bytea,
    now_s double precision, now_ms bigint, collections_max integer, quota bigint,
    out code text, out the_seq bigint, out newest_seq bigint, out newest_id bytea, out more_bytes bigint
) language plpgsql set search_path from current as $$
declare
    log bigint;
    log_head bigint;
    last_counter bigint;
    kept record;
    freed bigint := 0;
begin
    the_seq := 0;
    select number, head into log, log_head from collection
        where account_id = the_account and space_id = the_space and collection_id = the_collection;
    select last into last_counter from counter
        where account_id = the_account and collection = log and device_id = the_device;

    if the_counter <= last_counter then
        select seq, sealed = the_sealed as same into kept from change
            where account_id = the_account and collection = log and device_id = the_device and counter = the_counter;
        if not found then
            select seq, hash16 = substr(sha256(the_sealed), 1, 16) as same into kept from receipt
                where account_id = the_account and collection = log and device_id = the_device
                and counter = the_counter;
        end if;
        if not found then
            code := 'wiped';
        elsif kept.same then
            the_seq := kept.seq;
        else
            code := 'device_cloned';
        end if;
        return;
    end if;
    if the_counter > coalesce(last_counter, 0) + 1 then
        code := 'out_of_order';
        return;
    end if;

    if the_base is not null then
        -- Only live changes count: after a purge the record does not exist, though older changes are still kept.
        select seq, change_id into newest_seq, newest_id from change
            where account_id = the_account and collection = log and record_id = the_record and replaced_at is null
            and kind = any(replaced_by(the_kind)) order by seq desc limit 1;
        newest_seq := coalesce(newest_seq, 0);
        newest_id := coalesce(newest_id, '\x00000000000000000000000000000000');
        if newest_id <> the_base then
            code := 'conflict';
            return;
        end if;
    end if;
    if log is null and collections_max <= (
        select count(*) from collection where account_id = the_account and space_id = the_space
    ) then
        code := 'too_many';
        return;
    end if;
    if the_kind not in (2, 3, 4) and quota < length(the_sealed) + (
        select sum(used_bytes) from space where account_id = the_account
    ) then
        code := 'quota_exceeded';
        return;
    end if;

    if log is null then
        log := nextval('collection_number');
        log_head := 0;
        insert into collection (account_id, number, space_id, collection_id, head)
            values (the_account, log, the_space, the_collection, 0);
    end if;
    update change set replaced_at = now_s
        where account_id = the_account and collection = log and record_id = the_record and replaced_at is null
        and kind = any(replaced_by(the_kind));
    if the_kind = 3 then
        with dropped as (
            delete from change where account_id = the_account and collection = log and seq <= upto
            and kind = 2 and replaced_at is null
            returning device_id, counter, seq, sealed
        ), left_behind as (
            insert into receipt (account_id, collection, device_id, counter, seq, hash16)
            select the_account, log, device_id, counter, seq, substr(sha256(sealed), 1, 16) from dropped
        )
        select coalesce(sum(length(sealed)), 0) into freed from dropped;
    elsif the_kind = 4 then
        with dropped as (
            delete from change where account_id = the_account and collection = log returning length(sealed) as bytes
        )
        select coalesce(sum(bytes), 0) into freed from dropped;
        delete from receipt where account_id = the_account and collection = log;
        delete from witness where account_id = the_account and collection = log;
    end if;

    the_seq := log_head + 1;
    more_bytes := length(the_sealed) - freed;
    insert into change (account_id, collection, seq, kind, record_id, change_id, device_id, counter,
                        appended_at_ms, sealed)
        values (the_account, log, the_seq, the_kind, the_record, the_change, the_device, the_counter,
                now_ms, the_sealed);
    update collection set head = the_seq where account_id = the_account and number = log;
    insert into counter (account_id, collection, device_id, last)
        values (the_account, log, the_device, the_counter)
        on conflict (account_id, collection, device_id) do update set last = excluded.last;
    update space set used_bytes = used_bytes + more_bytes where account_id = the_account and space_id = the_space;
end $$;

-- The drafts of one append, one after another.
create function append_drafts(
    the_account bytea, the_space bytea, the_device bytea,
    collections bytea[], kinds smallint[], records bytea[], changes bytea[],
    counters bigint[], bases bytea[], uptos bigint[], sealeds bytea[],
    now_s double precision, now_ms bigint, collections_max integer, quota bigint,
    out codes text[], out seqs bigint[], out newest_seqs bigint[], out newest_ids bytea[], out mores bigint[]
) language plpgsql set search_path from current as $$
declare
    draft record;
    answer record;
begin
    for draft in
        select * from unnest(collections, kinds, records, changes, counters, bases, uptos, sealeds)
            with ordinality as d(collection, kind, record, change, counter, base, upto, sealed, n)
    loop
        answer := append_draft(
            the_account, the_space, the_device, draft.collection, draft.kind, draft.record,
            draft.change, draft.counter, draft.base, draft.upto, draft.sealed, now_s, now_ms, collections_max, quota
        );
        codes[draft.n] := answer.code;
        seqs[draft.n] := answer.the_seq;
        newest_seqs[draft.n] := answer.newest_seq;
        newest_ids[draft.n] := answer.newest_id;
        mores[draft.n] := answer.more_bytes;
    end loop;
end $$;

-- The drafts of one append, each for itself or (atomic) all of them or none.
create function append_singly(
    atomic boolean, the_account bytea, the_space bytea, the_device bytea,
    collections bytea[], kinds smallint[], records bytea[], changes bytea[],
    counters bigint[], bases bytea[], uptos bigint[], sealeds bytea[],
    now_s double precision, now_ms bigint, collections_max integer, quota bigint,
    out codes text[], out seqs bigint[], out newest_seqs bigint[], out newest_ids bytea[], out mores bigint[]
) language plpgsql set search_path from current as $$
declare
    given bigint[];
    taken_back bigint[];
begin
    if not atomic then
        select * into codes, seqs, newest_seqs, newest_ids, mores from append_drafts(
            the_account, the_space, the_device, collections, kinds, records, changes, counters, bases,
            uptos, sealeds, now_s, now_ms, collections_max, quota
        );
        return;
    end if;
    begin
        select * into codes, seqs, newest_seqs, newest_ids, mores from append_drafts(
            the_account, the_space, the_device, collections, kinds, records, changes, counters, bases,
            uptos, sealeds, now_s, now_ms, collections_max, quota
        );
        if exists (select from unnest(codes) as code where code is not null) then
            raise exception 'a draft of an all-or-nothing append was refused' using errcode = 'HB001';
        end if;
    exception when sqlstate 'HB001' then
        -- What was written is undone; the answers are kept in variables and have to be corrected.
        given := seqs;
        taken_back := mores;
        for i in 1..cardinality(codes) loop
            if codes[i] is null and exists (
                select from unnest(collections, given, taken_back) as t(collection, seq, more)
                where t.more is not null and t.collection = collections[i] and t.seq = given[i]
            ) then
                codes[i] := 'atomic_refused';
                seqs[i] := 0;
            end if;
            mores[i] := null;
        end loop;
    end;
end $$;

-- Lock the log of each account, for the rest of the transaction; whether anything was
-- locked.  An account whose spaces were all made or removed while this waited counts
-- as one without spaces.
--
-- One scan, and no join: when a row that was waited for stands in a partition that a
-- join found at run time, Postgres 18 (18.6) loses it or crashes.
create function lock_spaces(account_ids bytea[]) returns boolean[] language plpgsql set search_path from current as $$
declare
    locked bytea[];
begin
    select array_agg(distinct account_id) into locked from (
        select account_id from space where account_id = any(account_ids)
        order by account_id, space_id for no key update
    ) as s;
    if cardinality(locked) = cardinality(account_ids) then
        return array_fill(true, array[cardinality(account_ids)]);
    end if;
    return array(
        select coalesce(a.id = any(locked), false) from unnest(account_ids) with ordinality as a(id, n) order by a.n
    );
end $$;

-- What every append moves: heads, counters, used bytes, and that older changes of its records
-- are replaced.  plain, by account, says whose rows; null: all.
--
-- Rows are named by their places (ctid), which were seen under the account's lock and so are
-- still theirs: no second look into an index.  append_all calls this, with its settings; with
-- no kind of index scan left the planner has nothing to choose.  account_id stands beside the
-- place for the partition.
create function append_move(
    account_ids bytea, plain boolean[], space_account integer[], space_rows tid[], space_bytes bigint[],
    log_space integer[], log_rows tid[], log_drafts integer[],
    writer_log integer[], writer_rows tid[], writer_last bigint[],
    old_log integer[], old_rows tid[], now_s double precision
) returns void language plpgsql set search_path from current set enable_indexscan = off as $$
begin
    update collection as c set head = c.head + l.drafts
        from unnest(log_rows, log_space, log_drafts) as l(place, of_space, drafts)
        where c.ctid = l.place and c.account_id = substr(account_ids, 16 * space_account[l.of_space] - 15, 16)
        and (plain is null or plain[space_account[l.of_space]]);
    if old_rows is not null then
        update change as c set replaced_at = now_s from unnest(old_rows, old_log) as o(place, log)
            where c.ctid = o.place
            and c.account_id = substr(account_ids, 16 * space_account[log_space[o.log]] - 15, 16);
    end if;
    update counter as c set last = w.last from unnest(writer_rows, writer_log, writer_last) as w(place, log, last)
        where c.ctid = w.place and c.account_id = substr(account_ids, 16 * space_account[log_space[w.log]] - 15, 16)
        and (plain is null or plain[space_account[log_space[w.log]]]);
    update space as s set used_bytes = s.used_bytes + d.bytes
        from unnest(space_rows, space_account, space_bytes) as d(place, of_account, bytes)
        where s.ctid = d.place and s.account_id = substr(account_ids, 16 * d.of_account - 15, 16)
        and (plain is null or plain[d.of_account]);
end $$;

-- Order and keep the drafts of many appends.  Everything that repeats comes once and
-- is named by its place, from 1: accounts, devices (of an account), spaces (of an
-- account), logs (a collection of a space), writers (a device in a log), appends, drafts.
-- Ids stand one behind the other in one value, and so do the sealed changes (bodies):
-- draft_at is the bytes before a draft, draft_bytes its own.  What stands in their clear
-- headers is read there; how they are laid out is in docs/protocol.md.
--
-- The usual account is plain: every draft of it is new, in order, on the right base,
-- neither purge nor wipe, and fits.  The drafts of all plain accounts are kept by a
-- few statements over all of them; those of the others one after another.
--
-- account_bytes is what all drafts of an account weigh, space_bytes those of a space.  A
-- device names a space of its account (device_space).  writer_first is the counter of a
-- writer's first draft, 0 when its drafts cannot be plain: when their counters do not
-- follow one another, or one of them is a purge, a wipe, or conditional on something in
-- this very batch.  draft_step counts the drafts of a log from 1.  draft_replaced says
-- whether a later draft of the batch replaces this one; null when none is.  append_atomic
-- is null when none is.  conditional says that some draft is, idle that some append has none.
--
-- Out comes for each space what its account used before, and for each log its head
-- before; that is all when every draft is newly in the log: its seq is head + step.
-- Otherwise for each device why it may not append, null when it may (closings), and for
-- each draft what append_draft gives.
--
-- Plans must not depend on how full the tables happened to be when they were made:
-- plans are made once, and every look-up is by index, one row at a time.  A subquery
-- that could be turned into a scan of a whole table is written so that it cannot be: an
-- outer join, or one with an order.  Where two indexes would do, one of them for as long as
-- the tables are empty only, an id is asked for as a range (between it and itself) and in
-- its order: as nothing may sort, that is the index that has the id.  The order of places
-- is that of the unnested arrays, which an outer join by nested loops keeps.
create function append_all(
    account_ids bytea, account_bytes bigint[],
    device_ids bytea, device_space integer[],
    space_ids bytea, space_account integer[], space_bytes bigint[],
    log_ids bytea, log_space integer[], log_drafts integer[],
    writer_log integer[], writer_device integer[], writer_first bigint[], writer_last bigint[],
    append_last integer[], append_atomic boolean[],
    draft_writer integer[], draft_step integer[], draft_counter bigint[], draft_replaced boolean[],
    draft_at integer[], draft_bytes integer[], bodies bytea,
    conditional boolean, idle boolean,
    now_s double precision, now_ms bigint, collections_max integer, default_quota bigint,
    out used_before bigint[], out heads bigint[], out closings text[],
    out codes text[], out seqs bigint[], out newest_seqs bigint[], out newest_ids bytea[], out mores bigint[]
) language plpgsql set search_path from current
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
    set enable_mergejoin = off set enable_bitmapscan = off set enable_material = off
    set enable_sort = off as $$
declare
    drafts constant integer := cardinality(draft_writer);
    locked boolean[];
    quotas bigint[];
    stops text[];
    there boolean[];
    fine boolean[];
    space_rows tid[];
    numbers bigint[];
    is_new boolean[];
    log_rows tid[];
    odd integer[];
    writer_rows tid[];
    plain boolean[];
    old_log integer[];
    old_rows tid[];
    this_log integer;
    this_space integer;
    this_device integer;
    lo integer;
    hi integer := 0;
    whole record;
begin
    locked := lock_spaces(array(select substr(account_ids, 16 * n - 15, 16)
                                from generate_series(1, cardinality(account_bytes)) as a(n)));

    -- What stands, seen after the lock.
    select array_agg(used), array_agg(quota), array_agg(stop), array_agg(here),
           array_agg(here and stop = '' and used + account_bytes[of_account] <= quota), array_agg(place)
        into used_before, quotas, stops, there, fine, space_rows from (
            select coalesce(u.used, 0) as used, s.of_account, u.place,
                   coalesce(case when a.paid_until <= now_s then null else a.quota_bytes end, default_quota) as quota,
                   case when a.suspended_at is not null then 'suspended'
                        when a.moving_to <> '' then 'moving' else '' end as stop,
                   u.place is not null and locked[s.of_account] as here
            from unnest(space_account) with ordinality as s(of_account, n)
            left join account as a on a.account_id = substr(account_ids, 16 * s.of_account - 15, 16)
            left join lateral (
                select sum(used_bytes)::bigint as used,
                       max(ctid) filter (where space_id = substr(space_ids, 16 * s.n::integer - 15, 16)) as place
                from space where account_id = substr(account_ids, 16 * s.of_account - 15, 16)
            ) as u on true
        ) as standing;
    select array_agg(coalesce(number, nextval('collection_number'))), array_agg(coalesce(head, 0)),
           array_agg(number is null), array_agg(place)
        into numbers, heads, is_new, log_rows from (
            select c.number, c.head, c.ctid as place
            from unnest(log_space) with ordinality as l(of_space, n)
            left join lateral (
                select number, head, ctid from collection
                where account_id = substr(account_ids, 16 * space_account[l.of_space] - 15, 16)
                and space_id = substr(space_ids, 16 * l.of_space - 15, 16)
                and collection_id between substr(log_ids, 16 * l.n::integer - 15, 16)
                                      and substr(log_ids, 16 * l.n::integer - 15, 16)
                order by collection_id
            ) as c on true
        ) as standing;

    -- Whose accounts are not plain.
    select array_agg(space_account[log_space[log]]) filter (where ok is not true), array_agg(place)
        into odd, writer_rows from (
            select w.log, c.ctid as place,
                   fine[log_space[w.log]] and v.device_id is not null and v.revoked_at is null
                       and w.first = coalesce(c.last, 0) + 1 as ok
            from unnest(writer_log, writer_device, writer_first) as w(log, device, first)
            left join device as v
                on v.account_id = substr(account_ids, 16 * space_account[log_space[w.log]] - 15, 16)
                and v.device_id = substr(device_ids, 16 * w.device - 15, 16)
            left join counter as c
                on c.account_id = substr(account_ids, 16 * space_account[log_space[w.log]] - 15, 16)
                and c.collection = numbers[w.log] and c.device_id = substr(device_ids, 16 * w.device - 15, 16)
        ) as standing;
    if true = any(is_new) then
        select odd || array_agg(space_account[of_space]) into odd from (
            select l.of_space from unnest(log_space, is_new) as l(of_space, fresh)
            where l.fresh group by l.of_space
            having collections_max < count(*) + (
                select count(*) from collection as c
                where c.account_id = substr(account_ids, 16 * space_account[l.of_space] - 15, 16)
                and c.space_id = substr(space_ids, 16 * l.of_space - 15, 16)
            )
        ) as full_spaces;
    end if;
    if conditional then
        select odd || array_agg(space_account[log_space[writer_log[d.writer]]]) into odd
        from unnest(draft_writer, draft_at) as d(writer, at)
        where get_byte(bodies, d.at + 3) & 2 = 2 and substr(bodies, d.at + 97, 16) <> coalesce((
            select c.change_id from change as c
            where c.account_id = substr(account_ids, 16 * space_account[log_space[writer_log[d.writer]]] - 15, 16)
            and c.collection = numbers[writer_log[d.writer]]
            and c.record_id between substr(bodies, d.at + 41, 16) and substr(bodies, d.at + 41, 16)
            and c.replaced_at is null and c.kind = any(replaced_by(get_byte(bodies, d.at + 2)::smallint))
            order by c.record_id desc, c.seq desc limit 1
        ), '\x00000000000000000000000000000000');
    end if;

    if odd is not null then
        plain := array_fill(true, array[cardinality(account_bytes)]);
        for i in 1..cardinality(odd) loop
            plain[odd[i]] := false;
        end loop;
    end if;
    if drafts > 0 and (odd is null or true = any(plain)) then
        -- plain is null when all are.
        if true = any(is_new) then
            insert into collection (account_id, number, space_id, collection_id, head)
                select substr(account_ids, 16 * space_account[l.of_space] - 15, 16), l.number,
                       substr(space_ids, 16 * l.of_space - 15, 16), substr(log_ids, 16 * l.n::integer - 15, 16),
                       l.drafts
                from unnest(is_new, log_space, log_drafts, numbers)
                    with ordinality as l(fresh, of_space, drafts, number, n)
                where l.fresh and (plain is null or plain[space_account[l.of_space]]);
        end if;
        if array_position(writer_rows, null) is not null then
            insert into counter (account_id, collection, device_id, last)
                select substr(account_ids, 16 * space_account[log_space[w.log]] - 15, 16), numbers[w.log],
                       substr(device_ids, 16 * w.device - 15, 16), w.last
                from unnest(writer_rows, writer_log, writer_device, writer_last) as w(place, log, device, last)
                where w.place is null and (plain is null or plain[space_account[log_space[w.log]]]);
        end if;
        select array_agg(d.log), array_agg(old.place) into old_log, old_rows
            from (
                select writer_log[writer] as log, at, get_byte(bodies, at + 2) as kind
                from unnest(draft_writer, draft_at) as d(writer, at)
            ) as d
            cross join lateral (
                select c.ctid as place from change as c
                where c.account_id = substr(account_ids, 16 * space_account[log_space[d.log]] - 15, 16)
                and c.collection = numbers[d.log]
                and c.record_id between substr(bodies, d.at + 41, 16) and substr(bodies, d.at + 41, 16)
                and c.replaced_at is null
                and c.kind = any(case d.kind when 6 then '{6}'::smallint[] else '{1,2,8}' end)
                order by c.record_id
            ) as old
            where d.kind <> 8 and not is_new[d.log] and (plain is null or plain[space_account[log_space[d.log]]]);
        perform append_move(account_ids, plain, space_account, space_rows, space_bytes,
                            log_space, log_rows, log_drafts, writer_log, writer_rows, writer_last,
                            old_log, old_rows, now_s);
        insert into change (account_id, collection, seq, kind, record_id, change_id, device_id, counter,
                            appended_at_ms, replaced_at, sealed)
            select substr(account_ids, 16 * space_account[log_space[log]] - 15, 16), numbers[log], heads[log] + step,
                   get_byte(bodies, at + 2), substr(bodies, at + 41, 16), substr(bodies, at + 57, 16),
                   substr(device_ids, 16 * device - 15, 16), counter, now_ms,
                   case when replaced then now_s end, substr(bodies, at + 1, size)
            from (
                select writer_log[writer] as log, writer_device[writer] as device, step, counter, replaced, at, size
                from unnest(draft_writer, draft_step, draft_counter, draft_replaced, draft_at, draft_bytes)
                    as d(writer, step, counter, replaced, at, size)
                offset 0
            ) as d
            where plain is null or plain[space_account[log_space[log]]];
    end if;
    if odd is null and not idle then
        return;
    end if;

    select array_agg(case when v.device_id is null or v.revoked_at is not null then 'revoked'
                          else nullif(stops[d.of_space], '') end order by d.n)
        into closings
        from unnest(device_space) with ordinality as d(of_space, n)
        left join device as v on v.account_id = substr(account_ids, 16 * space_account[d.of_space] - 15, 16)
            and v.device_id = substr(device_ids, 16 * d.n::integer - 15, 16);
    select array_agg(heads[writer_log[d.writer]] + d.step order by d.n), array_agg(d.size::bigint order by d.n)
        into seqs, mores
        from unnest(draft_writer, draft_step, draft_bytes) with ordinality as d(writer, step, size, n);
    codes := array_fill(null::text, array[drafts]);
    newest_seqs := array_fill(null::bigint, array[drafts]);
    newest_ids := array_fill(null::bytea, array[drafts]);
    for i in 1..cardinality(append_last) loop
        lo := hi + 1;
        hi := append_last[i];
        continue when lo > hi;
        this_log := writer_log[draft_writer[lo]];
        this_space := log_space[this_log];
        this_device := writer_device[draft_writer[lo]];
        continue when plain is null or plain[space_account[this_space]];
        seqs[lo:hi] := array_fill(0::bigint, array[hi - lo + 1]);
        mores[lo:hi] := array_fill(null::bigint, array[hi - lo + 1]);
        continue when closings[this_device] is not null;
        if not there[this_space] then
            codes[lo:hi] := array_fill('not_found'::text, array[hi - lo + 1]);
            continue;
        end if;
        select kept.* into whole from (
            select array_agg(substr(log_ids, 16 * writer_log[writer] - 15, 16) order by n) as collections,
                   array_agg(get_byte(bodies, at + 2)::smallint order by n) as kinds,
                   array_agg(substr(bodies, at + 41, 16) order by n) as records,
                   array_agg(substr(bodies, at + 57, 16) order by n) as changes,
                   array_agg(case when get_byte(bodies, at + 3) & 2 = 2 then substr(bodies, at + 97, 16) end order by n)
                       as bases,
                   -- The header has 64 bits without a sign; no seq is as high as those that do not fit.
                   array_agg(case when get_byte(bodies, at + 104) > 127 then 9223372036854775807
                             else ('x' || encode(substr(bodies, at + 105, 8), 'hex'))::bit(64)::bigint end order by n)
                       as uptos,
                   array_agg(substr(bodies, at + 1, size) order by n) as sealeds
            from unnest(draft_writer[lo:hi], draft_at[lo:hi], draft_bytes[lo:hi])
                with ordinality as d(writer, at, size, n)
        ) as d cross join lateral append_singly(
            coalesce(append_atomic[i], false), substr(account_ids, 16 * space_account[this_space] - 15, 16),
            substr(space_ids, 16 * this_space - 15, 16), substr(device_ids, 16 * this_device - 15, 16),
            d.collections, d.kinds, d.records, d.changes, draft_counter[lo:hi], d.bases, d.uptos, d.sealeds,
            now_s, now_ms, collections_max, quotas[this_space]
        ) as kept;
        codes[lo:hi] := whole.codes;
        seqs[lo:hi] := whole.seqs;
        newest_seqs[lo:hi] := whole.newest_seqs;
        newest_ids[lo:hi] := whole.newest_ids;
        mores[lo:hi] := whole.mores;
    end loop;
end $$;

-- What append_all says of an append of one draft.  The usual one is kept by statements that each look at one key, in a
-- fifth of the time that append_all takes, which is made for many.  All others are left to append_all.
--
-- What is said there about plans holds here.  Where two indexes would do, an update names its row by its place (ctid),
-- seen under the account's lock: that is always the cheapest way.
create function append_one(
    the_account bytea, the_space bytea, the_device bytea, the_counter bigint, the_sealed bytea,
    now_s double precision, now_ms bigint, collections_max integer, default_quota bigint,
    out closing text, out code text, out the_seq bigint, out newest_seq bigint, out newest_id bytea,
    out more_bytes bigint, out used bigint
) language plpgsql set search_path from current
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_sort = off as $$
declare
    bytes constant integer := length(the_sealed);
    the_kind constant smallint := get_byte(the_sealed, 2);
    the_collection constant bytea := substr(the_sealed, 25, 16);
    the_record constant bytea := substr(the_sealed, 41, 16);
    log bigint;
    log_row tid;
    old_rows tid[];
    old_row tid;
    newest bytea;
    answer record;
begin
    <<plain>>
    begin
        exit plain when the_kind in (3, 4);
        perform from space where account_id = the_account order by space_id for no key update;
        exit plain when not found;

        -- What stands, seen after the lock.
        select number, ctid into log, log_row from collection
            where account_id = the_account and space_id = the_space
            and collection_id between the_collection and the_collection order by collection_id;
        exit plain when not found;
        select sum(used_bytes) + bytes into used from space where account_id = the_account;
        perform from device as d join account as a on a.account_id = the_account
            where d.account_id = the_account and d.device_id = the_device
            and d.revoked_at is null and a.suspended_at is null and a.moving_to = ''
            and used <= coalesce(case when a.paid_until <= now_s then null else a.quota_bytes end, default_quota);
        exit plain when not found;
        select array_agg(place), (array_agg(change_id))[1] into old_rows, newest from (
            select ctid as place, change_id from change
            where account_id = the_account and collection = log and record_id between the_record and the_record
            and replaced_at is null and kind = any(replaced_by(the_kind)) order by record_id desc, seq desc
        ) as live;
        exit plain when get_byte(the_sealed, 3) & 2 = 2
            and substr(the_sealed, 97, 16) <> coalesce(newest, '\x00000000000000000000000000000000');

        update counter set last = the_counter
            where account_id = the_account and collection = log and device_id = the_device and last = the_counter - 1;
        exit plain when not found;
        update collection set head = head + 1 where ctid = log_row and account_id = the_account
            returning head into the_seq;
        update space set used_bytes = used_bytes + bytes where account_id = the_account and space_id = the_space;
        foreach old_row in array coalesce(old_rows, '{}') loop
            update change set replaced_at = now_s where ctid = old_row and account_id = the_account;
        end loop;
        insert into change (account_id, collection, seq, kind, record_id, change_id, device_id, counter,
                            appended_at_ms, sealed)
            values (the_account, log, the_seq, the_kind, the_record, substr(the_sealed, 57, 16), the_device,
                    the_counter, now_ms, the_sealed);
        more_bytes := bytes;
        return;
    end;

    answer := append_all(
        the_account, array[bytes::bigint], the_device, array[1], the_space, array[1], array[bytes::bigint],
        the_collection, array[1], array[1], array[1], array[1], array[0::bigint], array[0::bigint], array[1], null,
        array[1], array[1], array[the_counter], null, array[0], array[bytes], the_sealed, false, false,
        now_s, now_ms, collections_max, default_quota
    );
    closing := answer.closings[1];
    code := answer.codes[1];
    the_seq := answer.seqs[1];
    newest_seq := answer.newest_seqs[1];
    newest_id := answer.newest_ids[1];
    more_bytes := answer.mores[1];
    used := answer.used_before[1] + coalesce(more_bytes, 0);
end $$;

-- Keep a device's newest witness; false when it is none, or device or collection are not there; null when the
-- account is moving.
create function put_witness(
    the_account bytea, the_space bytea, the_collection bytea, the_device bytea, the_counter bigint, the_sealed bytea
) returns boolean language plpgsql set search_path from current as $$
begin
    -- Before the device is looked at: revoking waits for this, or this for it.
    perform from space where account_id = the_account and space_id = the_space for no key update;
    if exists (
        select from account as a join device as d on d.account_id = a.account_id
        join collection as c on c.account_id = a.account_id
        where a.account_id = the_account and a.moving_to <> '' and d.device_id = the_device and d.revoked_at is null
        and c.space_id = the_space and c.collection_id = the_collection
    ) then
        return null;
    end if;
    insert into witness as w (account_id, collection, device_id, counter, sealed)
        select the_account, number, the_device, the_counter, the_sealed from collection
        where account_id = the_account and space_id = the_space and collection_id = the_collection
        and exists (
            select from device where account_id = the_account and device_id = the_device and revoked_at is null
        )
        on conflict (account_id, collection, device_id) do update
            set counter = excluded.counter, sealed = excluded.sealed where excluded.counter > w.counter;
    return found;
end $$;

-- Drop up to changes_max changes that were replaced before that time, the longest
-- replaced first, and leave receipts; how many.  What another replica has dropped
-- meanwhile is not counted.  Accounts that are moving stay as they are.
create function compact(before double precision, changes_max integer) returns bigint
    language plpgsql set search_path from current
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    accounts bytea[];
    collections bigint[];
    seqs bigint[];
    dropped bigint;
begin
    select array_agg(account_id), array_agg(collection), array_agg(seq) into accounts, collections, seqs
        from (
            select account_id, collection, seq from change as c
            where replaced_at is not null and replaced_at < before and 1 = (
                select count(*) from account as a where a.account_id = c.account_id and a.moving_to = ''
            )
            order by replaced_at limit changes_max
        ) as old;
    if accounts is null then
        return 0;
    end if;
    perform lock_spaces(array(select distinct id from unnest(accounts) as a(id)));
    with gone as (
        delete from change as c using unnest(accounts, collections, seqs) as o(account, collection, seq)
        where c.account_id = o.account and c.collection = o.collection and c.seq = o.seq and 1 = (
            select count(*) from account as a where a.account_id = o.account and a.moving_to = ''
        )
        returning c.account_id, c.collection, c.device_id, c.counter, c.seq, c.sealed
    ), left_behind as (
        insert into receipt (account_id, collection, device_id, counter, seq, hash16)
        select account_id, collection, device_id, counter, seq, substr(sha256(sealed), 1, 16) from gone
    ), freed as (
        update space as s set used_bytes = s.used_bytes - f.bytes
        from (
            select c.account_id, c.space_id, sum(length(gone.sealed)) as bytes
            from gone join collection as c on c.account_id = gone.account_id and c.number = gone.collection
            group by c.account_id, c.space_id
        ) as f
        where s.account_id = f.account_id and s.space_id = f.space_id
    )
    select count(*) into dropped from gone;
    return dropped;
end $$;

-- Drop up to rows_max changes, or when none is left receipts, of a space that is going; how many.
create function delete_some(the_account bytea, the_space bytea, rows_max integer) returns bigint
    language plpgsql set search_path from current
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    logs bigint[];
    dropped bigint;
begin
    perform lock_spaces(array[the_account]);
    select array_agg(number) into logs from collection where account_id = the_account and space_id = the_space;
    with gone as (
        delete from change as c using (
            select collection, seq from change where account_id = the_account and collection = any(logs) limit rows_max
        ) as few
        where c.account_id = the_account and c.collection = few.collection and c.seq = few.seq
        returning length(c.sealed) as bytes
    ), freed as (
        update space set used_bytes = used_bytes - (select coalesce(sum(bytes), 0) from gone)
        where account_id = the_account and space_id = the_space
    )
    select count(*) into dropped from gone;
    if dropped = 0 then
        delete from receipt as r using (
            select collection, device_id, counter from receipt
            where account_id = the_account and collection = any(logs) limit rows_max
        ) as few
        where r.account_id = the_account and r.collection = few.collection
        and r.device_id = few.device_id and r.counter = few.counter;
        get diagnostics dropped = row_count;
    end if;
    return dropped;
end $$;

-- Remove a space and every row of it; the caller holds the account's lock.
create function delete_space(the_account bytea, the_space bytea) returns boolean
    language plpgsql set search_path from current as $$
declare
    logs bigint[];
begin
    select array_agg(number) into logs from collection where account_id = the_account and space_id = the_space;
    delete from change where account_id = the_account and collection = any(logs);
    delete from counter where account_id = the_account and collection = any(logs);
    delete from receipt where account_id = the_account and collection = any(logs);
    delete from witness where account_id = the_account and collection = any(logs);
    delete from collection where account_id = the_account and space_id = the_space;
    delete from space where account_id = the_account and space_id = the_space;
    return found;
end $$;

-- Count one for each of the keys if all of them fit: key, most and seconds of each
-- span.  The seconds until it would; 0 = it does.
create function spend(
    keys bytea[], span_key bytea[], span_most integer[], span_seconds double precision[],
    now_s double precision, counting boolean
) returns double precision language plpgsql set search_path from current as $$
declare
    number integer;
    wait double precision;
begin
    if counting then
        -- Whoever counts for one of these keys waits here; in one order, so that nobody waits in a circle.
        for number in
            select distinct ('x' || encode(substr(key, 1, 4), 'hex'))::bit(32)::integer as n
            from unnest(keys) as k(key) order by n
        loop
            perform pg_advisory_xact_lock(1752523364, number);
        end loop;
    end if;
    select greatest(0, max((
            select at from spent where key = s.key order by at desc offset s.most - 1 limit 1
        ) + s.seconds - now_s))
        into wait from unnest(span_key, span_most, span_seconds) as s(key, most, seconds);
    if counting and wait = 0 then
        insert into spent (key, at) select key, now_s from unnest(keys) as k(key);
    end if;
    return wait;
end $$;
