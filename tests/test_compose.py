"""compose.yaml, the Dockerfile and what they use from deploy/, read and run as far as no container is needed.

No image is built here.  What an image would run is run directly: the scripts, the
SQL, the servers' command lines, and the hub's settings as a container would get them.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from hub import __version__
from hub.cli import main
from hub.config import OTHER_VARIABLES, Secret, Settings, load
from tests.services import HOST, Postgres, Program, answers, free_port, postgres, postgres_bins, redis_bins

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = YAML(typ="safe").load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
OURS = [name for name, service in SERVICES.items() if "build" in service]
HUBS = [name for name in OURS if name.startswith("hub")]
PROXIES = [name for name, service in SERVICES.items() if "profiles" in service]
ONE_SHOT = [name for name, service in SERVICES.items() if service["restart"] == "no"]
CHOSEN = {"PUBLIC_NAME": "hub.example.org"}


def filled(text: str) -> str:
    """``text`` with the variables of .env put in, as Compose does."""

    def value(found: re.Match[str]) -> str:
        return CHOSEN.get(found[1]) or found[2] or ""

    return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", value, text).replace("$$", "$")


def seconds(text: str) -> int:
    assert text.endswith("s"), text
    return int(text[:-1])


def environment_of(name: str, secrets: Path) -> dict[str, str]:
    """What the process in a container finds: the image's, then .env, then the service's."""
    image = dict(re.findall(r"(HUB_\w+)=(\S+)", re.findall(r"^ENV (?:.*\\\n)*.*$", DOCKERFILE, re.M)[-1]))
    lines = (DEPLOY / "env.example").read_text("utf-8").splitlines() if "env_file" in SERVICES[name] else []
    chosen = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    own = {variable: filled(value) for variable, value in SERVICES[name]["environment"].items()}
    both = image | chosen | own
    return {variable: value.replace("/run/secrets", str(secrets)) for variable, value in both.items()}


@pytest.fixture(scope="module")
def secrets_made(tmp_path_factory) -> Path:
    """The folder that deploy/make-secrets fills."""
    folder: Path = tmp_path_factory.mktemp("made") / "secrets"
    subprocess.run(["sh", DEPLOY / "make-secrets", folder], check=True, capture_output=True)
    return folder


def settings_of(name: str, secrets: Path) -> Settings:
    settings, faults = load(environment_of(name, secrets))
    assert not faults, (name, faults)
    return settings


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_every_container_of_ours_finds_settings_without_a_fault(name, secrets_made):
    settings_of(name, secrets_made)


def test_the_hubs_are_set_as_the_file_promises(secrets_made):
    for name in HUBS:
        settings = settings_of(name, secrets_made)
        assert settings.public_urls == ("wss://hub.example.org/v1/ws",)
        assert settings.database_url.startswith("postgresql://hub:") and settings.database_url.endswith("@postgres/hub")
        assert settings.redis_url.endswith("@redis:6379/0")
        assert not settings.migration_url, "a hub has no business with the role that owns the tables"
        assert settings.secrets_path() != settings.data_dir / "secrets.toml"
        assert settings.metrics == "loopback"
    assert settings_of("migrate", secrets_made).migration_url.startswith("postgresql://hub_owner:")


def test_a_hub_is_left_more_time_than_it_takes_to_drain(secrets_made):
    for name in HUBS:
        assert seconds(SERVICES[name]["stop_grace_period"]) >= settings_of(name, secrets_made).drain_s + 10


def variables() -> Iterator[tuple[str, str]]:
    for path in (ROOT / "compose.yaml", ROOT / "Dockerfile", *(path for path in DEPLOY.rglob("*") if path.is_file())):
        for variable in re.findall(r"\bHUB_[A-Z0-9_]+\b", path.read_text("utf-8")):
            yield str(path.relative_to(ROOT)), variable


def test_every_variable_that_is_named_is_a_setting_or_the_load_balancers():
    fields = Settings.__dataclass_fields__
    known = {f"HUB_{name.upper()}" for name in fields} | OTHER_VARIABLES
    known |= {f"HUB_{name.upper()}_FILE" for name, field in fields.items() if isinstance(field.default, Secret)}
    balancers = {
        "HUB_LB_BIND",
        "HUB_LB_PLAIN_BIND",
        "HUB_LB_CERTIFICATE",
        "HUB_LB_NAME",
        "HUB_LB_HTTP_PORT",
        "HUB_LB_DIR",
    }
    balancers |= {f"HUB_REPLICA_{number}" for number in ("", 1, 2, 3)}
    assert {(where, name) for where, name in variables() if name not in known | balancers} == set()
    read = {name for where, name in variables() if where in ("deploy/haproxy.cfg", "deploy/Caddyfile")}
    for proxy in PROXIES:
        assert set(SERVICES[proxy]["environment"]) <= read & balancers


def test_every_command_that_a_container_runs_is_one_of_the_hubs(capsys):
    commands = {"serve", "health", "make-secrets", SERVICES["migrate"]["command"][0]}
    assert f'CMD ["{"serve"}"]' in DOCKERFILE and SERVICES["hub1"]["healthcheck"]["test"] == ["CMD", "hub", "health"]
    assert "hub make-secrets" in SERVICES["keys"]["command"][0]
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0, command


# --- secrets ---------------------------------------------------------------------------------


def test_no_secret_stands_in_the_file():
    names = {name for name, field in Settings.__dataclass_fields__.items() if isinstance(field.default, Secret)}
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            assert variable.removeprefix("HUB_").lower() not in names, (name, variable)
            if "password" in variable.lower() or variable.endswith("_FILE"):
                assert value.startswith(("/run/secrets/", "/var/lib/hub-keys/")), (name, variable)
    assert not re.search(r"://[^\s:/]*:[^\s@]+@", (ROOT / "compose.yaml").read_text("utf-8").replace(r"\(.*\)", ""))


def test_a_service_names_the_secrets_it_reads_and_no_other():
    for name, service in SERVICES.items():
        text = " ".join([*map(str, service.get("environment", {}).values()), *map(str, service.get("command", []))])
        if name == "postgres":
            roles = (DEPLOY / "postgres/roles.sql").read_text("utf-8")
            text += roles.replace("${SECRETS:-/run/secrets}", "/run/secrets").replace('"', "")
        assert set(re.findall(r"/run/secrets/(\w+)", text)) == set(service.get("secrets", [])), name
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])


def test_the_passwords_are_long_and_new_each_time_and_kept(tmp_path, secrets_made):
    again = subprocess.run(["sh", DEPLOY / "make-secrets", secrets_made], capture_output=True, text=True, check=True)
    assert again.stdout == ""
    subprocess.run(["sh", DEPLOY / "make-secrets", tmp_path / "other"], capture_output=True, check=True)
    files = {path.name: path.read_text("utf-8") for path in secrets_made.iterdir()}
    assert set(files) == set(COMPOSE["secrets"]) - {"tls"}
    assert files.pop("smtp_password") == "\n"
    found = [password for text in files.values() for password in re.findall(r"[0-9a-f]{48}", text)]
    found += re.findall(r"[0-9a-f]{48}", "".join((tmp_path / "other" / name).read_text("utf-8") for name in files))
    assert len(found) == len(set(found)) == 2 * len(files)


def test_nobody_else_on_the_machine_reads_the_passwords_and_every_container_does(secrets_made):
    assert stat.S_IMODE(secrets_made.stat().st_mode) == 0o700
    for path in secrets_made.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o444, path


# --- walls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_as_little_as_it_needs(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "caddy" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "pid", "ipc", "devices", "userns_mode"} & set(service)
    limits = service["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) > 0 and limits["memory"] and limits["pids"] > 0
    assert int(service["logging"]["options"]["max-file"]) > 0
    # Numbers, so that no name has to be looked up; haproxy's own image has one (99), caddy has no capability but one.
    user = service.get("user") or (re.search(r"^USER (\S+)$", DOCKERFILE, re.M)[1] if name in OURS else "")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) or name in PROXIES
    assert re.search(r":\d+(\.\d+)*$", service["image"]), "an image is named with its version"


def test_what_runs_for_long_says_whether_it_is_well_and_comes_back():
    for name, service in SERVICES.items():
        if name in ONE_SHOT:
            assert service["healthcheck"] == {"disable": True}
        else:
            assert service["restart"] == "unless-stopped" and service["healthcheck"]["test"]


def test_only_the_proxy_is_reached_from_outside():
    assert [name for name, service in SERVICES.items() if "ports" in service] == PROXIES
    networks = {name: set(service.get("networks", [])) for name, service in SERVICES.items()}
    assert COMPOSE["networks"]["front"]["internal"] and COMPOSE["networks"]["back"]["internal"]
    assert networks["postgres"] == networks["redis"] == networks["migrate"] == {"back"}
    assert all("back" not in networks[name] for name in PROXIES)
    assert all(networks[name] == {"outside", "front"} for name in PROXIES)


def test_the_hubs_believe_the_proxies_and_nobody_else(secrets_made):
    proxies = {filled(SERVICES[name]["networks"]["front"]["ipv4_address"]) for name in PROXIES}
    for name in HUBS:
        settings = settings_of(name, secrets_made)
        assert set(settings.trusted_proxies) == proxies and settings.behind_proxy


def test_the_proxies_know_every_hub(secrets_made):
    hubs = {f"{name}:{settings_of(name, secrets_made).port}" for name in HUBS}
    assert len(hubs) == 2
    for name in PROXIES:
        chosen = SERVICES[name]["environment"]
        assert {value for variable, value in chosen.items() if variable.startswith("HUB_REPLICA_")} == hubs


def test_every_file_that_is_mounted_is_there():
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert (ROOT / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"], name


def test_the_proxy_waits_longer_for_its_devices_than_it_was_told_to():
    (told,) = re.findall(r"hard-stop-after (\d+)s", (DEPLOY / "haproxy.cfg").read_text("utf-8"))
    assert seconds(SERVICES["haproxy"]["stop_grace_period"]) > int(told)
    (told,) = re.findall(r"grace_period (\d+)s", (DEPLOY / "Caddyfile").read_text("utf-8"))
    assert seconds(SERVICES["caddy"]["stop_grace_period"]) > int(told)


# --- the image -------------------------------------------------------------------------------


def test_the_image_is_named_after_the_version():
    version = ".".join(__version__.split(".")[:2])
    assert {SERVICES[name]["image"] for name in OURS} == {f"sync-hub:{version}"}
    assert f"docker build -t sync-hub:{version} " in DOCKERFILE


def needed(name: str, extras: set[str]) -> set[str]:
    """The distributions that one needs here, itself left out."""
    found: set[str] = set()
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        if any(requirement.marker is None or requirement.marker.evaluate({"extra": e}) for e in extras | {""}):
            found |= {canonicalize_name(requirement.name)} | needed(requirement.name, requirement.extras)
    return found


def test_the_image_holds_what_the_hub_needs_and_nothing_else():
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.txt").read_text("utf-8"), re.M))
    (dropped,) = re.findall(r"uninstall -q -y \\\n\s+(.*)$", DOCKERFILE, re.M)
    held = pinned - set(dropped.split()) - {"async-timeout"}  # the last one is for a Python older than the image's
    assert held == needed("sync-hub", {"server", "postgres", "redis"}) - {"async-timeout"}
    assert set(dropped.split()) <= pinned


# --- the servers, as their containers would run them -----------------------------------------


@pytest.fixture(scope="module")
def database(secrets_made) -> Iterator[tuple[Postgres, dict[str, str]]]:
    """Postgres with the container's options and roles, and the two URLs that lead to it."""
    if not postgres_bins():
        pytest.skip("postgres is not on this machine")
    with postgres(None, *SERVICES["postgres"]["command"][1:]) as server:
        # Its user may not look into a test's folder.
        shutil.copytree(secrets_made, server.base / "secrets")
        (server.base / "secrets").chmod(0o755)
        roles = shutil.copy(DEPLOY / "postgres/roles.sql", server.base)
        server.env["SECRETS"] = str(server.base / "secrets")
        server.run("psql", "-X", "-v", "ON_ERROR_STOP=1", "--no-password", "-d", server.url, "-f", roles)
        # From now on everybody but the superuser is asked for a password.
        rules = f"host all postgres {HOST}/32 trust\nhost all all {HOST}/32 scram-sha-256\n"
        (server.data / "pg_hba.conf").write_text(rules)
        server.sql("select pg_reload_conf()")
        urls = {name: (secrets_made / name).read_text("utf-8").strip() for name in ("database_url", "migration_url")}
        yield server, {name: url.replace("@postgres/", f"@{HOST}:{server.port}/") for name, url in urls.items()}


