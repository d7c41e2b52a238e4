"""The comparison with other engines: its workers' protocol, its workload and its page."""

import sys
from pathlib import Path
from typing import Any

import pytest

from peers.comparison_page import make_page
from peers.interleaved import make_workload
from peers.worker import Workload
from peers.worker_process import Worker

BENCH = Path(__file__).parents[2] / "bench"
FAKE = """
import sys
from peers.worker import TaskResult, serve

def load(workload):
    print("a library's chatter")
    def measure(task):
        print("more of it")
        if task.kind == "fatal":
            raise SystemExit("out of memory")
        tokens = sum(map(len, task.prompts))
        return TaskResult(len(task.prompts), float(tokens), task.seconds)
    return measure

serve(load, {"fake": "1"})
"""


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    made = Workload(tmp_path, 64, [1, 2], [3], [4], [[5], [6, 7], [8]])
    made.save(tmp_path / "workload.json")
    return made


def start(directory: Path) -> Worker:
    command = [sys.executable, "-c", FAKE, str(directory / "workload.json")]
    return Worker(command, BENCH, directory / "fake.log", preload=False)


def test_a_worker_measures_its_tasks(tmp_path: Path, workload: Workload) -> None:
    worker = start(tmp_path)
    task = {"kind": "safe", "in_flight": 1, "seconds": 2.5, "first": 1, "count": 1}
    found = worker.measure(task)
    assert (found["verdicts"], found["seconds"], found["p50_s"]) == (1, 5.0, 2.5)
    assert worker.measure({**task, "first": 0, "count": 9})["verdicts"] == 3
    facts = worker.facts()
    assert facts["versions"] == {"fake": "1"}
    assert facts["rss_mib_loaded"] > 0
    worker.close()
    assert "more of it" in (tmp_path / "fake.log").read_text()


def test_a_worker_that_dies_is_named(tmp_path: Path, workload: Workload) -> None:
    worker = start(tmp_path)
    with pytest.raises(RuntimeError, match=r"fake\.log says why"):
        worker.measure({"kind": "fatal", "in_flight": 1, "seconds": 1, "first": 0, "count": 1})
    worker.close()
    assert "out of memory" in (tmp_path / "fake.log").read_text()


def test_the_workload_has_the_templates_counts(tmp_path: Path) -> None:
    made = make_workload("0.6b", tmp_path, 64, 300)
    assert (len(made.prefix), len(made.tail), len(made.draft)) == (201, 95, 8)
    lengths = {len(conversation) for conversation in made.conversations}
    assert min(lengths) >= 20
    assert max(lengths) <= 300
    assert len({tuple(conversation) for conversation in made.conversations}) == 300
    first = next(made.prompts(7))
    assert first == [*made.prefix, *made.conversations[7], *made.tail]


def test_ratios_are_medians_of_the_rounds() -> None:
    """A round that disturbs both engines alike says as much as a quiet one."""
    points = [
        point(engine, number, rate)
        for number, slowdown in enumerate((1, 4, 2))
        for engine, rate in (("int8", 20 / slowdown), ("vllm", 10 / slowdown))
    ]
    engine: dict[str, Any] = {
        "versions": {"x": "1"},
        "preloaded": [],
        "load_s": 2.0,
        "rss_mib_loaded": 1000,
        "rss_mib_end": 2000,
    }
    machine = {
        "cpu": "a CPU",
        "cpu_family_and_model": "1/2",
        "cpu_arithmetic": "avx2",
        "cores": 2,
        "memory_mib": 1024,
    }
    page = make_page(
        {
            "shape": "0.6b",
            "kv_mib": 64,
            "seconds_per_point": 1,
            "rounds": 3,
            "minutes": 1,
            "machine": machine,
            "engines": {"int8": engine, "vllm": engine},
            "points": points,
        },
        "plot.png",
    )
    assert "| safe, 8 | 10.00/s, 100 ms, 5% | 5.00/s, 200 ms, 5% |" in page
    assert "| safe, 8 | 2.00, 0.50 |" in page
    assert "| ours, INT8 weights | 1,000 MiB | 2,000 MiB | 1,936 MiB | 2 s |" in page


def point(engine: str, number: int, rate: float) -> dict[str, Any]:
    return {
        "engine": engine,
        "round": number,
        "kind": "safe",
        "in_flight": 8,
        "verdicts": 100,
        "seconds": 100 / rate,
        "p50_s": 1 / rate,
        "others_cpu": 0.05,
    }
