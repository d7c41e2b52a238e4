"""`guard serve` and `guard build` where they refuse."""

import json
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from guard_cli.main import app
from tests.support.commands import PYTHONS, guard, start_gateway
from tests.support.ports import free_port
from tests.support.serving import Served
from tests.support.slots import TINY

pytestmark = pytest.mark.slow


def test_a_setting_of_the_environment_reaches_serve(
    blue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARD_HOST", "0.0.0.0")
    done = guard("serve", "--slot", str(blue))
    assert done.returncode == 2
    assert "0.0.0.0" in done.stderr


@pytest.mark.parametrize(
    "option", [("--port", "0"), ("--cache-mib", "-1"), ("--metrics-port", "70000")]
)
def test_an_option_out_of_range_is_refused_by_name(blue: Path, option: tuple[str, str]) -> None:
    done = guard("serve", "--slot", str(blue), *option)
    assert done.returncode == 2
    assert option[0] in done.stderr


def test_a_listener_off_loopback_is_refused(blue: Path) -> None:
    done = guard("serve", "--slot", str(blue), "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "--insecure" in done.stderr


def test_a_slot_that_is_not_there_names_the_next_step(tmp_path: Path) -> None:
    for name in ("blue", "grey"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    done = guard("serve", "--slot", str(tmp_path / "green"))
    assert done.returncode == 1
    assert "green/manifest.json does not exist; beside it there are: blue, grey. " in done.stderr
    assert "guard build" in done.stderr


def test_with_a_json_log_there_is_nothing_but_json(tmp_path: Path) -> None:
    missing = str(tmp_path / "green")
    for command, code in [
        (("serve", "--slot", missing), 1),
        (("serve", "--slot", missing, "--cache-mib", "-1"), 2),
        (("engine", "--slot", missing), 1),
    ]:
        done = guard(*command, "--log-format", "json")
        assert (done.returncode, done.stdout) == (code, "")
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert [line["level"] for line in lines][-1] == "error"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_gateway_alone_says_what_is_wrong_in_its_logs_format(
    log_format: str, tmp_path: Path
) -> None:
    with start_gateway(tmp_path / "out", port="x", slot=tmp_path, log_format=log_format) as alone:
        assert alone.process.wait(60) == 2
    assert not PYTHONS.search(alone.said())
    assert "GUARD_PORT: " in alone.said() and "GUARD_SLOT and GUARD_TRITON" not in alone.said()
    lines = alone.said().splitlines()
    assert all(line.startswith("{") == (log_format == "json") for line in lines)


def test_a_server_without_tls_ignores_sighup(served: Served) -> None:
    served.signal(signal.SIGHUP)
    while "SIGHUP is ignored" not in served.said():
        time.sleep(0.05)
    assert guard("moderate", "Q", *served.named).returncode == 0
    assert not served.ended()


def test_a_port_in_use_is_an_error(served: Served, blue: Path) -> None:
    ports = {name: free_port() for name in ("--port", "--triton-port", "--metrics-port")}
    for name, used, said in [
        ("--port", served.port, f"127.0.0.1:{served.port}: is the port in use?"),
        ("--triton-port", served.triton_port, f"{served.triton_port}"),
        ("--metrics-port", served.metrics_port, f"{served.metrics_port}"),
    ]:
        given = [str(word) for pair in (ports | {name: used}).items() for word in pair]
        done = guard("serve", "--slot", str(blue), *given)
        assert done.returncode == 1
        assert said in done.stderr
        assert f" {name}" in done.stderr  # what changes it


def test_an_engine_file_that_was_changed_is_refused(blue: Path, tmp_path: Path) -> None:
    copied = tmp_path / "blue"
    for path in blue.rglob("*"):
        if path.is_file():
            target = copied / path.relative_to(blue)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    weights = copied / "guard_blue" / "1" / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    done = guard("serve", "--slot", str(copied))
    assert done.returncode == 1
    assert "openvino_model.bin is not the file" in done.stderr


def test_a_build_says_what_it_made(tmp_path: Path) -> None:
    done = guard("build", "--slot", str(tmp_path / "green"), "--weights", "f32")
    assert done.returncode == 0
    assert "tiny-guard" in done.stderr
    assert (tmp_path / "green" / "manifest.json").is_file()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_checkpoint_with_a_file_missing_is_an_error_that_names_it(
    tmp_path: Path, missing: str
) -> None:
    for path in TINY.iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    done = guard("build", "--checkpoint", str(tmp_path), "--slot", str(tmp_path / "slot"))
    assert done.returncode == 1
    assert missing.split(".", maxsplit=1)[0] in done.stderr
    assert not (tmp_path / "slot").exists()


@pytest.mark.parametrize("tokenizer", ["[]", "{}", '{"added_tokens": ["a"]}'])
def test_a_tokenizer_that_no_gateway_could_use_is_refused_before_the_engine_is_built(
    tmp_path: Path, tokenizer: str
) -> None:
    for path in TINY.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").write_text(tokenizer)
    words = ["build", "--checkpoint", str(tmp_path), "--slot", str(tmp_path / "slot")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "tokenizer" in done.stderr
    assert not PYTHONS.search(done.stderr)
    assert not (tmp_path / "slot").exists()
