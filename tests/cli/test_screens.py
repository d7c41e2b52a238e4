"""What commands print, at 80 columns without colour: nothing is cut off, and it reads well.

`pytest tests/cli/test_screens.py --snapshot-update` writes what is printed now.
"""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from syrupy.assertion import SnapshotAssertion
from typer.testing import CliRunner, Result

from guard_cli.commands.bench import BENCHMARKS
from guard_cli.main import COMMANDS, app
from guard_cli.server_output import ServerOutput
from guard_core.slot.traffic import ShadowTraffic
from guard_server.telemetry.worker_status import ShadowStatus
from tests.support.gateway import gateway
from tests.support.stand_ins.fake_engine import Answer, Asked, fake_engine
from tests.support.stand_ins.fleet import Fleeting, controlled, manifest, stand_in

PROJECT = Path(__file__).parents[2]
PLAIN = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
LONG = "green-with-quite-a-long-name-that-is-allowed-2026-11"
ALL = [*COMMANDS, *(f"bench {name}" for name in BENCHMARKS)]
AT_ONCE = ("--steps", "50,100", "--pause", "0", "--max-factor", "100")


def run(*arguments: str) -> Result:
    return CliRunner(env=PLAIN).invoke(app, arguments, prog_name="guard")


def legible(text: str, *, cut: bool = False) -> str:
    """The text without what differs from run to run; it must fit into 80 columns.

    `cut`: something may be cut off.
    """
    lines = [line.rstrip() for line in text.splitlines()]
    assert not [line for line in lines if len(line) > 80 or ("…" in line and not cut)]
    return re.sub(r"\b[0-9a-f]{16}\b", "0123456789abcdef", "\n".join(lines))


def shown(done: Result, *, cut: bool = False) -> str:
    """What refuses a command is one line: a terminal wraps it, and a program may read it."""
    refusal = done.stderr.rstrip("\n")
    assert "\n" not in refusal or "╭" in refusal
    return f"exit code {done.exit_code}\n{legible(done.stdout, cut=cut)}{refusal}"


@pytest.mark.parametrize("command", ["", *ALL])
def test_no_help_is_cut_off(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.exit_code == 0
    assert f"Usage: {f'guard {command}'.strip()} " in legible(done.output)


def test_the_help_of_all(snapshot: SnapshotAssertion) -> None:
    assert legible(run("--help").output) == snapshot


def test_the_targets_of_make(snapshot: SnapshotAssertion) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],  # `make test` runs this test below another make
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert legible(done.stdout) == snapshot


def test_the_version() -> None:
    assert re.fullmatch(r"guard \d+\.\d+\.\d+\n", run("--version").output)


@pytest.fixture
async def fleet(tmp_path: Path) -> Fleeting:
    """Blue and a slot of a long name, both with something to tell."""
    large = manifest(
        "my-organisation-fine-tuned-qwen3guard-gen-8b-v2", kind="openvino", weights="int8-g128"
    )
    made = stand_in(tmp_path, {"blue": 100, LONG: 0}, **{LONG: large})
    made.reported["blue"] = {
        "answered": 123_456_789,
        "failed": {"Unavailable": 3, "DeadlinePassed": 1},
        "latency": {100: 98, 190: 2},
    }
    made.reported[LONG] = {
        "shadow": ShadowStatus(
            agreed=120,
            dropped=4,
            severities={"Safe/Safe": 120, "Safe/Unsafe": 3},
            latency={100: 123},
            latency_of_answers={90: 123},
        )
    }
    return made


@pytest.fixture
async def operate(fleet: Fleeting) -> AsyncIterator[Callable[..., Any]]:
    """Runs a command on the fleet's control plane."""
    # The server's log would be among the output: it is in this process.
    with structlog.testing.capture_logs():
        async with controlled(fleet.fleet) as target:

            async def command(*arguments: str) -> Result:
                return await asyncio.to_thread(run, *arguments, "--target", target)

            yield command


