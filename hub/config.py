"""Every setting of the hub: its name, default, unit and meaning, and where its value comes from.

A setting is one field of ``Settings``; the field carries its own sentence, so the
file that ``hub settings`` prints, the page docs/settings.md and the faults that
``hub check`` lists are all made from this one table.

A value comes from the first of: the command line, the environment
(``HUB_PORT``), the TOML file that ``HUB_CONFIG`` names, the default.  A secret may
stand in a file of its own (``HUB_SMTP_PASSWORD_FILE``).  Every default works on a
laptop.  Only the rooms that put a hub together or command one read settings; every
other room takes plain arguments.
"""

# ruff: noqa: RUF009 -- a field made by _setting is a field, not a shared value

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from hub.terms import PATH, Limits, Policy

PREFIX = "HUB_"
FILE_VARIABLE = "HUB_CONFIG"
REDIS_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster")
MIB = 1_048_576
DAY_S = 86_400.0

# Read by other rooms or other programs, so they are no misspelt settings.
OTHER_VARIABLES = frozenset({FILE_VARIABLE, "HUB_FOLDER_HOME", "HUB_TEST_REQUIRE"})

Parse = Callable[[object], Any]


class Secret(str):
    """Text that does not show itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>" if self else "''"


# --- how a value is read: each takes what an environment, a TOML file or a command line gave ---


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value.strip()


def _secret(value: object) -> Secret:
    return Secret(_text(value))


def _flag(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    word = str(value).strip().lower()
    if word not in words:
        raise ValueError("must be true or false")
    return words[word]


def _path(value: object) -> Path:
    text = _text(value)
    if not text:
        raise ValueError("must name a file or folder")
    return Path(text).expanduser()


def _path_or_none(value: object) -> Path | None:
    return _path(value) if _text(value) else None


def _list(value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of texts")
    return tuple(part.strip() for part in parts if part.strip())


def _networks(value: object) -> tuple[str, ...]:
    for part in (networks := _list(value)):
        try:
            ipaddress.ip_network(part)
        except ValueError:
            raise ValueError(f"{part!r} is no IP address or network") from None
    return networks


def _urls(value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(canonical_url(part) for part in _list(value)))


def _number(low: int, high: int) -> Parse:
    def parse(value: object) -> int:
        try:
            number = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return number

    return parse


def _one_of(*words: str) -> Parse:
    def parse(value: object) -> str:
        if value not in words:
            raise ValueError("must be one of " + ", ".join(words))
        return str(value)

    return parse


def _setting(default: object, parse: Parse, unit: str, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"parse": parse, "unit": unit, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, checked."""

    # where
    data_dir: Path = _setting(Path("data"), _path, "folder", "Where the hub keeps its database; made when missing.")
    secrets_file: Path | None = _setting(
        None,
        _path_or_none,
        "file",
        "The hub's own keys, the same for all replicas (mode 0600, or a container's secret). Keep it outside the "
        "backups of the database. Empty: secrets.toml in data_dir.",
    )
    database_url: Secret = _setting(
        Secret(),
        _secret,
        "URL",
        "Postgres, as postgresql://hub:password@db.example.org/hub; the role needs no right to change tables. "
        "Several hosts may be named, with ?target_session_attrs=read-write. Empty: SQLite in data_dir.",
    )
    migration_url: Secret = _setting(
        Secret(),
        _secret,
        "URL",
        "The same database through the role that owns its tables, for hub migrate and for a start that has to "
        "make or change them. Empty: database_url.",
    )
    database_connections: int = _setting(
        10, _number(2, 1_000), "connections", "How many connections to Postgres one replica opens at most."
    )
    redis_url: Secret = _setting(
        Secret(),
        _secret,
        "URL",
        "Carries notices between replicas: redis:// or rediss://, or redis+cluster:// or rediss+cluster:// for a "
        "cluster. Empty: this is the only replica.",
    )
    drain_s: int = _setting(
        25,
        _number(0, 3_600),
        "seconds",
        "After SIGTERM, with database_url: over how long the devices are told to go to another replica; what stops the "
        "process must wait ten seconds longer. A hub alone goes down at once.",
    )
    # the door
    host: str = _setting("127.0.0.1", _text, "address", "The address to listen on.")
    port: int = _setting(8080, _number(0, 65_535), "port", "The port to listen on; 0 takes any free one.")
    public_urls: tuple[str, ...] = _setting(
        (),
        _urls,
        "list of URLs",
        "The addresses that devices dial, as https://hub.example.org; devices sign them. Empty: this machine only.",
    )
    tls_certificate: Path | None = _setting(
        None, _path_or_none, "file", "PEM certificate chain, when the hub itself ends TLS."
    )
    tls_key: Path | None = _setting(None, _path_or_none, "file", "PEM private key that belongs to tls_certificate.")
    behind_proxy: bool = _setting(False, _flag, "true or false", "A reverse proxy in front of the hub ends TLS.")
    trusted_proxies: tuple[str, ...] = _setting(
        ("127.0.0.1", "::1"),
        _networks,
        "list of addresses or networks",
        "Whose X-Forwarded-For is believed when behind_proxy is on.",
    )
    allowed_origins: tuple[str, ...] = _setting(
        (),
        _list,
        "list of origins",
        "Web origins whose pages may connect. Empty: all, which is safe; no cookie exists.",
    )
    serve_demo: bool = _setting(
        True,
        _flag,
        "true or false",
        "The demo, a small writing app, is served at /demo/; the client always, at /client/.",
    )
    # who may come
    hub_name: str = _setting("sync-hub", _text, "text", "The hub's name in its mails.")
    sign_up: str = _setting(
        "closed",
        _one_of("closed", "invite", "allowlist", "open"),
        "closed, invite, allowlist or open",
        "Who may make an account. Closed lets the first person in, then nobody.",
    )
    allowlist: tuple[str, ...] = _setting(
        (), _list, "list of addresses or @domains", "Who may make an account when sign_up is allowlist."
    )
    codes_per_hour: int = _setting(
        100, _number(1, 1_000_000), "codes", "How many codes the whole hub mails in an hour at most."
    )
    # mail
    smtp_host: str = _setting(
        "", _text, "host name", "The mail server that carries codes. Empty: codes are printed on this terminal."
    )
    smtp_port: int = _setting(587, _number(1, 65_535), "port", "Its port: 587 for starttls, 465 for tls.")
    smtp_security: str = _setting(
        "starttls", _one_of("starttls", "tls", "none"), "starttls, tls or none", "How the way to it is encrypted."
    )
    smtp_username: str = _setting("", _text, "text", "The name to log in with; empty: no login.")
    smtp_password: Secret = _setting(
        Secret(), _secret, "secret", "The password to log in with; better in a file: HUB_SMTP_PASSWORD_FILE."
    )
    smtp_from: str = _setting("", _text, "address", "The sender of the mails, as codes@hub.example.org.")
    # how much
    quota_mib: int = _setting(1024, _number(1, 1_000_000_000), "MiB", "Room of one account, unless it has its own.")
    history_days: int = _setting(
        30, _number(0, 36_500), "days", "How long replaced changes are kept: so far back a person can undo."
    )
    sessions_max: int = _setting(
        5_000, _number(1, 10_000_000), "sessions", "How many devices may be connected at once."
    )
    sessions_per_account_max: int = _setting(
        32, _number(1, 100_000), "sessions", "How many devices of one account may be connected at once."
    )
    devices_per_account_max: int = _setting(60, _number(1, 100_000), "devices", "How many devices an account may have.")
    spaces_per_account_max: int = _setting(50, _number(1, 100_000), "spaces", "How many spaces an account may have.")
    # what the operator sees
    log_format: str = _setting("text", _one_of("text", "json"), "text or json", "The shape of a log line, on stderr.")
    log_level: str = _setting(
        "info",
        _one_of("debug", "info", "warning", "error"),
        "debug, info, warning or error",
        "The least important lines that are written.",
    )
    metrics: str = _setting(
        "loopback",
        _one_of("loopback", "on", "off"),
        "loopback, on or off",
        "Who may read /metrics: this machine, everybody who reaches the port, nobody.",
    )

    def secrets_path(self) -> Path:
        """Where the hub's own keys are."""
        return self.secrets_file or self.data_dir / "secrets.toml"

    def limits(self) -> Limits:
        """The protocol's limits as this operator set them."""
        return Limits(
            sessions_per_account_max=self.sessions_per_account_max,
            devices_per_account_max=self.devices_per_account_max,
            spaces_per_account_max=self.spaces_per_account_max,
        )

    def policy(self) -> Policy:
        """The policy as this operator set it."""
        return Policy(history_window_s=self.history_days * DAY_S, quota_bytes=self.quota_mib * MIB)

    def hub_urls(self, port: int) -> tuple[str, ...]:
        """What devices may sign as this hub's address; ``port`` is the one that was bound."""
        if self.public_urls:
            return self.public_urls
        scheme = "https" if self.tls_certificate else "http"
        return tuple(canonical_url(f"{scheme}://{host}:{port}") for host in ("127.0.0.1", "localhost", "[::1]"))


