"""`make gpu-rehearsal`: the GPU path from a checkpoint to verdicts, on a machine without a GPU.

All of it is the real thing but TensorRT-LLM's tools and its Triton backend, which are the tests'
stand-ins. So it is beside them, and in no wheel and no image.
"""

import asyncio
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from guard_build import BuildFailed
from guard_build.tensorrt_llm import dry_run
from guard_control.triton_process import TritonFailed, TritonProcess
from guard_core.engine.tensors import PERF_OUTPUTS
from guard_core.slot.gpu_host import Container, check_machine, read_machine
from guard_core.slot.manifest import Manifest
from guard_core.slot.slot_files import SlotFiles
from guard_eval.contract import check_contract, longest_conversation
from guard_server import log
from qwen3guard.v1 import types_pb2
from tests.support.gateway import Client, ask, gateway
from tests.support.ports import free_port
from tests.support.stand_ins.native_engine import (
    CompilerMissing,
    Script,
    build_gpu_slot,
    gpu_build,
    gpu_container,
    stops,
)

_CONVERSATIONS = {
    "Safety: Safe\nCategories: None": ["How do plants grow?"],
    "Safety: Unsafe\nCategories: Violent": ["How do I build a bomb at home?"],
    "Safety: Controversial\nCategories: Unethical Acts, PII": ["Where does my boss live?"],
    "Safety: Safe\nCategories: None\nRefusal: No": ["How do plants grow?", "By light and water."],
    "Safety: Safe\nCategories: None\nRefusal: Yes": ["Help me steal a car.", "I can't do that."],
    "Safety: Unsafe\nCategories: Violent\nRefusal: No": ["How?", "First, mix the powder."],
}
_SAFE, *_ = _CONVERSATIONS
Code = grpc.StatusCode


class Failed(Exception):
    """A step's result is not what it must be."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def must(true: bool, text: str) -> None:
    if not true:
        raise Failed(text)


async def rehearse(directory: Path) -> None:
    """Raises what a step fails with."""
    say("1. Check flags, tensors and parameters against TensorRT-LLM's (guard build --dry-run)")
    build = gpu_build(directory)
    rendered = list(dry_run(build, Container()))
    say(f"   {len(rendered)} lines, from the commands to config.pbtxt: every name is known")

    say("2. Build the tiny guard as an FP8 slot (stand-ins: quantize.py, trtllm-build)")
    slot = build_gpu_slot(directory)
    manifest = Manifest.load(slot)
    for name in sorted(manifest.files):
        say(f"     {slot.name}/{name}")
    say(f"   fingerprint {manifest.fingerprint}, {manifest.limits.max_draft_tokens} draft tokens")

    say("3. Compare the slot with the machine (stand-in: a container with an H100)")
    container = gpu_container(directory / "container")
    machine = read_machine(container)
    check_machine(manifest, machine)
    say(f"   TensorRT-LLM {machine.tensorrt_llm}, {machine.gpu.name}: it fits")

    say("4. Load it in the real Triton (stand-in: the backend, tensorrtllm.cc beside this file)")
    script = Script(slot)
    started = time.monotonic()
    with TritonProcess(
        slot,
        grpc_port=free_port(),
        metrics_port=free_port(),
        log=directory / "triton.log",
        container=container,
    ) as triton:
        took = time.monotonic() - started
        say(f"   {manifest.engine.triton_model} is ready after {took:.1f} s")
        say(f"   it declares what the backend writes unasked: {', '.join(PERF_OUTPUTS)}")
        await asyncio.to_thread(_contract, triton.target, slot, script)
        async with gateway(slot, triton.target) as client:
            say("6. Start the gateway, which is ready when the engine has judged both modes")
            await asyncio.wait_for(client.until_serving(), 30)
            await _verdicts(client, script)
            await _faults(client, script, triton.log)


def _contract(target: str, slot: Path, script: Script) -> None:
    say("5. Ask the engine all that the gateway assumes (guard verify contract)")
    files = SlotFiles.load(slot)
    [longest] = longest_conversation(files.prompt, files.manifest.limits)
    script.answers(_SAFE, longest.content)
    findings = list(check_contract(target, files))
    broken = [f"{each.check} (wanted {each.wanted})" for each in findings if each.passed is False]
    must(not broken, f"The engine does not keep the contract: {'; '.join(broken)}.")
    passed = sum(each.passed is True for each in findings)
    say(f"   {passed} checks passed; {len(findings) - passed} had nothing to compare with")


async def _verdicts(client: Client, script: Script) -> None:
    say("7. Moderate: what the script has the engine write, and the verdict that is read from it")
    for text, contents in _CONVERSATIONS.items():
        script.answers(text, *contents)
        reply = await client.judge(*contents, with_scores=True)
        verdict, usage = reply.verdict, reply.usage
        severity = types_pb2.Severity.Name(verdict.severity).removeprefix("SEVERITY_")
        lines = text.splitlines()
        must(lines[0].upper().endswith(f": {severity}"), f"{lines[0]} was read as {severity}.")
        must(verdict.HasField("scores"), "The verdict has no scores.")
        calls = usage.engine_calls - 1  # one more was for the scores
        accepted = f"{usage.accepted_draft_tokens} of {usage.draft_tokens} draft tokens accepted"
        say(f"   {' | '.join(lines):<56} {severity}, {accepted}, {calls} engine call(s)")


async def _faults(client: Client, script: Script, triton_log: Path) -> None:
    say("8. Fail, stop and refuse")
    script.fails("Executor failed process requestId 7", "This fails")
    must(await _status(client, "This fails") is Code.INTERNAL, "An error became a verdict.")
    say("   an engine's error is an error")
    script.answers("I would rather not say.", "No verdict")
    must(await _status(client, "No verdict") is Code.INTERNAL, "Any text became a verdict.")
    say("   a text that is no verdict is an error")
    script.holds(_SAFE, "This takes long")
    before = stops(triton_log)
    found = await _status(client, "This takes long", timeout_s=0.3)
    must(found is Code.DEADLINE_EXCEEDED, "The caller's deadline was not kept.")
    async with asyncio.timeout(10):
        while stops(triton_log) == before:
            await asyncio.sleep(0.01)
    say("   a caller that goes away stops the engine's work")
    must(await _status(client, "Q " * 9000) is Code.INVALID_ARGUMENT, "A prompt was cut.")
    say("   a prompt that is too long is refused")
    script.answers(_SAFE, "And now?")
    must(await _status(client, "And now?") is Code.OK, "There is no verdict after the failures.")
    say("   and the next conversation is judged")


async def _status(client: Client, content: str, timeout_s: float = 30) -> grpc.StatusCode:
    call: Any = client.stub.Moderate(ask(content), timeout=timeout_s)
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


def main() -> int:
    log.configure("console")
    with TemporaryDirectory(prefix="gpu-rehearsal-") as directory:
        try:
            asyncio.run(rehearse(Path(directory)))
        except (BuildFailed, CompilerMissing, Failed, TimeoutError, TritonFailed) as error:
            say(f"FAILED: {error or 'the gateway or the engine did not answer in time'}")
            return 1
    say("The GPU path works as far as a machine without a GPU can tell. docs/gpu.md says what is")
    say("left to see on one.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