async def test_slots(
    fleet: Fleeting, operate: Callable[..., Any], snapshot: SnapshotAssertion
) -> None:
    fleet.reported["blue"]["in_flight"] = 256
    await fleet.fleet.set_shadow(ShadowTraffic(slot=LONG, share=0.25))
    assert shown(await operate("slots")) == snapshot


async def test_a_rollout_and_the_way_back(
    operate: Callable[..., Any], snapshot: SnapshotAssertion
) -> None:
    commands = (
        ("promote", LONG, *AT_ONCE, "--keep-old"),
        ("slots",),
        ("shadow", LONG),
        ("shadow", "blue", "--share", "0.5"),
        ("rollback", "--keep"),
        ("slots",),
        ("promote", "blue"),
        ("promote", "bleu"),
        ("drain", LONG, "--stop"),
        ("shadow", "blue"),
    )
    for number, command in enumerate(commands, 1):
        name = f"{number:02} {' '.join(command)}"
        assert shown(await operate(*command)) == snapshot(name=name)


async def test_every_operators_answer_is_json_lines(operate: Callable[..., Any]) -> None:
    async def answers(*arguments: str) -> list[dict[str, Any]]:
        done = await operate(*arguments, "--json")
        assert (done.exit_code, done.stderr) == (0, "")
        return [json.loads(line) for line in done.stdout.splitlines()]

    [listed] = await answers("slots")
    assert {slot["name"]: slot["weight"] for slot in listed["slots"]} == {"blue": 100, LONG: 0}
    assert listed["rollback_to"] == ""
    steps = await answers("promote", LONG, *AT_ONCE, "--keep-old")
    assert steps[-1]["step"] == "STEP_DONE"
    assert [set(step) for step in steps] == [{"step", "text"}] * len(steps)
    assert await answers("shadow", "blue") == [{"generation": "4"}]
    assert await answers("rollback", "--keep") == [{"slot": "blue"}]
    assert await answers("drain", LONG) == [{}]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in {"serve", "engine"}])
def test_every_command_with_a_result_gives_json(name: str) -> None:
    one_of = {"bench": "load", "keys": "list", "policy": "check"}
    words = [name, one_of[name]] if name in one_of else name.split()
    assert "--json" in run(*words, "--help").output


async def test_verdicts(
    tmp_path: Path,
    write_tiny_slot: Callable[..., Path],
    agree: Callable[[Asked], Answer],
    snapshot: SnapshotAssertion,
) -> None:
    texts = ("How do plants grow?", "A long text, of which one line is shown here. " * 3)
    rows = [{"prompt": text} for text in texts] + [{"prompt": "Q", "response": "请保持冷静。" * 9}]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    async with fake_engine(agree) as engine:
        slot = write_tiny_slot(tmp_path)
        async with gateway(slot, engine.port) as client:
            await client.until_serving()
            at = ("--target", f"127.0.0.1:{client.port}")
            many = await asyncio.to_thread(run, "moderate", "--file", str(data), *at)
            one = await asyncio.to_thread(run, "moderate", "", *at)
    assert shown(many, cut=True) == snapshot(name="verdicts")
    assert shown(one) == snapshot(name="no verdict")


def test_a_server_that_is_ready(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    for name, text in PLAIN.items():
        monkeypatch.setenv(name, text)
    facts = {"Gateway": "127.0.0.1:50051  gRPC, plain text", "Model": "tiny-guard  slot [blue]"}
    ServerOutput().ready("Qwen3Guard Server is ready", facts, "[dim]Stop: Ctrl-C.[/]")
    assert legible(capsys.readouterr().err) == snapshot


@pytest.mark.parametrize(
    "command",
    [
        ("slots", "--target", "127.0.0.1:1"),
        ("slots", "--target", "nowhere"),
        ("moderate",),
        ("moderate", "Q", "--tls-cert", "/"),
        ("eval", "none.jsonl"),
        ("verify", "blue", "--against", "green", "--data", "none.jsonl"),
    ],
    ids=" ".join,
)
def test_what_is_refused_says_the_next_step(
    command: tuple[str, ...], snapshot: SnapshotAssertion
) -> None:
    done = run(*command)
    assert done.exit_code != 0
    assert shown(done) == snapshot