class Loaded(NamedTuple):
    """Settings, and everything that is wrong with what they were made from.  With a fault, do not start."""

    settings: Settings
    faults: list[str]


def load(env: Mapping[str, str], toml: Path | None = None, overrides: Mapping[str, object] | None = None) -> Loaded:
    """Settings from command line, environment and file, and all faults at once, each beginning with its name.

    ``toml`` is used when given, else the file that ``HUB_CONFIG`` names, else none.
    ``overrides`` are the command line's, by field name; None means not given.  A
    setting at fault has its default in the answer.
    """
    faults: list[str] = []
    given: dict[str, tuple[str, object]] = {}  # field name -> (what the person wrote it as, value)
    path = toml or (Path(env[FILE_VARIABLE]) if env.get(FILE_VARIABLE) else None)
    given.update(_from_file(path, faults) if path else {})
    given.update(_from_env(env, faults))
    given.update({name: (f"--{name.replace('_', '-')}", v) for name, v in (overrides or {}).items() if v is not None})

    values: dict[str, Any] = {}
    for name, (written, value) in given.items():
        try:
            values[name] = _FIELDS[name].metadata["parse"](value)
        except ValueError as fault:
            faults.append(f"{written}: {fault}")
    settings = Settings(**values)
    return Loaded(settings, faults + list(_cross_faults(settings)))


