"""Reports that a command could not write: refused before the work, or one sentence after it."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from guard_cli.main import app
from guard_cli.options import writing

RUNNER = CliRunner()
WITH_A_REPORT = (
    ("verify", "blue", "--against", "green"),
    ("verify", "contract", "blue"),
    ("bench", "engine"),
    ("bench", "swap"),
    ("bench", "load", "127.0.0.1:1"),
    ("bench", "gateway"),
    ("bench", "load", "127.0.0.1:1"),
    ("build", "--engine", "tensorrt-llm", "--format", "fp8"),
    ("bench", "perf", "--analyzer", "perf_analyzer"),
)


@pytest.mark.parametrize("command", WITH_A_REPORT, ids=" ".join)
def test_a_directory_is_no_report(command: tuple[str, ...], tmp_path: Path) -> None:
    done = RUNNER.invoke(app, [*command, "--json", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"{tmp_path} is a directory: give a file for the report.\n"


@pytest.mark.parametrize("command", WITH_A_REPORT[:-1], ids=" ".join)
def test_a_report_in_no_directory(command: tuple[str, ...], tmp_path: Path) -> None:
    done = RUNNER.invoke(app, [*command, "--json", str(tmp_path / "none" / "report.json")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{tmp_path / 'none'} is no directory" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "DATA", "--out"),
        ("bench", "swap", "--directory"),
        ("bench", "perf", "--analyzer", "perf_analyzer", "--json"),
    ],
    ids=" ".join,
)
def test_a_folder_that_can_not_be_made(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = tmp_path / "data.jsonl"
    data.write_text('{"id": "1", "prompt": "Hello!", "prompt_label": "Safe"}\n')
    below = str(tmp_path / "file" / "folder" / "report")
    words = [str(data) if word == "DATA" else word for word in command]
    done = RUNNER.invoke(app, [*words, below])
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{tmp_path / 'file'}" in done.stderr
    assert "could not be written: Not a directory. Mend that" in done.stderr


def test_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(typer.Exit) as ended, writing(tmp_path / "report.json"):
        Path("/dev/full").write_text("{}")
    assert ended.value.exit_code == 1
    assert "report.json could not be written: No space left on device." in capsys.readouterr().err
