"""deploy/gpu-acceptance.sh with stand-ins for docker and make: its order, its records, its code,
and the page that tools/gpu_page.py makes of them.

What its steps do on a GPU is not tested here: docs/gpu.md says what never ran.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from guard_bench.loadgen.call import OK
from guard_bench.scenarios.server_load import ServerLoadReport, StatusReport
from guard_cli.commands.verify import VerifyReport
from guard_eval.contract import Finding
from guard_eval.verify import AgreementReport
from guard_eval.verify.agreement import Difference, Drift, Share, SideReport

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
SCRIPT = PROJECT / "deploy" / "gpu-acceptance.sh"
PAGE_TOOL = PROJECT / "tools" / "gpu_page.py"
PAGES = ("docs/gpu.md", "README.md")
STEPS = [
    *("image", "gpu", "versions", "flags", "small_bf16", "small_fp8", "contract"),
    *("large_bf16", "large_fp8", "agreement", "serve", "memory", "load", "perf_analyzer", "stop"),
    *("w8a8", "w8a16"),
]
RATES = [50, 100, 200, 400, 800]
ENGINE_LOG = [f"Allocated {n} GiB for max tokens in paged KV cache" for n in range(30)]
FINDINGS = [
    Finding(check=check, wanted="[1]", found="[1]", passed=result)
    for check, result in (("drafts", True), ("limits", True), ("reuse", None), ("stop", False))
]
CONTRACT = {"slot": "f00d", "passed": True, "findings": [each.model_dump() for each in FINDINGS]}
# It fails where its arguments hold the words in FAIL. A tool's help has the flags in HELP, and
# REPORTS has what a command writes.
FAKE = r"""#!/bin/bash
line="$(basename "$0") $*"
printf '%s\n' "${line//$'\n'/ }" >>"$RAN"
[ "$1" != compose ] || echo "$BASE" >>"$RAN.base"
into=${line##*--json }
case "$line" in
  *"${FAIL:-nothing}"*) printf 'it broke: "no\tGPU" \\ \x01\xff\n'; exit 7 ;;
  *--dry-run*)
    echo 'quantize   python3 quantize.py --model_dir models--Qwen--4B --qformat fp8'
    echo 'compile    trtllm-build --max_batch_size 64' ;;
  *--help*) printf '  %s\n' $HELP ;;
  *"verify contract"*) cp "$REPORTS/contract.json" "$into" ;;
  *"bench load"*)
    rate=${line##*--rate }
    sed "s/\"asked_rate\": .*/\"asked_rate\": ${rate%% *},/" "$REPORTS/$LOAD" >"$into"
    [ "$LOAD" = load.json ] ;;
  *--against*) cp "$REPORTS/agreement.json" "$into" ;;
  *" cp engine-gpu:/guard/.run/triton-blue.log "*) cp "$REPORTS/triton.log" "${@: -1}" ;;
  *perf_analyzer.csv*) cp "$REPORTS/perf.csv" .run/acceptance/perf_analyzer.csv ;;
  *name,compute_cap*) echo 'NVIDIA H200, 9.0, 143771 MiB, 570.1' ;;
  *memory.used*) echo '90000 MiB, 143771 MiB' ;;
  *) echo done ;;