def canonical_url(text: str) -> str:
    """``text`` as devices sign it: ``wss://host[:port]/v1/ws``, lower case, default port left out.

    Raises ``ValueError`` with a sentence.  http and ws are for this machine only.
    """
    schemes = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = (parts.hostname or "").encode("idna").decode().lower(), parts.port
    except ValueError:
        raise ValueError(f"{text!r} is no URL") from None
    scheme = schemes.get(parts.scheme.lower())
    if not scheme or not host or parts.username or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no URL like https://hub.example.org")
    if parts.path not in ("", "/", PATH):
        raise ValueError(f"{text!r}: the hub needs a host name of its own, without a path")
    if scheme == "ws" and not is_loopback(host):
        raise ValueError(f"{text!r}: without TLS devices only come from this machine; write https://")
    shown = f"[{host}]" if ":" in host else host
    default_port = 443 if scheme == "wss" else 80
    return f"{scheme}://{shown}{f':{port}' if port and port != default_port else ''}{PATH}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- showing ---


def render_settings(settings: Settings | None = None) -> str:
    """The TOML file with every setting, its sentence and unit; what has its default is commented out.

    Read again it gives ``settings``, but for secrets: they are never shown.
    """
    chosen = settings or Settings()
    return "\n".join(
        ["# The settings of sync-hub. A line without # is set; the others show the default.", ""]
        + [line for field in _FIELDS.values() for line in _toml_lines(field, getattr(chosen, field.name))]
    )


def settings_page() -> str:
    """docs/settings.md; a test keeps it equal to this."""
    rows = [
        f"| `{field.name}` | `{_toml(field.default)}` | {field.metadata['unit']} | {field.metadata['meaning']} |"
        for field in _FIELDS.values()
    ]
    return _PAGE_HEAD + "\n".join(rows) + "\n"


_PAGE_HEAD = """# Settings

Made from `hub/config.py` by `make docs`. The first that names a setting wins: the command line
(`--port 9000`), the environment (`HUB_PORT=9000`), the TOML file that `HUB_CONFIG` names (`port = 9000`),
the default. In the environment a list is written with commas. `hub settings` prints the same as a TOML file;
`hub check` lists everything that is wrong, at once.

A secret may stand in a file of its own: `HUB_SMTP_PASSWORD_FILE=/run/secrets/smtp`.

| setting | default | unit | meaning |
|---|---|---|---|
"""


