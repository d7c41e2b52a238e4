"""What would break a caller does not pass, and is named."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
CONTRACT = PROJECT / "proto"


def rules(contract: Path) -> subprocess.CompletedProcess[str]:
    """What `make proto-check` asks of a contract."""
    command = ["sh", "tools/proto_rules.sh", str(contract)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def changed(directory: Path, file: str, old: str, new: str) -> Path:
    """A copy of the contract with one change."""
    contract = directory / "proto"
    shutil.copytree(CONTRACT, contract, ignore=lambda _, names: [n for n in names if "_pb2" in n])
    path = contract / "qwen3guard" / "v1" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    return contract


BREAKING = {
    "a removed field": (
        "types.proto",
        "  // Engine calls for the verdict and, if requested, for its scores.\n"
        "  uint32 engine_calls = 6;\n",
        "",
        'Previously present field "6" with name "engine_calls" on message "Usage" was deleted.',
    ),
    "a renumbered enum": (
        "types.proto",
        "REFUSAL_NO = 2;",
        "REFUSAL_NO = 3;",
        'Previously present enum value "2" on enum "Refusal" was deleted.',
    ),
    "a removed call": (
        "moderation.proto",
        "  rpc BatchModerate(BatchModerateRequest) returns (BatchModerateResponse);\n",
        "",
        'Previously present RPC "BatchModerate" on service "ModerationService" was deleted.',
    ),
}


@pytest.mark.parametrize("change", BREAKING)
def test_a_break_is_named_with_its_place(change: str, tmp_path: Path) -> None:
    file, old, new, said = BREAKING[change]
    done = rules(changed(tmp_path, file, old, new))
    assert done.returncode != 0
    [line] = [line for line in done.stdout.splitlines() if line.endswith(said)]
    assert line.startswith(f"qwen3guard/v1/{file}:")
    assert "This breaks callers of the frozen contract" in done.stderr


def test_a_field_without_a_comment_is_refused(tmp_path: Path) -> None:
    comment = "  // Probability of Safe, 0 to 1.\n"
    done = rules(changed(tmp_path, "types.proto", comment, ""))
    assert done.returncode != 0
    assert 'Field "safe" should have a non-empty comment' in done.stdout


def test_an_addition_passes(tmp_path: Path) -> None:
    old = "  // Probability of Safe, 0 to 1.\n"
    new = "  // An addition.\n  float more = 100;\n" + old
    done = rules(changed(tmp_path, "types.proto", old, new))
    assert done.returncode == 0, done.stdout + done.stderr
