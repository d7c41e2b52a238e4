"""`guard serve`'s options for the gateway: flag, environment and default say one thing."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from guard_cli.settings_options import (
    DEFAULTS,
    GIVEN,
    SettingsInvalid,
    gateway_settings,
    option_name,
    with_settings,
)
from guard_server.settings import Settings

TRAFFIC = Path("traffic.json")
OPTIONS = [name for name in Settings.model_fields if name not in GIVEN]
# Two values of each setting, as they are written.
VALUES = {
    "host": ("127.0.0.2", "localhost"),
    "port": ("1", "65535"),
    "tls_cert": ("a.pem", "b.pem"),
    "tls_key": ("a.pem", "b.pem"),
    "tls_client_ca": ("a.pem", "b.pem"),
    "tls_client_sans": ("a.example", "a.example,spiffe://b/c"),
    "insecure": ("true", "false"),
    "keys": ("a.json", "b.json"),
    "tenants": ("a.json", "b.json"),
    "callers": ("any", "known"),
    "edge_sockets": ("a", "b"),
    "edge_port": ("1", "65535"),
    "edge_sans": ("a.example", "a.example,spiffe://b/c"),
    "markers": ("refuse", "as_text"),
    "allow_slot_choice": ("true", "false"),
    "strict_completion": ("true", "false"),
    "isolate_callers": ("true", "false"),
    "request_timeout_s": ("0.5", "7"),
    "max_in_flight": ("1", "7"),
    "queue_per_place": ("0", "2.5"),
    "max_connection_age_s": ("0.5", "7"),
    "cache_mib": ("0", "2.5"),
    "cache_ttl_s": ("0.5", "7"),
    "metrics_port": ("0", "9000"),
    "metrics_host": ("127.0.0.2", "localhost"),
    "log_format": ("console", "json"),
    "status_host": ("127.0.0.2", "localhost"),
    "status_port": ("1", "65535"),
    "status_tls_cert": ("a.pem", "b.pem"),
    "status_tls_key": ("a.pem", "b.pem"),
    "status_tls_client_ca": ("a.pem", "b.pem"),
}
_STATUS = {
    "status_port": "1",
    "status_tls_cert": "cert.pem",
    "status_tls_key": "key.pem",
    "status_tls_client_ca": "ca.pem",
}
MUTUAL = {"tls_cert": "cert.pem", "tls_key": "key.pem", "tls_client_ca": "ca.pem"}
WITH_IT = {  # a setting that is refused alone
    "callers": {"keys": "a.json"},
    "edge_port": {**MUTUAL, "edge_sans": "a.example"},
    "edge_sans": {**MUTUAL, "edge_port": "1"},
    **{name: {k: v for k, v in _STATUS.items() if k != name} for name in _STATUS},
    "tls_cert": {"tls_key": "key.pem"},
    "tls_key": {"tls_cert": "cert.pem"},
    "tls_client_ca": {"tls_cert": "cert.pem", "tls_key": "key.pem"},
    "tls_client_sans": {"tls_cert": "cert.pem", "tls_key": "key.pem", "tls_client_ca": "ca.pem"},
}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GUARD_{name.upper()}", raising=False)


def serve(*arguments: str) -> Settings:
    """The settings that a command with these arguments comes to, in this environment."""
    found: list[Settings] = []

    @with_settings
    def command(**options: Any) -> None:
        found.append(gateway_settings(options, TRAFFIC))

    app = typer.Typer()
    app.command()(command)
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    [settings] = found
    return settings


def words(name: str, value: str) -> list[str]:
    if Settings.model_fields[name].annotation is bool:
        return [option_name(name)] if value == "true" else []
    return [option_name(name), value]


@pytest.mark.parametrize("name", OPTIONS)
def test_flag_environment_and_default_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_default = getattr(serve(), name)
    assert by_default == DEFAULTS.get(name, Settings.model_fields[name].default)

    others = [word for each, value in WITH_IT.get(name, {}).items() for word in words(each, value)]
    read = []
    for value in VALUES[name]:
        with monkeypatch.context() as patch:
            patch.setenv(f"GUARD_{name.upper()}", value)
            for other, other_value in WITH_IT.get(name, {}).items():
                patch.setenv(f"GUARD_{other.upper()}", other_value)
            read.append(getattr(Settings(traffic=TRAFFIC), name))  # as a gateway alone reads it
            assert getattr(serve(), name) == read[-1]
        assert getattr(serve(*words(name, value), *others), name) == read[-1]
    assert read[0] != read[1]

    monkeypatch.setenv(f"GUARD_{name.upper()}", VALUES[name][1])
    assert getattr(serve(*words(name, VALUES[name][0]), *others), name) == read[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_an_options_help_is_the_settings_description(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    app = typer.Typer(rich_markup_mode=None)
    app.command()(with_settings(lambda **options: None))
    shown = " ".join(CliRunner().invoke(app, ["--help"], terminal_width=10_000).stdout.split())
    assert f"{option_name(name)} " in shown
    assert description in shown
    assert f"GUARD_{name.upper()}" in shown


@pytest.mark.parametrize(
    ("name", "value"), [("slot", "blue"), ("triton", "a:1"), ("status", "s"), ("reuse_port", "1")]
)
def test_what_serve_gives_each_process_is_not_taken_from_outside(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"GUARD_{name.upper()}", value)
    assert serve().model_dump(include=set(GIVEN)) == {**GIVEN, "traffic": TRAFFIC}


def test_all_that_is_wrong_is_named_by_its_option() -> None:
    with pytest.raises(SettingsInvalid, match=r"--request-timeout: .*; --cache-ttl: "):
        serve("--request-timeout", "0", "--cache-ttl", "-1")
