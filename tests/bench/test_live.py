"""`guard bench live`: that a case runs and its table is written, not how fast anything is."""

import json
from pathlib import Path

import pytest

from guard_bench.live.live_cases import LiveCase
from guard_bench.live.live_outcome import LiveOutcome
from guard_bench.live.live_table import write_live_page
from tests.support.commands import guard

MARKS = "<!-- live: made by guard bench live --page -->", "<!-- live: end -->"


@pytest.mark.slow
def test_an_answer_computes_what_the_formula_says(tmp_path: Path) -> None:
    page, report = tmp_path / "page.md", tmp_path / "report.json"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    options = ["--shape", "tiny", "--page", str(page), "--json", str(report)]
    done = guard("bench", "live", LiveCase.cost, *options)
    assert done.returncode == 0, done.stderr
    by_50, _, by_100, _ = json.loads(report.read_text())
    # 60 and 1,000 tokens once, 122 for each check of a beginning, and 131 for the last one.
    assert by_50["found"] == "3,509 (1.000)"
    assert by_100["found"] == "2,289 (1.000)"
    assert "| 3,509 (1.000) | yes |" in page.read_text()


def test_the_pages_table_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    for _ in range(2):
        write_live_page([LiveOutcome("stop", "time", "under 10 ms", "11 ms", passed=False)], page)
    text = page.read_text()
    assert text.startswith(f"before\n{MARKS[0]}\n") and text.endswith(f"{MARKS[1]}\nafter\n")
    assert text.count("| stop: time | under 10 ms | 11 ms | **no** |") == 1
    assert "old" not in text
