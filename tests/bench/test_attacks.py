"""`guard bench attacks`: that each attack runs and what it leaves is reported, not how fast."""

import json
from pathlib import Path

import pytest

from tests.support.commands import guard

# docs/gateway.md: a worker, its cache, what requests hold.
MOST_MIB = 110 + 64 + 256
BEGIN = "<!-- attacks: made by guard bench attacks --page -->"
END = "<!-- attacks: end -->"


@pytest.mark.slow
def test_a_victim_beside_an_attacker_gets_verdicts_and_memory_is_bounded(tmp_path: Path) -> None:
    path, page = tmp_path / "report.json", tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    options = ["--seconds", "0.5", "--json", str(path), "--page", str(page)]
    done = guard("bench", "attacks", "unfinished requests", *options)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(path.read_text())
    assert [one["source"] for one in outcomes] == [
        *("another address", "the same address", "another certificate")
    ]
    for one in outcomes:
        assert set(one["quiet"]["statuses"]) == {"OK"}
        assert 0 < one["quiet"]["resident_mib"] < MOST_MIB
        # How many calls and readings there are in so short a time is no test's matter.
        assert set(one["attacked"]["statuses"]) <= {"OK"}
        assert one["attacked"]["resident_mib"] < MOST_MIB
    assert any(one["attackers_statuses"] for one in outcomes)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    [row] = [line for line in text.splitlines() if line.startswith("| unfinished requests |")]
    assert row.count("|") == text.count("|", 0, text.index("\n|---")) and len(row) <= 80


def test_an_attack_that_there_is_not_is_named() -> None:
    done = guard("bench", "attacks", "kindness")
    assert done.returncode == 1
    assert "kindness" in done.stderr
