"""`guard verify contract`: right on both engines, and every fault of an engine is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from guard_control.triton_process import TritonProcess
from guard_core.slot.slot_files import SlotFiles
from guard_eval.contract import (
    EngineUnreachable,
    Finding,
    check_contract,
    longest_conversation,
)
from tests.support.commands import guard
from tests.support.serving import Served
from tests.support.stand_ins import contract_faults as faults
from tests.support.stand_ins.faulty_engine import Fault, faulty
from tests.support.stand_ins.native_engine import Script

pytestmark = pytest.mark.triton
SAFE = "Safety: Safe\nCategories: None"
SCALE = "the logits' scale, by the log-probability of the token that is written"

# Each with a check that must find it. A check of both modes is named for one of them.
FAULTS = (
    (Fault(reply=faults.ends_after_one_token), "prompt: plain"),
    (Fault(reply=faults.counts_the_prompt), "prompt: plain"),
    (Fault(reply=faults.writes_an_undeclared_output), "response: plain"),
    (Fault(reply=faults.returns_the_end), "prompt: the end token is not returned"),
    (Fault(reply=faults.lacks_an_output), "prompt: all outputs, with their types and shapes"),
    (Fault(reply=faults.has_another_type), "prompt: all outputs, with their types and shapes"),
    (Fault(reply=faults.changes_its_mind), "prompt: the same answer again"),
    (Fault(reply=faults.reuses_nothing), "prompt: from reused blocks"),
    (Fault(reply=faults.counts_reused_tokens), "prompt: from reused blocks"),
    (Fault(reply=faults.rejects_the_end), "prompt: a right draft"),
    (Fault(reply=faults.misses_the_end_after_a_draft), "prompt: a right draft without its end"),
    (
        Fault(reply=faults.agrees_to_what_follows_the_answer),
        "prompt: a draft that goes on after the end",
    ),
    (
        Fault(reply=faults.goes_on_after_an_accepted_end),
        "prompt: a draft with a token after its end",
    ),
    (Fault(reply=faults.ends_at_a_drafted_end), "prompt: the end drafted first"),
    (Fault(reply=faults.leaves_its_own_token_out), "prompt: a draft that is wrong at token 1"),
    (Fault(ask=faults.ignores_drafts), "prompt: a draft that is wrong at token 1"),
    (Fault(reply=faults.agrees_to_every_draft), "prompt: a draft that is wrong at token 3"),
    (Fault(reply=faults.agrees_to_every_draft), "prompt: a draft that is wrong at token 7"),
    (
        Fault(reply=faults.agrees_to_a_wrong_fifth_token),
        "prompt: a draft that is wrong at token 5",
    ),
    (Fault(reply=faults.counts_nothing_accepted), "prompt: the accepted tokens of a right draft"),
    (
        Fault(reply=faults.counts_everything_accepted),
        "prompt: the accepted tokens of a draft that is wrong at token 3",
    ),
    (Fault(reply=faults.verifies_short_drafts_only), "response: a right draft"),
    (Fault(reply=faults.repeats_what_was_begun), "the rest of an answer after two tokens"),
    (Fault(reply=faults.begins_again), "the rest of an answer after all"),
    (Fault(ask=faults.ignores_the_limit), "no more tokens than asked for"),
    (Fault(reply=faults.refuses_the_longest_draft), "the longest draft"),
    (Fault(reply=faults.agrees_to_a_draft_that_is_too_long), "a draft that is too long"),
    (Fault(reply=faults.refuses_long_prompts), "the longest prompt"),
    (
        Fault(reply=faults.writes_garbage_after_long_prompts),
        "the rest of the answer to the longest prompt",
    ),
    (Fault(reply=faults.refuses_a_full_input), "a prompt and draft that fill the input"),
    (
        Fault(reply=faults.writes_garbage_after_a_full_input),
        "a prompt and draft that fill the input",
    ),
    (Fault(reply=faults.cuts_the_draft_of_a_full_input), "a prompt and draft that fill the input"),
    (Fault(reply=faults.cuts_long_prompts), "a prompt that is too long"),
    (Fault(reply=faults.fails_all_together), "the request beside one that fails"),
    (Fault(reply=faults.loses_an_answer), "requests in flight together get their own answers"),
    (Fault(reply=faults.mixes_answers_up), "requests in flight together get their own answers"),
    (
        Fault(reply=faults.verifies_one_draft_at_a_time),
        "drafts in flight together get their own answers",
    ),
    (Fault(reply=faults.loses_the_stopped_request), "a request and its stop"),
    (Fault(reply=faults.ignores_a_stop), "a request and its stop"),
    (Fault(reply=faults.writes_garbage_at_a_stop), "a request and its stop"),
    (Fault(reply=faults.never_acknowledges_a_stop), "the stop of an unknown request"),
    (Fault(reply=faults.acknowledges_with_an_error), "the stop of an unknown request"),
    (Fault(reply=faults.has_no_logits), "logits of one position"),
    (Fault(reply=faults.has_no_logits_of_drafts), "logits of a draft whose severity is right"),
    (
        Fault(reply=faults.has_logits_of_what_was_drafted),
        "logits of a draft whose severity is wrong",
    ),
    (Fault(reply=faults.has_flat_logits), "the largest logit is the token that is written"),
)
# Found only where the engine computes log-probabilities, which the CPU engine does.
FAULTS_OF_SCALE = (
    Fault(reply=faults.has_logits_of_twice_the_scale),
    Fault(reply=faults.has_logits_of_half_the_scale),
)


@pytest.fixture(scope="module")
def files(gpu_slot: Path) -> SlotFiles:
    return SlotFiles.load(gpu_slot)


@pytest.fixture(scope="module")
def target(gpu_triton: TritonProcess, files: SlotFiles, script: Script) -> str:
    """The native stand-in, whose script has all that is asked."""
    [message] = longest_conversation(files.prompt, files.manifest.limits)
    script.answers(SAFE, message.content)
    return gpu_triton.target


@pytest.fixture(scope="module")
def cpu(blue: Path, served: Served) -> "Engine":
    return Engine(served.triton, SlotFiles.load(blue))


class Engine:
    """One engine, asked through each fault once."""

    def __init__(self, target: str, files: SlotFiles) -> None:
        self._target, self._files = target, files
        self._found: dict[str, list[Finding]] = {}

    def right(self) -> list[Finding]:
        if "" not in self._found:
            self._found[""] = list(check_contract(self._target, self._files))
        return self._found[""]

    def wrong(self, fault: Fault) -> list[Finding]:
        if fault.name not in self._found:
            with faulty(self._target, fault) as address:
                self._found[fault.name] = list(check_contract(address, self._files))
        return self._found[fault.name]


@pytest.fixture(scope="module")
def native(target: str, files: SlotFiles) -> Engine:
    return Engine(target, files)


def failing(findings: list[Finding]) -> set[str]:
    return {finding.check for finding in findings if finding.passed is False}


def test_the_cpu_engine_keeps_the_contract(blue: Path, served: Served, tmp_path: Path) -> None:
    report = tmp_path / "contract.json"
    at = served.triton
    done = guard("verify", "contract", str(blue), "--triton", at, "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["passed"] and len(found["findings"]) > 30
    assert done.stdout.splitlines()[-1] == f"Passed: {len(found['findings'])} checks"


def test_the_native_stand_in_keeps_the_contract(native: Engine) -> None:
    findings = native.right()
    assert failing(findings) == set()
    # As TensorRT-LLM, it computes no log-probabilities.
    assert [finding.check for finding in findings if finding.passed is None] == [SCALE]


@pytest.mark.parametrize(
    ("fault", "check"), FAULTS, ids=lambda value: "" if isinstance(value, str) else value.name
)
def test_a_fault_is_found(native: Engine, fault: Fault, check: str) -> None:
    assert check in failing(native.wrong(fault))


@pytest.mark.parametrize("fault", FAULTS_OF_SCALE, ids=lambda fault: fault.name)
def test_logits_of_a_wrong_scale_are_found(cpu: Engine, fault: Fault) -> None:
    assert failing(cpu.wrong(fault)) == {SCALE}


def test_every_check_finds_a_fault(native: Engine, cpu: Engine) -> None:
    """A new check needs a fault of its own, or it may pass whatever the engine does."""
    made = {finding.check for engine in (native, cpu) for finding in engine.right()}
    found = set().union(
        *(failing(native.wrong(fault)) for fault, _ in FAULTS),
        *(failing(cpu.wrong(fault)) for fault in FAULTS_OF_SCALE),
    )
    assert made - found == set()


def test_a_mode_whose_plain_answer_is_wrong_is_skipped_alone(native: Engine) -> None:
    """All else is asked in the other mode."""
    findings = native.wrong(Fault(reply=faults.says_nothing_to_prompts))
    assert failing(findings) == {"prompt: plain"}
    skipped = {each.check for each in native.right()} - {each.check for each in findings}
    assert skipped and all(check.startswith("prompt: ") for check in skipped)


def test_an_engine_that_can_not_be_reached(blue: Path, tmp_path: Path) -> None:
    done = guard("verify", "contract", str(blue), "--triton", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("No Triton answers at 127.0.0.1:1 (")
    assert "leave --triton out: then one is started." in done.stderr
    missing = guard("verify", "contract", str(tmp_path / "none"), "--triton", "127.0.0.1:1")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "manifest.json does not exist" in missing.stderr


def test_a_triton_of_another_slot(target: str, files: SlotFiles) -> None:
    engine = files.manifest.engine.model_copy(update={"triton_model": "guard_green"})
    other = replace(files, manifest=files.manifest.model_copy(update={"engine": engine}))
    with pytest.raises(EngineUnreachable, match=f"{target} does not serve .* guard_green"):
        list(check_contract(target, other))


def test_the_address_of_the_gateway(blue: Path, served: Served) -> None:
    address = f"127.0.0.1:{served.port}"
    done = guard("verify", "contract", str(blue), "--triton", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"The server at {address} does not serve the slot's model" in done.stderr
    assert len(done.stderr.splitlines()) == 1
