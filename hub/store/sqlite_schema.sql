-- The hub's SQLite schema, version 4.  The same tables and columns as schema.sql
-- at the top level (a test compares them); where the two differ, the reason is here.
--
-- Ids are 16 raw bytes.  Times are Unix seconds unless the name says ms or day.
-- Nothing here opens anything: no key but public ones, no address, no code.
--
-- Primary keys prevent the same thing from being kept twice.  Foreign keys prevent
-- rows that outlive what they belong to: a deletion that forgets a table fails.

-- What the database says of itself: schema_version, incarnation, tag_generation, and what was claimed,
-- and what is remembered.
create table hub (
    key text primary key,
    value blob not null
) without rowid;

-- One person's standing with this hub.
create table account (
    account_id blob primary key,
    -- HMAC of the address; unique, so that one address never gets two accounts.
    address_tag blob not null unique,
    quota_bytes integer,               -- null = the hub's default
    created_day integer not null,
    deleted_at real,                   -- when a delayed deletion takes effect
    plan text not null default '',     -- a word of the operator's
    billing_ref text,                  -- how a billing system calls the account
    paid_until real,                   -- from then on quota_bytes counts no more
    suspended_at real,
    moving_to text not null default '',            -- the hub it is leaving for, or '*' while it arrives
    address_known integer not null default 1       -- 0 = the tag is random
) without rowid;
-- Serves the deletion task: it never looks at accounts that stay.
create index account_due on account (deleted_at) where deleted_at is not null;
-- Prevents one billing_ref on two accounts; an index, because a migration can add one.
create unique index account_by_billing_ref on account (billing_ref);
-- Serves the tasks that leave moving accounts alone.
create index account_moving on account (account_id) where moving_to <> '';

-- An account that may operate the hub.
create table operator (
    account_id blob primary key references account,
    salt blob not null,                -- 16 bytes; with a key of the hub's own it gives the TOTP secret
    since real not null,
    last_step integer not null         -- the TOTP step that was accepted last
) without rowid;

-- Addresses that may or may not sign up, as HMACs.
create table listed (
    address_tag blob primary key,
    kind text not null,                -- allowed or blocked
    listed_day integer not null
) without rowid;

-- What happened on an account, in words of a fixed list.
create table audit (
    account_id blob not null references account,
    number integer primary key,        -- above every number that is kept
    at real not null,
    what text not null,
    actor text not null,
    device_id blob not null,           -- empty when none did it
    subject_id blob not null,          -- empty when it was done to the account
    count integer not null
);
-- Serves an account's list, newest first.
create index audit_of_account on audit (account_id, number);
-- Serves forgetting and counting.
create index audit_by_age on audit (at);

-- Devices whose account lives at another hub now.
create table moved (
    device_id blob primary key,
    device_pk blob not null,
    url text not null,
    moved_at real not null
) without rowid;

-- One installation holding one Ed25519 key.  A revoked device stays, so that its id is never given again.
create table device (
    account_id blob not null references account,
    device_id blob not null,
    device_pk blob not null,
    scope text not null,
    app_id text not null,
    enrolled_via text not null,
    enrolled_at real not null,
    last_seen_day integer not null,
    probation_until real,
    revoked_at real,
    primary key (account_id, device_id)
) without rowid;
-- Prevents one id on two accounts; serves the handshake, which knows only the device.
create unique index device_by_id on device (device_id);
-- Prevents one key from being two devices.
create unique index device_by_key on device (device_pk);

-- When something limited was done, by a key that stands for whoever did it: not who, and not what.
create table spent (
    key blob not null,                 -- 16 bytes
    at real not null
);
-- Serves the limits: the newest few of one key.
create index spent_by_key on spent (key, at);
-- Serves forgetting.
create index spent_by_age on spent (at);

-- One try at proving an address; dropped after a day.
create table attempt (
    attempt_id blob primary key,
    address_tag blob not null,
    device_pk blob not null,
    purpose text not null,
    app_id text not null,
    created_at real not null,
    expires_at real not null,
    invite blob,
    welcome integer not null,
    tries integer not null,
    sends integer not null,
    sent_at real not null,
    consumed_at real
) without rowid;
-- Serves the deletion of an account: the attempts of its address go with it.
create index attempt_by_address on attempt (address_tag);
-- Serves forgetting.
create index attempt_by_age on attempt (created_at);

