-- The hub's Postgres schema, version 1.  The same tables and columns as
-- hub/store/sqlite_schema.sql (a test compares them).
--
-- Ids are 16 raw bytes.  Times are Unix seconds unless the name says ms or day.
-- Nothing here opens anything: no key but public ones, no address, no code.
--
-- Primary keys prevent the same thing from being kept twice.  Foreign keys prevent
-- rows that outlive what they belong to: a deletion that forgets a table fails.
--
-- Every table that grows with data (space, collection, change, counter, receipt,
-- witness) has account_id first in its primary key and in every unique index and
-- foreign key, so it can be partitioned or distributed by hash of account_id
-- unchanged (only fillfactor is then set on the partitions).  The small tables
-- (hub, account, device, attempt, invite) are looked up by other things than the
-- account and stay whole: reference tables, in Citus.

-- What the database says of itself: schema_version, incarnation, tag_generation.
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
    used_bytes bigint not null default 0,
    created_day integer not null,
    deleted_at double precision        -- when a delayed deletion takes effect
);
-- Serves the deletion task: it never looks at accounts that stay.
create index account_due on account (deleted_at) where deleted_at is not null;
-- used_bytes changes with every append: room in the page keeps those updates off the indexes.
alter table account set (fillfactor = 70);

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
-- Serves the limit on codes an address is sent.
create index attempt_by_address on attempt (address_tag, created_at);
-- Serves forgetting.
create index attempt_by_age on attempt (created_at);

-- An invitation to sign up: the hash of its token.  Used by the enrolment that makes an account.
create table invite (
    token_hash bytea primary key,
    expires_at double precision not null,
    used_at double precision
);

-- What one app key opens: all of one app's data of one account.
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
);
-- Serves the deletion task.
create index space_due on space (deleted_at) where deleted_at is not null;
-- As for account.
alter table space set (fillfactor = 70);

-- One log: its head.  Its row is the lock under which seqs are given.  Below it,
-- other tables name the collection by the short number.
create table collection (
    account_id bytea not null,
    number bigint generated always as identity,
    space_id bytea not null,
    collection_id bytea not null,
    head bigint not null,
    primary key (account_id, number),
    foreign key (account_id, space_id) references space
);
-- Prevents one collection from having two logs; serves every look-up by name.
create unique index collection_by_name on collection (account_id, space_id, collection_id);
-- head changes with every append.
alter table collection set (fillfactor = 70);

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
    primary key (account_id, collection, seq),
    foreign key (account_id, collection) references collection
);
-- Ciphertext does not compress: trying costs time and gains nothing.
alter table change alter column sealed set storage external;
-- Prevents a draft from being in the log twice; serves the first answer to a retry.
create unique index change_once on change (account_id, collection, device_id, counter);
-- Serves a cold device: its pages cost what is live, not what was ever written.
create index change_live on change (account_id, collection, seq) where replaced_at is null;
-- Serves replacing, the conditional base and the young half of a record's history.
create index change_live_of_record on change (account_id, collection, record_id, seq) where replaced_at is null;
-- Serves the old half of a record's history.  Two halves: each change is in one of them only.
create index change_replaced_of_record on change (account_id, collection, record_id, seq)
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
);
alter table counter set (fillfactor = 70);

-- What is left of a change that was compacted or purged: the answer its retry gets.
create table receipt (
    account_id bytea not null,
    collection bigint not null,
    device_id bytea not null,
    counter bigint not null,
    seq bigint not null,
    hash16 bytea not null,             -- the first 16 bytes of SHA-256 of the sealed bytes
    primary key (account_id, collection, device_id, counter),
    foreign key (account_id, collection) references collection
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
