"""Settings: where values come from, every fault at once, and no secret shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hub.config import Settings, canonical_url, load, render_settings, settings_page
from hub.terms import Limits, Policy


def faults_of(**values):
    return load({}, overrides=values).faults


def test_the_secrets_move_with_the_data_unless_they_have_a_place_of_their_own():
    assert Settings(data_dir=Path("/a")).secrets_path() == Path("/a/secrets.toml")
    assert Settings(data_dir=Path("/a"), secrets_file=Path("/b")).secrets_path() == Path("/b")


def test_without_anything_the_defaults_work_on_a_laptop():
    settings, faults = load({})
    assert faults == []
    assert (settings.host, settings.port, settings.data_dir) == ("127.0.0.1", 8080, Path("data"))
    assert settings.secrets_path() == Path("data/secrets.toml")


def test_command_line_beats_environment_beats_file_beats_default(tmp_path):
    file = tmp_path / "hub.toml"
    file.write_text('port = 1001\nhub_name = "from file"\nquota_mib = 7\nbehind_proxy = false\n')
    env = {"HUB_CONFIG": str(file), "HUB_PORT": "1002", "HUB_HUB_NAME": "from env"}
    settings, faults = load(env, overrides={"port": "1003", "host": None})
    assert faults == []
    assert (settings.port, settings.hub_name, settings.quota_mib) == (1003, "from env", 7)
    assert settings.host == "127.0.0.1"


def test_a_file_given_by_name_is_read_instead_of_the_environments(tmp_path):
    (tmp_path / "a.toml").write_text("port = 1")
    (tmp_path / "b.toml").write_text("port = 2")
    settings, _ = load({"HUB_CONFIG": str(tmp_path / "a.toml")}, tmp_path / "b.toml")
    assert settings.port == 2


def test_all_faults_are_reported_at_once_each_by_its_name(tmp_path):
    file = tmp_path / "hub.toml"
    file.write_text('prot = 1\nsign_up = "maybe"\nhistory_days = true\npublic_urls = [1]\n')
    env = {"HUB_CONFIG": str(file), "HUB_PORT": "tcp://10.0.0.1:80", "HUB_METRICS": "yes", "HUB_PUBLIC_URL": "x"}
    settings, faults = load(env, overrides={"smtp_host": "mail.example.org", "behind_proxy": "perhaps"})
    starts = sorted(fault.replace(str(file), "FILE").split(": must")[0] for fault in faults)
    assert starts == [
        "--behind-proxy",
        "FILE: history_days",
        "FILE: prot is not a setting; did you mean port?",
        "FILE: public_urls",
        "FILE: sign_up",
        "HUB_METRICS",
        "HUB_PORT",
        "HUB_PUBLIC_URL is not a setting; did you mean public_urls?",
        "smtp_from: mails need a sender when smtp_host is set",
    ]
    assert settings.port == 8080  # at fault: the default


def test_foreign_variables_with_our_prefix_are_left_alone():
    assert load({"HUB_SERVICE_HOST": "10.0.0.1", "HUB_FOLDER_HOME": "/x", "PORT": "x"}).faults == []


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path):
    (broken := tmp_path / "broken.toml").write_text("port = = 1")
    assert len(load({}, broken).faults) == 1
    assert len(load({}, tmp_path / "missing.toml").faults) == 1


@pytest.mark.parametrize("port, good", [("0", True), ("65535", True), ("-1", False), ("65536", False), ("1.5", False)])
def test_numbers_have_bounds(port, good):
    assert (faults_of(port=port) == []) is good


@pytest.mark.parametrize("word, flag", [("1", True), ("TRUE", True), ("on", True), ("0", False), ("no", False)])
def test_flags_are_read_from_the_usual_words(word, flag):
    env = {"HUB_BEHIND_PROXY": word, "HUB_PUBLIC_URLS": "https://hub.example.org"}
    assert load(env).settings.behind_proxy is flag


def test_lists_are_written_with_commas_in_the_environment():
    settings, faults = load({"HUB_ALLOWLIST": " anna@example.org, @example.net ,", "HUB_SIGN_UP": "allowlist"})
    assert faults == []
    assert settings.allowlist == ("anna@example.org", "@example.net")


# --- what is right alone and wrong together ---


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "hub.example.org", ""])
def test_an_open_address_without_tls_is_refused(host):
    assert any(f.startswith("host:") for f in faults_of(host=host, public_urls="https://hub.example.org"))
    assert not faults_of(host=host, public_urls="https://hub.example.org", behind_proxy="1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_no_tls(host):
    assert faults_of(host=host) == []


def test_an_open_address_with_tls_files_is_good(tmp_path):
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("x")
    tls = {"tls_certificate": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
    assert faults_of(host="0.0.0.0", public_urls="https://hub.example.org", **tls) == []
    (tmp_path / "key.pem").unlink()
    assert [f[:8] for f in faults_of(host="0.0.0.0", public_urls="https://hub.example.org", **tls)] == ["tls_key:"]


def test_half_of_tls_is_refused(tmp_path):
    (tmp_path / "cert.pem").write_text("x")
    assert [f[:8] for f in faults_of(tls_certificate=str(tmp_path / "cert.pem"))] == ["tls_key:"]


def test_behind_a_proxy_the_address_must_be_named():
    assert [f[:12] for f in faults_of(behind_proxy="1")] == ["public_urls:"]


@pytest.mark.parametrize(
    "values, name",
    [
        ({"smtp_host": "mail.example.org"}, "smtp_from"),
        ({"smtp_from": "codes@example.org"}, "smtp_host"),
        ({"smtp_host": "m", "smtp_from": "a@b.c", "smtp_username": "me"}, "smtp_password"),
        ({"smtp_host": "m", "smtp_from": "a@b.c", "smtp_password": "pw"}, "smtp_password"),
        (
            {
                "smtp_host": "m",
                "smtp_from": "a@b.c",
                "smtp_username": "u",
                "smtp_password": "p",
                "smtp_security": "none",
            },
            "smtp_security",
        ),
        ({"database_url": "mysql://db/hub"}, "database_url"),
        ({"database_url": "postgresql://db/hub", "migration_url": "db"}, "migration_url"),
        ({"migration_url": "postgresql://db/hub"}, "migration_url"),
        ({"redis_url": "redis://cache"}, "redis_url"),
        ({"database_url": "postgresql://db/hub", "redis_url": "cache:6379"}, "redis_url"),
        ({"sign_up": "allowlist"}, "allowlist"),
        ({"trusted_proxies": "10.0.0.0/33"}, "--trusted-proxies"),
        ({"public_urls": "http://hub.example.org"}, "--public-urls"),
        ({"data_dir": ""}, "--data-dir"),
    ],
)
def test_a_contradiction_is_refused(values, name):
    assert [fault.split(":")[0] for fault in faults_of(**values)] == [name]


def test_a_complete_mail_server_is_good():
    values = {"smtp_host": "m", "smtp_from": "a@b.c", "smtp_username": "u", "smtp_password": "p"}
    assert faults_of(**values) == []
    assert faults_of(**values | {"smtp_host": "localhost", "smtp_security": "none"}) == []


# --- secrets ---


def test_a_secret_never_shows_itself(tmp_path):
    (file := tmp_path / "pw").write_text("canary-pw\n")
    env = {"HUB_SMTP_PASSWORD_FILE": str(file), "HUB_SMTP_USERNAME": "u"}
    settings, faults = load(env)
    assert faults == []
    assert settings.smtp_password == "canary-pw"
    for shown in (repr(settings), render_settings(settings), repr(dataclasses.asdict(settings))):
        assert "canary-pw" not in shown
    assert "is set" in render_settings(settings)


def test_a_secret_in_two_places_is_a_fault(tmp_path):
    (file := tmp_path / "pw").write_text("a")
    env = {"HUB_SMTP_PASSWORD_FILE": str(file), "HUB_SMTP_PASSWORD": "b", "HUB_SMTP_USERNAME": "u"}
    assert [f.split(":")[0] for f in load(env).faults] == ["HUB_SMTP_PASSWORD_FILE"]


def test_a_secret_file_that_is_missing_is_a_fault(tmp_path):
    assert len(load({"HUB_SMTP_PASSWORD_FILE": str(tmp_path / "no")}).faults) == 1


# --- addresses that devices sign ---


@pytest.mark.parametrize(
    "written, canonical",
    [
        ("https://Hub.Example.org", "wss://hub.example.org/v1/ws"),
        ("hub.example.org", "wss://hub.example.org/v1/ws"),
        ("https://hub.example.org:443/", "wss://hub.example.org/v1/ws"),
        ("wss://hub.example.org:8443/v1/ws", "wss://hub.example.org:8443/v1/ws"),
        ("https://bücher.example", "wss://xn--bcher-kva.example/v1/ws"),
        ("http://localhost:80", "ws://localhost/v1/ws"),
        ("http://[::1]:8080", "ws://[::1]:8080/v1/ws"),
    ],
)
def test_a_public_url_is_brought_into_the_form_that_devices_sign(written, canonical):
    assert canonical_url(written) == canonical
    assert canonical_url(canonical) == canonical


@pytest.mark.parametrize(
    "written", ["ftp://x.org", "https://", "https://x.org/hub", "https://x.org?a", "https://u@x.org", "https://x:99999"]
)
def test_what_is_no_public_url_is_refused(written):
    with pytest.raises(ValueError):
        canonical_url(written)


def test_without_public_urls_devices_on_this_machine_may_come_by_any_of_its_names():
    assert Settings().hub_urls(9000) == (
        "ws://127.0.0.1:9000/v1/ws",
        "ws://localhost:9000/v1/ws",
        "ws://[::1]:9000/v1/ws",
    )
    assert Settings(public_urls=("wss://a/v1/ws",)).hub_urls(9000) == ("wss://a/v1/ws",)


# --- what the settings become ---


def test_the_defaults_are_those_of_the_protocol():
    assert Settings().limits() == Limits()
    assert Settings().policy() == Policy()


def test_limits_and_policy_follow_the_settings():
    settings = Settings(quota_mib=3, history_days=2, spaces_per_account_max=4, devices_per_account_max=5)
    assert settings.policy().quota_bytes == 3 * 1024 * 1024
    assert settings.policy().history_window_s == 2 * 24 * 3600
    assert (settings.limits().spaces_per_account_max, settings.limits().devices_per_account_max) == (4, 5)


# --- showing ---


def test_the_printed_file_names_every_setting_and_reads_back_as_the_same_settings(tmp_path):
    settings, faults = load(
        {},
        overrides={
            "port": 9,
            "public_urls": "https://a.example,https://b.example",
            "behind_proxy": "on",
            "tls_key": "",
            "hub_name": 'Anna\'s "hub" \\ ü',
        },
    )
    assert faults == []
    (file := tmp_path / "hub.toml").write_text(render_settings(settings))
    assert load({}, file) == (settings, [])
    for field in dataclasses.fields(Settings):
        assert f"{field.name} = " in file.read_text()


def test_the_printed_file_of_the_defaults_sets_nothing():
    assert [line for line in render_settings().splitlines() if line and not line.startswith("#")] == []


def test_every_setting_has_a_unit_and_a_sentence():
    for field in dataclasses.fields(Settings):
        assert field.metadata["unit"], field.name
        assert field.metadata["meaning"].endswith("."), field.name
        assert f"| `{field.name}` |" in settings_page()