-- An invitation to sign up: the hash of its token.  Used by the enrolment that makes an account.
create table invite (
    token_hash blob primary key,
    expires_at real not null,
    used_at real
) without rowid;

-- What one app key opens: all of one app's data of one account.
create table space (
    account_id blob not null references account,
    space_id blob not null,
    app_id text not null,
    key_epoch integer not null,
    space_pk blob not null,
    created_at real not null,
    used_bytes integer not null default 0,
    deleted_at real,
    primary key (account_id, space_id)
) without rowid;
-- Serves the deletion task.
create index space_due on space (deleted_at) where deleted_at is not null;

-- What a space used, on the days on which that had changed.
create table growth (
    account_id blob not null,
    space_id blob not null,
    day integer not null,
    used_bytes integer not null,
    primary key (account_id, space_id, day),
    foreign key (account_id, space_id) references space
) without rowid;

-- One log: its head.  Below it, other tables name the collection by the short
-- number, which here is the rowid.
create table collection (
    account_id blob not null,
    number integer primary key,
    space_id blob not null,
    collection_id blob not null,
    head integer not null,
    foreign key (account_id, space_id) references space
);
-- Prevents one collection from having two logs; serves every look-up by name.
create unique index collection_by_name on collection (account_id, space_id, collection_id);

-- The kept changes, in the order of their commits: a batch of appends fills a few pages at the table's end.
-- (Clustered by collection, each append would write a half-full page of its own: twice the processor time and
-- twice the room.)  What finds a change are the indexes; of those an append moves three, and a live change is
-- in other ones than a replaced.
create table change (
    account_id blob not null,
    collection integer not null references collection (number),
    seq integer not null,
    kind integer not null,
    record_id blob not null,
    change_id blob not null,
    device_id blob not null,
    counter integer not null,
    appended_at_ms integer not null,
    replaced_at real,                  -- null = live
    sealed blob not null
);
-- Prevents a draft from being in the log twice; serves the first answer to a retry, and whatever goes through a
-- whole collection.  Counter before device: devices of one collection that write alike share a page.
create unique index change_once on change (collection, counter, device_id);
-- Prevents one seq for two live changes; serves catching up, and a cold device: its pages cost what is live, not
-- what was ever written.
create unique index change_live on change (collection, seq) where replaced_at is null;
-- Serves the rest of catching up: what was replaced and is still kept.
create unique index change_replaced_by_seq on change (collection, seq) where replaced_at is not null;
-- Serves replacing, the conditional base and the young half of a record's history.
create index change_live_of_record on change (collection, record_id, seq) where replaced_at is null;
-- Serves the old half of a record's history.  Two halves: each change is in one of them only.
create index change_replaced_of_record on change (collection, record_id, seq) where replaced_at is not null;
-- Serves compaction: the oldest replaced first.
create index change_replaced on change (replaced_at) where replaced_at is not null;
-- Serves a purge (kind 2 is delete): it looks at tombstones only.
create index change_tombstone on change (collection, seq) where kind = 2 and replaced_at is null;

-- How many changes a device has appended to a collection.
create table counter (
    account_id blob not null,
    collection integer not null references collection (number),
    device_id blob not null,
    last integer not null,
    primary key (collection, device_id)
) without rowid;

-- What is left of a change that was compacted or purged: the answer its retry gets.
create table receipt (
    account_id blob not null,
    collection integer not null references collection (number),
    device_id blob not null,
    counter integer not null,
    seq integer not null,
    hash16 blob not null,              -- the first 16 bytes of SHA-256 of the sealed bytes
    primary key (collection, device_id, counter)
) without rowid;

-- The newest witness of each device; not part of the log.
create table witness (
    account_id blob not null,
    collection integer not null references collection (number),
    device_id blob not null,
    counter integer not null,
    sealed blob not null,
    primary key (collection, device_id)
) without rowid;