esac
"""


@dataclass
class Acceptance:
    checkout: Path
    code: int
    shown: str
    report: dict[str, Any]
    ran: list[str]

    def results(self) -> dict[str, str]:
        return {step["step"]: step["result"] for step in self.report["steps"]}

    def step(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(s for s in self.report["steps"] if s["step"] == name)
        return found

    def says(self, name: str) -> str:
        return str(self.step(name)["says"])

    def page(self) -> str:
        """Puts the results into the checkout's page."""
        tool = self.checkout / "tools" / PAGE_TOOL.name
        done = subprocess.run([sys.executable, tool], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "README.md:" in done.stdout  # it still says that nothing has run
        return (self.checkout / "docs" / "gpu.md").read_text(encoding="utf-8")


def load_report(status: str) -> ServerLoadReport:
    verdicts = 48.51 if status == OK else 0.0
    latency = 0.0123 if status == OK else None
    return ServerLoadReport(
        target="127.0.0.1:50051",
        asked_rate=0,
        seconds=20,
        stream=True,
        connections=4,
        rate=verdicts,
        statuses={status: StatusReport(1000, latency, latency)},
        errors={} if status == OK else {f"{status}: no": 1000},
        late_s=0.001,
        others_cpu=0.5,
    )


def agreement_report() -> VerifyReport:
    side = SideReport(ungrammatical=0, failed=0, strict=None, loose=None)
    share = Share.of(429, 431)
    differing = tuple(Difference(id=str(n), candidate="Safe", reference="Unsafe") for n in (1, 2))
    return VerifyReport(
        candidate="a",
        reference="b",
        data="golden.jsonl",
        release_gate=False,
        same_checkpoint=True,
        min_agreement=None,
        reasons=[],
        report=AgreementReport(
            conversations=431,
            labelled=0,
            agreement=share,
            severity_agreement=share,
            candidate=side,
            reference=side,
            drift=Drift(conversations=431, mean=0.001, p99=0.01, largest=0.02),
            differing=differing,
        ),
    )


def write_reports(folder: Path) -> Path:
    """What the commands of a run write, in their own formats."""
    folder.mkdir()
    load_report(OK).save(folder / "load.json")
    load_report("STREAM_UNAVAILABLE").save(folder / "no_verdict.json")
    agreement_report().save(folder / "agreement.json")
    (folder / "contract.json").write_text(json.dumps(CONTRACT))
    (folder / "triton.log").write_text("\n".join(("Loading", *ENGINE_LOG, "Ready", "")))
    heads = "Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p99 latency"
    rows = [f"{n},{n * 10},9,{n * 1000},1,{n * 2000}" for n in (1, 22, 43, 64)]
    (folder / "perf.csv").write_text("\n".join((heads, *rows, "")))
    return folder


def accept(checkout: Path, **environment: str) -> Acceptance:
    """Runs the script in a checkout of its own."""
    for source in (SCRIPT, PAGE_TOOL, *(PROJECT / page for page in PAGES)):
        copy = checkout / source.relative_to(PROJECT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(source, copy)
    (checkout / "bin").mkdir()
    for name in ("docker", "make"):
        (checkout / "bin" / name).write_text(FAKE)
        (checkout / "bin" / name).chmod(0o755)
    given = {
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
        "RAN": str(checkout / "ran.txt"),
        "REPORTS": str(write_reports(checkout / "reports")),
        "LOAD": "load.json",
        "HELP": "--model_dir --qformat --max_batch_size",
        "READY_TRIES": "1",
        **environment,
    }
    done = subprocess.run(
        ["bash", str(checkout / "deploy" / SCRIPT.name)],
        env={name: value for name, value in os.environ.items() if name != "BASE"} | given,
        capture_output=True,
        timeout=60,
        check=False,
    )
    text = (checkout / ".run" / "acceptance" / "result.json").read_text(encoding="utf-8")
    ran = (checkout / "ran.txt").read_text().splitlines()
    shown = done.stdout.decode(errors="replace")
    return Acceptance(checkout, done.returncode, shown, json.loads(text), ran)


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Acceptance:
    """All steps pass."""
    return accept(tmp_path_factory.mktemp("checkout"))


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_step_runs_once_in_order(passed: Acceptance) -> None:
    assert passed.code == 0, passed.report
    assert list(passed.results()) == STEPS
    assert set(passed.results().values()) == {"passed"} and passed.report["failed"] == 0
    built = [line.split("FORMAT=")[1] for line in passed.ran if line.startswith("make gpu-build")]
    assert [line.split()[0] for line in built] == ["bf16", "fp8", "bf16", "fp8", "w8a8", "w8a16"]
    assert all("--against reference" in line for line in built[3:])
    assert passed.step("contract")["report"] == CONTRACT
    assert "KV cache" in passed.says("memory")


def test_every_result_is_whole_in_the_one_file(passed: Acceptance) -> None:
    verified = json.loads(agreement_report().model_dump_json())
    for name in ("small_fp8", "large_fp8", "agreement", "w8a8", "w8a16"):
        assert passed.step(name)["report"] == verified, name
    loads = passed.step("load")["report"]
    assert [each["asked_rate"] for each in loads] == RATES
    assert {each["rate"] for each in loads} == {48.51}
    assert passed.step("memory")["report"] == {
        "gpu": ["90000 MiB, 143771 MiB"],
        "engine": ENGINE_LOG,
    }
    assert len(passed.step("perf_analyzer")["report"]) == 1 + 4
    assert passed.step("gpu")["report"] == ["NVIDIA H200, 9.0, 143771 MiB, 570.1"]
    assert passed.step("image")["report"] == passed.step("versions")["report"] == ["done"]
    assert passed.step("flags")["report"] == []
    assert passed.report["started"] and passed.report["commit"]


def test_the_terminal_shows_each_step(passed: Acceptance) -> None:
    lines = passed.shown.splitlines()
    for name in STEPS:
        begun = lines.index(f"== {name}")
        assert re.fullmatch(rf"{name} +passed +\d+ s", lines[begun + 1])
    assert "tools/gpu_page.py" in lines[-1]


def test_a_failing_step_is_recorded_and_only_what_needs_it_is_skipped(tmp_path: Path) -> None:
    found = accept(tmp_path, FAIL="FORMAT=fp8 SLOT_NAME=blue")
    assert found.code == 1
    skipped = {"agreement", "serve", "memory", "load", "perf_analyzer"}
    results = found.results()
    assert {name for name in STEPS if results[name] == "skipped"} == skipped
    assert [name for name in STEPS if results[name] == "failed"] == ["large_fp8"]
    assert found.report["failed"] == 1 + len(skipped)
    assert 'it broke: "no\tGPU" \\' in found.says("large_fp8")
    assert found.says("agreement") == "needs the step large_fp8"
    assert not any("verify blue" in line for line in found.ran)
    # What failed, what to do, and where all of it is.
    shown = found.shown[found.shown.index("== large_fp8") :].splitlines()
    assert 'it broke: "no\tGPU"' in shown[2]
    assert shown[3].startswith("    -> its log says which tool failed") and "again." in shown[3]
    assert shown[4] == "    all of it: .run/acceptance/large_fp8.log"
    page = found.page()
    assert re.search(r'^\| large_fp8 \|.*\| failed, \d+ s: it broke: "no GPU" ', page, re.MULTILINE)
    assert re.search(r"^\| load \|.*\| \*\*never\*\*: needs the step serve \|", page, re.MULTILINE)
    assert "calls/s asked" not in page and "| small_fp8, 431 conversations |" in page


def test_every_step_says_what_to_do() -> None:
    text = SCRIPT.read_text()
    assert re.findall(r"^    \[(\w+)\]=", text, re.MULTILINE) == STEPS
    assert re.findall(r"^step (\w+)", text, re.MULTILINE) == STEPS


def test_without_the_image_nothing_is_built(tmp_path: Path) -> None:
    found = accept(tmp_path, FAIL="docker pull")
    assert found.code == 1
    assert found.results() == {"image": "failed", **dict.fromkeys(STEPS[1:], "skipped")}
    assert found.ran == [found.ran[0]]
    assert "**None of this has run on a GPU yet.**" in found.page()


def test_a_flag_that_the_tools_help_does_not_have(tmp_path: Path) -> None:
    found = accept(tmp_path, HELP="--model_dir --qformats --max_batch_size")
    assert [name for name in STEPS if found.results()[name] == "failed"] == ["flags"]
    assert "python3 quantize.py has no --qformat (fp8)" in found.says("flags")
    assert "max_batch_size" not in found.says("flags")
    formats = ("bf16", "fp8", "w8a8", "w8a16")  # the stand-in's plan is the same for each
    unknown = [f"python3 quantize.py has no --qformat ({each})" for each in formats]
    assert found.step("flags")["report"] == unknown


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    found = accept(tmp_path, FAIL="moderate --target")
    assert found.results()["serve"] == "failed"
    assert any("compose" in line and line.endswith(" down") for line in found.ran)
    assert "Ready" in (tmp_path / ".run" / "acceptance" / "triton.log").read_text()


def test_a_load_without_a_verdict_fails(tmp_path: Path) -> None:
    found = accept(tmp_path, LOAD="no_verdict.json")
    assert [name for name in STEPS if found.results()[name] == "failed"] == ["load"]
    [report] = found.step("load")["report"]  # no higher rate is tried
    assert set(report["statuses"]) == {"STREAM_UNAVAILABLE"}
    assert "| 50 | 0.0 | - | - | STREAM_UNAVAILABLE 1000 |" in found.page()


@pytest.mark.parametrize("pinned", ["", "registry/image@sha256:0123"])
def test_what_is_served_is_built_on_the_same_image(tmp_path: Path, pinned: str) -> None:
    found = accept(tmp_path, **({"BASE": pinned} if pinned else {}))
    base = found.report["base"]
    assert base == (pinned or default_base())
    assert f"docker pull {base}" in found.ran
    assert any(line.startswith(f"docker build --build-arg BASE={base} ") for line in found.ran)
    assert any(line.startswith(f"make gpu-build BASE={base} ") for line in found.ran)
    assert set((tmp_path / "ran.txt.base").read_text().splitlines()) == {base}
    # compose hands it on: an argument without a value has that of the environment.
    compose = YAML(typ="safe").load(PROJECT / "deploy" / "compose.yaml")
    assert compose["services"]["engine-gpu"]["build"]["args"] == ["BASE"]


@pytest.mark.parametrize("options", [[], ["BASE=registry/image@sha256:0123"]])
def test_make_serves_on_the_image_that_it_builds_on(options: list[str]) -> None:
    base = options[0].removeprefix("BASE=") if options else default_base()
    make = ["make", "-n", "-C", str(PROJECT), *options]
    environment = {name: value for name, value in os.environ.items() if name != "BASE"}
    for target, wanted in (("gpu-serve", f"BASE={base} SLOT="), ("gpu-build", f" BASE={base} ")):
        done = subprocess.run([*make, target], env=environment, capture_output=True, check=True)
        assert wanted in done.stdout.decode(), target


def default_base() -> str:
    """The same in Makefile, script and Dockerfile."""
    files = {"Makefile": r"BASE \?= (\S+)", "deploy/gpu-acceptance.sh": r"BASE=\$\{BASE:-(\S+)\}"}
    files["deploy/Dockerfile.gpu"] = r"ARG BASE=(\S+)"
    texts = {name: (PROJECT / name).read_text() for name in files}
    [base] = {re.search(f"^{files[name]}$", texts[name], re.MULTILINE)[1] for name in files}  # type: ignore[index]
    return base


def test_the_page_takes_in_all_results(passed: Acceptance) -> None:
    before, page = (PROJECT / "docs" / "gpu.md").read_text(encoding="utf-8"), passed.page()
    lines = page.splitlines()
    assert page.partition("<!--")[0] == before.partition("<!--")[0]
    assert page.rpartition("-->")[2] == before.rpartition("-->")[2]
    results = {
        found[1]: found[2]
        for name in STEPS
        if (found := re.search(rf"^\| ({name}) \|.*\| (\w+), \d+ s:", page, re.MULTILINE))
    }
    assert results == dict.fromkeys(STEPS, "passed")
    assert ", on NVIDIA H200, 9.0, 143771 MiB, 570.1:" in page
    assert "2 checks passed, 1 without a comparison, 1 failed; stop |" in page
    drift = "0.9954 | 0 | 0 | 0.0010 / 0.0200 |"
    assert f"| w8a16, 431 conversations | 0.9954, 0.9832 to 0.9987 | {drift}" in lines
    assert all(f"    {line}" in lines for line in ENGINE_LOG)
    assert all(f"| {rate} | 48.5 | 12.3 | 12.3 | OK 1000 |" in lines for rate in RATES)
    assert "| 64 | 640 | 64.00 | 128.00 |" in lines
    assert passed.page() == page


def test_the_page_as_it_is_has_all_steps() -> None:
    page = (PROJECT / "docs" / "gpu.md").read_text(encoding="utf-8")
    steps = page.partition("<!-- the results of")[2].partition("<!-- the end")[0]
    assert re.findall(r"^\| (\w+) \|", steps, re.MULTILINE)[: 1 + len(STEPS)] == ["step", *STEPS]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "first run deploy/gpu-acceptance.sh on a GPU"),
        ('{"steps": [', "has something unexpected"),
        ('{"steps": [{"step": "gpu"}]}', "has something unexpected"),
    ],
)
def test_results_that_cannot_be_taken_in_change_nothing(
    tmp_path: Path, text: str | None, said: str
) -> None:
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    page = (PROJECT / "docs" / "gpu.md").read_bytes()
    command = [sys.executable, str(PAGE_TOOL), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and said in done.stderr
    assert (PROJECT / "docs" / "gpu.md").read_bytes() == page
