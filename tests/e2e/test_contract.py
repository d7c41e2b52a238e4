"""`guard verify contract`: right on both engines, and every fault of an engine is found."""

import json
from pathlib import Path

import pytest

from guard_control.triton_process import TritonProcess
from guard_core.slot.slot_files import SlotFiles
from guard_eval.contract import Finding, check_contract, longest_conversation
from tests.support.commands import guard
from tests.support.serving import Served
from tests.support.stand_ins.faulty_engine import Exchange, Fault, Tensors, faulty
from tests.support.stand_ins.native_engine import Script

pytestmark = pytest.mark.triton
SAFE = "Safety: Safe\nCategories: None"
WHOLE = 64


@pytest.fixture(scope="module")
def files(gpu_slot: Path) -> SlotFiles:
    return SlotFiles.load(gpu_slot)


@pytest.fixture(scope="module")
def target(gpu_triton: TritonProcess, files: SlotFiles, script: Script) -> str:
    """The native stand-in, whose script has all that is asked."""
    [message] = longest_conversation(files.prompt, files.manifest.limits)
    script.answers(SAFE, message.content)
    return gpu_triton.target


def test_the_cpu_engine_keeps_the_contract(blue: Path, served: Served, tmp_path: Path) -> None:
    report = tmp_path / "contract.json"
    at = f"127.0.0.1:{served.triton_port}"
    done = guard("verify", "contract", str(blue), "--triton", at, "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["passed"] and len(found["findings"]) > 30
    assert done.stdout.splitlines()[-1] == f"Passed: {len(found['findings'])} checks"


def test_the_native_stand_in_keeps_the_contract(target: str, files: SlotFiles) -> None:
    assert failing(check_all(target, files)) == []


# ---- faults, each in all requests


def returns_the_end(exchange: Exchange) -> None:
    if "draft_input_ids" not in exchange.inputs and "output_ids" in exchange.outputs:
        ids = exchange.outputs["output_ids"]
        if len(ids) < exchange.inputs["request_output_len"][0]:
            exchange.answer([*ids, exchange.inputs["end_id"][0]])


def leaves_its_own_token_out(exchange: Exchange) -> None:
    if "draft_input_ids" in exchange.inputs and "output_ids" in exchange.outputs:
        draft, ids = exchange.inputs["draft_input_ids"], exchange.outputs["output_ids"]
        if draft[: len(ids)] != ids:
            exchange.answer(ids[:-1])


def agrees_to_every_draft(exchange: Exchange) -> None:
    if "draft_input_ids" in exchange.inputs:
        exchange.answer(exchange.inputs["draft_input_ids"][:-1])


def ignores_drafts(inputs: Tensors) -> None:
    if "draft_input_ids" in inputs:
        inputs.remove("draft_input_ids")


def ignores_the_limit(inputs: Tensors) -> None:
    if "draft_input_ids" not in inputs:
        inputs["request_output_len"] = [WHOLE]


def ends_after_one_token(exchange: Exchange) -> None:
    if "output_ids" in exchange.outputs:
        exchange.answer(exchange.outputs["output_ids"][:1])


def counts_the_prompt(exchange: Exchange) -> None:
    if "sequence_length" in exchange.outputs:
        length = exchange.outputs["sequence_length"][0]
        exchange.outputs["sequence_length"] = [length + exchange.inputs["input_lengths"][0]]


def reuses_nothing(exchange: Exchange) -> None:
    if "kv_cache_reused_blocks" in exchange.outputs:
        exchange.outputs["kv_cache_reused_blocks"] = [0]


def lacks_an_output(exchange: Exchange) -> None:
    if "first_token_time_ns" in exchange.outputs:
        exchange.outputs.remove("first_token_time_ns")


def has_another_type(exchange: Exchange) -> None:
    if "acceptance_rate" in exchange.outputs:
        exchange.outputs.retype("acceptance_rate", "INT32")


def writes_an_undeclared_output(exchange: Exchange) -> None:
    exchange.message.ClearField("infer_response")
    exchange.message.infer_response.id = exchange.request.id
    exchange.message.error_message = "unexpected inference output 'arrival_time_ns' for model"


def has_no_logits(exchange: Exchange) -> None:
    if "generation_logits" in exchange.outputs:
        exchange.outputs.remove("generation_logits")


def has_flat_logits(exchange: Exchange) -> None:
    if "generation_logits" in exchange.outputs:
        exchange.outputs["generation_logits"] = [0.0] * len(exchange.outputs["generation_logits"])


def cuts_long_prompts(exchange: Exchange) -> None:
    if exchange.message.error_message.startswith("Prompt length"):
        exchange.message.error_message = ""
        response = exchange.message.infer_response
        for name in ("output_ids", "sequence_length"):
            response.outputs.add(name=name, datatype="INT32", shape=[1, 1])
            response.raw_output_contents.append(b"")
        exchange.answer([7])


def begins_again(exchange: Exchange) -> None:
    if "output_ids" in exchange.outputs and not exchange.outputs["output_ids"]:
        exchange.answer([7])


def never_acknowledges_a_stop(exchange: Exchange) -> bool:
    return "output_ids" in exchange.outputs or bool(exchange.message.error_message)


def loses_the_stopped_request(exchange: Exchange) -> bool:
    return not exchange.stopped or "output_ids" not in exchange.outputs


def loses_an_answer(exchange: Exchange) -> bool:
    return exchange.inputs["request_output_len"] != [3] or "draft_input_ids" in exchange.inputs


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (Fault(reply=returns_the_end), "prompt: the end token is not returned"),
        (Fault(reply=leaves_its_own_token_out), "prompt: a draft that is wrong at token 1"),
        (Fault(reply=agrees_to_every_draft), "prompt: a draft that is wrong at token 3"),
        (Fault(ask=ignores_drafts), "prompt: a draft that is wrong at token 1"),
        (Fault(ask=ignores_the_limit), "no more tokens than asked for"),
        (Fault(reply=ends_after_one_token), "prompt: plain"),
        (Fault(reply=counts_the_prompt), "prompt: plain"),
        (Fault(reply=reuses_nothing), "prompt: from reused blocks"),
        (Fault(reply=lacks_an_output), "prompt: all outputs, with their types and shapes"),
        (Fault(reply=has_another_type), "prompt: all outputs, with their types and shapes"),
        (Fault(reply=writes_an_undeclared_output), "prompt: plain"),
        (Fault(reply=has_no_logits), "logits of one position"),
        (Fault(reply=has_flat_logits), "the largest logit is the token that is written"),
        (Fault(reply=cuts_long_prompts), "a prompt that is too long"),
        (Fault(reply=begins_again), "the rest of an answer after all"),
        (Fault(reply=never_acknowledges_a_stop), "the stop of an unknown request"),
        (Fault(reply=loses_the_stopped_request), "a request and its stop"),
        (Fault(reply=loses_an_answer), "requests in flight together get their own answers"),
    ],
    ids=lambda value: "" if isinstance(value, str) else name_of(value),
)
def test_a_fault_is_found(target: str, files: SlotFiles, fault: Fault, check: str) -> None:
    with faulty(target, fault) as address:
        assert check in failing(check_all(address, files))


def test_an_engine_that_can_not_be_reached(blue: Path, tmp_path: Path) -> None:
    done = guard("verify", "contract", str(blue), "--triton", "127.0.0.1:1")
    assert done.returncode == 1
    assert "The stream broke off" in done.stdout
    assert "does not keep the contract: 1 of 1 checks failed" in done.stderr
    missing = guard("verify", "contract", str(tmp_path / "none"), "--triton", "127.0.0.1:1")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "manifest.json does not exist" in missing.stderr


def name_of(fault: Fault) -> str:
    changed = fault.ask if fault.reply.__name__ == "<lambda>" else fault.reply
    return str(changed.__name__)


def check_all(target: str, files: SlotFiles) -> list[Finding]:
    return list(check_contract(target, files))


def failing(findings: list[Finding]) -> list[str]:
    return [finding.check for finding in findings if not finding.passed]