def run_hub(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    env = clean | {f"HUB_{name.upper()}": value for name, value in settings.items()}
    words = [sys.executable, "-m", "hub", *command]
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def test_the_roles_that_the_container_makes_are_the_ones_the_hub_works_with(database, tmp_path):
    server, urls = database
    migrated = run_hub("migrate", **urls)
    assert migrated.returncode == 0, migrated.stderr
    mine = {"database_url": urls["database_url"], "data_dir": str(tmp_path)}
    assert "no secrets file" in run_hub("admin", "invite", **mine).stderr
    assert run_hub("make-secrets", **mine).returncode == 0
    invited = run_hub("admin", "invite", **mine)
    assert invited.returncode == 0, invited.stderr
    assert server.sql("select count(*) from invite", "hub") == "1"
    for statement in ("create table x (y int)", "drop table invite", "alter table invite add x int", "truncate invite"):
        with pytest.raises(RuntimeError, match=r"permission denied|must be owner"):
            server.run("psql", "-XAtq", "-d", urls["database_url"], "-c", statement)


def test_the_database_is_closed_to_who_has_not_the_password(database):
    server, urls = database
    for url in urls.values():
        assert server.run("psql", "-XAtq", "-d", url, "-c", "select 1").strip() == "1"
        with pytest.raises(RuntimeError, match="password authentication failed"):
            server.run("psql", "-XAtq", "-d", re.sub(r":[0-9a-f]{48}@", ":wrong@", url), "-c", "select 1")


def test_postgres_takes_the_options_it_is_given(database):
    server, _ = database
    for option in SERVICES["postgres"]["command"][1:]:
        name, value = option.removeprefix("-c").split("=")
        assert server.sql(f"show {name}").lower() in (value.lower(), "pglz"), name  # "on" is a name for pglz
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        assert server.sql(f"show {name}") == "on", name
    initdb = SERVICES["postgres"]["environment"]["POSTGRES_INITDB_ARGS"].split()
    server.run("initdb", "-D", server.base / "other", "-U", "postgres", "--no-sync", *initdb)


class Script(Program):
    """The command of a container that is a line of shell."""

    name = "script"

    def __init__(self, script: str, base: Path, path: Path, port: int) -> None:
        super().__init__(["/bin/sh", "-c", script], base, {"PATH": f"{path}:/usr/bin:/bin"})
        self.port = port

    def is_ready(self) -> bool:
        return self.running and answers(self.port)


@pytest.mark.parametrize("name", ["valkey", "redis"])
def test_redis_asks_for_the_password_that_stands_in_the_hubs_url(name, secrets_made, tmp_path):
    if name not in redis_bins():
        pytest.skip(f"{name}-server is not on this machine")
    (tmp_path / "valkey-server").symlink_to(redis_bins()[name])
    port = free_port()
    _, _, script = SERVICES["redis"]["command"]
    script = (
        filled(script).replace("/run/secrets", str(secrets_made)).replace("/tmp/redis.conf", f"{tmp_path}/redis.conf")
    )
    server = Script(f"{script} --bind {HOST} --port {port} --dir {tmp_path}", tmp_path, tmp_path, port).start()
    try:
        url = (secrets_made / "redis_url").read_text("utf-8").strip().replace("@redis:6379", f"@{HOST}:{port}")
        with redis.Redis.from_url(url, retry=None) as client:
            assert client.ping()
            assert client.config_get("maxmemory")["maxmemory"] == str(128 * 1024 * 1024)
        with redis.Redis(HOST, port, retry=None) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    finally:
        server.stop()
