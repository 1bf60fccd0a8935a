-- Run by the Postgres container once, in an empty data folder: the hub's database, the role that owns its
-- tables and changes them (hub migrate), and the role the hubs run as, which can make, change and drop nothing.
-- Their passwords are those in the URLs that the hubs get.

\set owner_password `sed -n 's|^[^:]*://[^:]*:\([^@]*\)@.*|\1|p' "${SECRETS:-/run/secrets}/migration_url"`
\set hub_password `sed -n 's|^[^:]*://[^:]*:\([^@]*\)@.*|\1|p' "${SECRETS:-/run/secrets}/database_url"`

create role hub_owner login password :'owner_password';
create role hub login password :'hub_password';
create database hub owner hub_owner;
revoke all on database hub from public;
grant connect on database hub to hub;
