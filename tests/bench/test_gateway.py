"""`guard bench gateway` and its like: that they run and report, not how fast anything is."""

import json
from pathlib import Path
from typing import Any

import pytest

from guard_bench.loadgen.synthetic_prompts import prompts
from guard_bench.scenarios.gateway_run import GatewayReport
from guard_bench.scenarios.perf_analyzer import conversations_file, tensors_file
from guard_core.engine.tensors import Generation
from perf.sweep_page import make_page
from tests.support.commands import guard
from tests.support.ports import free_port
from tests.support.serving import Served


@pytest.mark.slow
def test_the_gateway_is_measured_beside_the_proxy_and_under_overload(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    options = ["--seconds", "0.3", "--rounds", "1", "--json", str(path)]
    done = guard("bench", "gateway", "speed", "overload", *options)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(path.read_text())
    for name, [point] in report["points"].items():
        allowed = {"OK", "RESOURCE_EXHAUSTED"} if "twice" in name else {"OK"}
        assert set(point["statuses"]) <= allowed, name
        assert point["statuses"]["OK"] > 0, name
    assert report["points"]["twice the load"][0]["statuses"]["RESOURCE_EXHAUSTED"] > 0
    assert len(report["points"]) == 12
    assert "unary, to the proxy" in done.stdout


@pytest.mark.triton
def test_the_engine_is_asked_the_same_directly(blue: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    options = ["--slot", str(blue), "--seconds", "0.3", "--rounds", "1", "--json", str(path)]
    done = guard("bench", "gateway", "engine", *options)
    assert done.returncode == 0, done.stderr
    points = json.loads(path.read_text())["points"]
    assert {name: list(one["statuses"]) for name, [one] in points.items()} == {
        "engine, directly": ["OK"],
        "engine, through the gateway": ["OK"],
    }


@pytest.mark.slow
def test_a_slot_that_is_not_there_is_known_before_anything_is_measured(tmp_path: Path) -> None:
    done = guard("bench", "gateway", "speed", "engine", "--slot", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "does not exist" in done.stderr


@pytest.mark.parametrize("options", [[], ["--stream", "--connections", "2"]])
def test_every_status_is_read(served: Served, tmp_path: Path, options: list[str]) -> None:
    file = tmp_path / "conversations.jsonl"
    too_long = "a b c d " * 5_000  # more tokens than the engine takes
    texts = "How do plants grow?", too_long
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    target = f"127.0.0.1:{served.port}"
    load = ["--rate", "50", "--seconds", "1", "--file", str(file)]
    report = tmp_path / "load.json"
    done = guard("bench", "load", target, *load, *options, "--json", str(report))
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout
    assert "INVALID_ARGUMENT" in done.stdout
    found = json.loads(report.read_text())
    assert set(found["statuses"]) == {"OK", "INVALID_ARGUMENT"}
    assert f"{found['rate']:.1f} verdicts/s" in done.stdout
    assert f"{found['statuses']['OK']['p99_s'] * 1e3:.2f}" in done.stdout
    assert sum(found["errors"].values()) == found["statuses"]["INVALID_ARGUMENT"]["calls"]
    assert (found["asked_rate"], found["stream"]) == (50, "--stream" in options)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--stream"]])
def test_a_load_without_a_verdict_fails(tmp_path: Path, options: list[str]) -> None:
    report = tmp_path / "load.json"
    load = ["--rate", "20", "--seconds", "0.5", "--json", str(report), *options]
    done = guard("bench", "load", f"127.0.0.1:{free_port()}", *load)
    assert done.returncode == 1
    [(status, found)] = json.loads(report.read_text())["statuses"].items()
    assert status.endswith("UNAVAILABLE") and status in done.stdout
    assert f"No call got a verdict. {found['calls']} of them ended so: {status}: " in done.stderr


@pytest.mark.slow
def test_a_load_without_a_call_fails() -> None:
    done = guard("bench", "load", "127.0.0.1:1", "--rate", "0.1", "--seconds", "0.1")
    assert done.returncode == 1
    assert "give a higher --rate or more --seconds" in done.stderr


def test_no_two_conversations_are_equal() -> None:
    texts = prompts(5000, (2, 3), seed=1)
    assert len(set(texts)) == 5000
    assert not set(texts) & set(prompts(5000, (2, 3), seed=2))


def test_the_ratio_is_of_each_rounds_own() -> None:
    report = GatewayReport()
    report.points = {
        "a": [{"rate": rate} for rate in (10, 1, 100)],
        "b": [{"rate": rate} for rate in (20, 2, 50)],
    }
    assert report.compare("a", "b") == 0.5


def test_perf_analyzers_files_hold_the_same_conversations(tmp_path: Path) -> None:
    conversations_file(["How?"], tmp_path / "gateway.json")
    tensors_file([Generation([1, 2, 3], 9, 3, (4, 9))], tmp_path / "triton.json")
    [row] = json.loads((tmp_path / "gateway.json").read_text())["data"]
    assert json.loads(row["conversation"][0]) == [{"role": "user", "content": "How?"}]
    [row] = json.loads((tmp_path / "triton.json").read_text())["data"]
    assert row["input_ids"] == {"content": [1, 2, 3], "shape": [3]}
    assert row["draft_input_ids"]["content"] == [4, 9]


def test_the_sweeps_page_has_a_row_for_each_point() -> None:
    point = {"setting": 8, "rate": 812.3, "p50_us": 9000, "p99_us": 21_500}
    document = {
        "machine": {"cpu": "A processor", "cores": 2},
        "concurrency": {"gateway": [point], "Triton": [point]},
        "rate": {"gateway": [point], "Triton": []},
    }
    page = make_page(document, "plot.png")
    assert page.count("| gateway | 8 | 812 | 9.00 | 21.50 |") == 2
    assert page.count("| Triton |") == 1