def _toml_lines(field: dataclasses.Field[Any], value: object) -> list[str]:
    secret = isinstance(field.default, Secret)
    mark = "# " if secret or value == field.default else ""
    shown = "# is set, and not shown" if secret and value else f"{mark}{field.name} = {_toml(value)}"
    return [f"# {field.metadata['meaning']}", f"# ({field.metadata['unit']}; {PREFIX}{field.name.upper()})", shown, ""]


def _toml(value: object) -> str:
    # JSON's texts, numbers, booleans and lists of texts are TOML's too.
    if value is None:
        return '""'
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


# --- reading ---


def _from_file(path: Path, faults: list[str]) -> dict[str, tuple[str, object]]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        faults.append(f"{path}: {exc}")
        return {}
    for name in table.keys() - _FIELDS.keys():
        faults.append(f"{path}: {name} is not a setting{_did_you_mean(name)}")
    return {name: (f"{path}: {name}", value) for name, value in table.items() if name in _FIELDS}


def _from_env(env: Mapping[str, str], faults: list[str]) -> dict[str, tuple[str, object]]:
    given: dict[str, tuple[str, object]] = {}
    for variable, value in sorted(env.items()):
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        if name in _FIELDS:
            given[name] = (variable, value)
        elif name in _SECRET_FILES:
            _read_secret(_SECRET_FILES[name], variable, env, given, faults)
        elif hint := _did_you_mean(name):  # others may use HUB_ too: only what looks misspelt is a fault
            faults.append(f"{variable} is not a setting{hint}")
    return given


def _read_secret(
    name: str, variable: str, env: Mapping[str, str], given: dict[str, tuple[str, object]], faults: list[str]
) -> None:
    if variable.removesuffix("_FILE") in env:
        faults.append(f"{variable}: {variable.removesuffix('_FILE')} is set too; keep one")
        return
    try:
        given[name] = (variable, Path(env[variable]).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        faults.append(f"{variable}: {exc}")


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def _cross_faults(s: Settings) -> Iterator[str]:
    """What is right alone and wrong together."""
    yield from _door_faults(s)
    yield from _mail_faults(s)
    yield from _database_faults(s)
    if s.sign_up == "allowlist" and not s.allowlist:
        yield "allowlist: sign_up is allowlist, and nobody is on the list"


def _door_faults(s: Settings) -> Iterator[str]:
    public = not is_loopback(s.host)
    if bool(s.tls_certificate) != bool(s.tls_key):
        yield "tls_key: tls_certificate and tls_key belong together; one is missing"
    for name, path in (("tls_certificate", s.tls_certificate), ("tls_key", s.tls_key)):
        if path and not path.is_file():
            yield f"{name}: there is no file {path}"
    if public and not s.tls_certificate and not s.behind_proxy:
        yield f"host: {s.host or 'an empty host'} is open to others; set tls_certificate and tls_key, or behind_proxy"
    if (public or s.behind_proxy) and not s.public_urls:
        yield "public_urls: devices sign the address they dial; name it, as https://hub.example.org"


def _database_faults(s: Settings) -> Iterator[str]:
    for name, url in (("database_url", s.database_url), ("migration_url", s.migration_url)):
        if url and not url.startswith(("postgresql://", "postgres://")):
            yield f"{name}: is no URL like postgresql://hub:password@db.example.org/hub"
    if s.redis_url and urlsplit(s.redis_url).scheme not in REDIS_SCHEMES:
        yield f"redis_url: must begin with one of {', '.join(f'{scheme}://' for scheme in REDIS_SCHEMES)}"
    for name, url in (("migration_url", s.migration_url), ("redis_url", s.redis_url)):
        if url and not s.database_url:
            yield f"{name}: belongs to a hub on Postgres; set database_url too"


def _mail_faults(s: Settings) -> Iterator[str]:
    if s.smtp_host and not s.smtp_from:
        yield "smtp_from: mails need a sender when smtp_host is set"
    if s.smtp_from and not s.smtp_host:
        yield "smtp_host: smtp_from is set, and no server to send by"
    if bool(s.smtp_username) != bool(s.smtp_password):
        yield "smtp_password: smtp_username and smtp_password belong together; one is missing"
    if s.smtp_password and s.smtp_security == "none" and not is_loopback(s.smtp_host):
        yield "smtp_security: none would send the password to another machine in clear"


_FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Settings)}
_SECRET_FILES = {f"{f.name}_file": f.name for f in _FIELDS.values() if isinstance(f.default, Secret)}
