"""Building a TensorRT-LLM slot with fake tools: everything that can be checked without a GPU.

tests/support/stand_ins/tensorrt_llm.py has the fakes; docs/gpu.md says what never ran.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from guard_build import BuildFailed, build_slot
from guard_build.tensorrt_llm import EngineBuild, Format
from guard_build.tensorrt_llm.stages import Workspace
from guard_core.engine.tensors import FINGERPRINT_PARAMETER, PERF_OUTPUTS
from guard_core.slot.gpu_host import Machine
from guard_core.slot.manifest import Gpu, Manifest
from tests.support.models.checkpoints import write_checkpoint
from tests.support.shared import SHARED
from tests.support.slots import TINY
from tests.support.stand_ins.tensorrt_llm import MACHINE, FakeTools, accept, engine_build, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "kv_cache", "script"),
    [
        (Format.FP8, "fp8", "quantize.py"),
        (Format.W8A8, "bf16", "quantize.py"),
        (Format.W8A16, "bf16", "convert_checkpoint.py"),
        (Format.BF16, "bf16", "convert_checkpoint.py"),
    ],
)
def test_a_slot_of_each_format(
    fake: FakeTools, tmp_path: Path, kind: Format, kv_cache: str, script: str
) -> None:
    build = engine_build(tmp_path, kind)
    stages: list[str] = []
    manifest = run(build, fake, progress=lambda stage, done, total: stages.append(stage))
    assert fake.ran() == [script, "trtllm-build"]
    prepared = "calibrate" if script == "quantize.py" else "links"
    assert list(dict.fromkeys(stages)) == ["fetch", prepared, "quantize", "compile", "package"]
    assert Manifest.load(build.slot) == manifest
    manifest.check(build.slot)
    assert set(manifest.files) == {
        "chat_template.jinja",
        "tokenizer.json",
        "guard_green/config.pbtxt",
        "guard_green/1/config.json",
        "guard_green/1/rank0.engine",
    }
    engine = manifest.engine
    assert (engine.kind, engine.version, engine.tensorrt) == ("tensorrt-llm", "1.2.1", "10.14.1.48")
    assert (engine.weights, engine.kv_cache, engine.triton_model) == (kind, kv_cache, "guard_green")
    assert engine.gpu == Gpu(name="NVIDIA H100", compute_capability="9.0")
    limits = manifest.limits
    assert (limits.max_input_tokens, limits.max_output_tokens) == (8192, 64)
    assert (limits.max_draft_tokens, limits.max_in_flight, limits.kv_block_tokens) == (16, 64, 32)
    cpu = build_slot(TINY, tmp_path / "blue")
    assert manifest.model == cpu.model  # so that `guard verify` sees the same checkpoint


def test_a_stage_is_skipped_while_its_inputs_are_the_same(fake: FakeTools, tmp_path: Path) -> None:
    build = engine_build(tmp_path)
    first = run(build, fake)
    assert fake.ran() == ["quantize.py", "trtllm-build"]
    assert run(build, fake) == first
    assert fake.ran() == []
    newer = Machine("1.2.1", "10.15.0", MACHINE.gpu)
    run(build, fake, machine=newer)
    assert fake.ran() == ["trtllm-build"]
    ada = Machine("1.2.1", "10.15.0", Gpu(name="NVIDIA L40S", compute_capability="8.9"))
    run(build, fake, machine=ada)
    assert fake.ran() == ["trtllm-build"]
    run(build, fake, machine=newer)
    assert fake.ran() == ["trtllm-build"]
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(build.calibration.read_text().splitlines()[:9]))
    run(engine_build(tmp_path, calibration=few), fake)
    assert fake.ran() == ["quantize.py", "trtllm-build"]
    (build.work / "compile" / "rank0.engine").unlink()
    run(engine_build(tmp_path, calibration=few), fake)
    assert fake.ran() == ["trtllm-build"]


@pytest.mark.parametrize("broken", ["quantize.py", "trtllm-build"])
def test_a_stage_that_fails_leaves_nothing_half_done(
    fake: FakeTools, tmp_path: Path, broken: str
) -> None:
    build = engine_build(tmp_path)
    before = build_slot(TINY, build.slot)
    fake.faults(fail=[broken])
    # ModelOpt's warnings have the cause on their second line.
    shown = r"(?s)failed with exit code 1.*: \nthe true cause\n.*a line.*it broke in the middle"
    with pytest.raises(BuildFailed, match=shown):
        run(build, fake)
    assert Manifest.load(build.slot) == before
    accept(build.slot)
    assert [path.name for path in build.slot.parent.iterdir()] == ["green"]
    assert fake.ran()[-1] == broken
    fake.faults()
    run(build, fake)
    assert fake.ran() == ["quantize.py", "trtllm-build"][broken == "trtllm-build" :]
    assert Manifest.load(build.slot).engine.kind == "tensorrt-llm"


class Stopped(BaseException):
    pass


def test_a_stopped_build_resumes(fake: FakeTools, tmp_path: Path) -> None:
    build = engine_build(tmp_path)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "compile":
            raise Stopped

    with pytest.raises(Stopped):
        run(build, fake, progress=stop)
    assert not build.slot.exists()
    (build.work / "compile.partial").mkdir()
    (build.work / "compile.partial" / "rank0.engine").write_bytes(b"cut sho")
    run(build, fake)
    assert fake.ran() == ["quantize.py", "trtllm-build"]
    assert (build.slot / "guard_green" / "1" / "rank0.engine").read_bytes() == b"an engine"


def test_a_slot_that_fails_verification_is_not_published(fake: FakeTools, tmp_path: Path) -> None:
    build = engine_build(tmp_path)

    def refuse(slot: Path) -> None:
        accept(slot)
        raise BuildFailed("agreement is 0.5")

    with pytest.raises(BuildFailed, match="agreement is"):
        run(build, fake, verify=refuse)
    assert not build.slot.exists()
    assert not list(build.slot.parent.iterdir())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("architecture", "QWenForCausalLM"),
        ("quantization.quant_algo", "W8A16"),
        ("quantization.quant_algo", None),
        ("quantization.kv_cache_quant_algo", "INT8"),
        ("version", "1.1.0"),
        ("pretrained_config.logits_dtype", "float16"),
        ("pretrained_config.quantization.kv_cache_quant_algo", None),
        ("build_config.max_draft_len", 0),
        ("build_config.max_input_len", 1024),
        ("build_config.gather_generation_logits", False),
        ("build_config.speculative_decoding_mode", 1),
        ("build_config.kv_cache_type", "CONTINUOUS"),
        ("build_config.plugin_config.use_paged_context_fmha", False),
        ("build_config.plugin_config.use_paged_context_fmha", 1),
        ("build_config.plugin_config.tokens_per_block", 64),
    ],
)
def test_a_result_that_differs_from_the_recipe(
    fake: FakeTools, tmp_path: Path, path: str, value: Any
) -> None:
    build = engine_build(tmp_path)
    fake.faults(config={path: value})
    with pytest.raises(BuildFailed, match=f"differs from the recipe: {path} is "):
        run(build, fake)
    assert not build.slot.exists()
    fake.faults()
    run(build, fake)  # the wrong result was not kept


def test_another_container_and_an_older_gpu(fake: FakeTools, tmp_path: Path) -> None:
    other = Machine("1.3.0", "10.14.1.48", MACHINE.gpu)
    with pytest.raises(BuildFailed, match=r"has TensorRT-LLM 1.3.0; .* 1.2.1 only. Use nvcr.io"):
        run(engine_build(tmp_path), fake, machine=other)
    a100 = Machine("1.2.1", "10.14.1.48", Gpu(name="NVIDIA A100", compute_capability="8.0"))
    with pytest.raises(BuildFailed, match=r"NVIDIA A100 has 8\.0\. Use w8a8 or w8a16 or bf16"):
        run(engine_build(tmp_path), fake, machine=a100)
    t4 = Machine("1.2.1", "10.14.1.48", Gpu(name="Tesla T4", compute_capability="7.5"))
    with pytest.raises(BuildFailed, match=r"Tesla T4 has 7\.5\. No format fits it"):
        run(engine_build(tmp_path, Format.BF16), fake, machine=t4)
    run(engine_build(tmp_path, Format.W8A8), fake, machine=a100)


def test_checkpoints_that_can_not_be_built(fake: FakeTools, tmp_path: Path) -> None:
    def build(name: str, **changes: Any) -> EngineBuild:
        write_checkpoint(tmp_path / name, **changes)
        checkpoint = engine_build(tmp_path).checkpoint
        other = type(checkpoint)(tmp_path / name, name)
        return engine_build(tmp_path, checkpoint=other)

    with pytest.raises(BuildFailed, match="LlamaForCausalLM"):
        run(build("llama", architectures=["LlamaForCausalLM"]), fake)
    with pytest.raises(BuildFailed, match="1024 positions; a GPU engine is built for 8256"):
        run(build("short"), fake)
    damaged = build("damaged", max_position_embeddings=9000)
    (damaged.checkpoint.directory / "tokenizer.json").unlink()
    with pytest.raises(BuildFailed, match=r"tokenizer\.json does not exist"):
        run(damaged, fake)
    assert fake.ran() == []


def test_a_full_disk(fake: FakeTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage

    def with_free(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=free))

    with_free(1000)
    with pytest.raises(BuildFailed, match=r"0\.0 GB free; the build needs about"):
        run(engine_build(tmp_path), fake)
    assert fake.ran() == []
    with_free(100_000_000)
    fake.faults(fail=["trtllm-build"])
    with pytest.raises(BuildFailed, match=r"is full\. Free some space"):
        run(engine_build(tmp_path), fake)


def test_a_disk_that_fills_up_while_a_stage_writes(tmp_path: Path) -> None:
    def fill(directory: Path) -> None:
        (directory / "first").write_text("some")
        Path("/dev/full").write_text("more")

    workspace = Workspace(tmp_path, lambda stage, done, total: None)
    with pytest.raises(BuildFailed, match=r"is full\. Free some space"):
        workspace.stage("calibrate", {}, fill)
    assert not workspace.path("calibrate").exists()


def test_tools_that_are_not_there(fake: FakeTools, tmp_path: Path) -> None:
    Path(fake.tools.trtllm_build).unlink()
    with pytest.raises(BuildFailed, match="this is not the pinned container"):
        run(engine_build(tmp_path), fake)


def test_both_engines_have_the_same_tensor_contract(fake: FakeTools, tmp_path: Path) -> None:
    build = engine_build(tmp_path)
    run(build, fake)
    build_slot(TINY, tmp_path / "green")
    gpu, cpu = (
        text_format.Parse(
            (slot / "guard_green" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
        for slot in (build.slot, tmp_path / "green")
    )
    assert (gpu.backend, cpu.backend) == ("tensorrtllm", "python")
    assert gpu.parameters["gpt_model_path"].string_value == "guard_green/1"
    assert {**cpu.parameters}.keys() <= {**gpu.parameters}.keys()
    for config in (gpu, cpu):
        config.ClearField("backend")
        config.ClearField("parameters")
    assert gpu == cpu
    assert gpu.model_transaction_policy.decoupled
    assert (gpu.max_batch_size, len(gpu.input), len(gpu.output)) == (64, 17, 15)
    declared = {output.name: output for output in gpu.output}
    for name, kind in PERF_OUTPUTS.items():
        assert declared[name].data_type == model_config_pb2.DataType.Value(f"TYPE_{kind}")
        assert declared[name].dims == [1]


@pytest.mark.reference
def test_the_gpu_model_has_the_backends_known_configuration(
    fake: FakeTools, tmp_path: Path
) -> None:
    build = engine_build(tmp_path)
    run(build, fake)
    known, ours = (
        text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        for path in (
            SHARED / "reference" / "trtllm" / "minimal_config.pbtxt",
            build.slot / "guard_green" / "config.pbtxt",
        )
    )
    assert ours.parameters.pop(FINGERPRINT_PARAMETER).string_value  # gateways read it, no engine
    assert {**ours.parameters}.keys() == {**known.parameters}.keys()
    for config in (known, ours):
        config.name = ""
        config.parameters["gpt_model_path"].string_value = ""
    # What was recorded lacks seven of the performance outputs, which its facts correct.
    recorded = {output.name for output in known.output}
    lacking = [output for output in ours.output if output.name not in recorded]
    assert {output.name for output in lacking} < PERF_OUTPUTS.keys()
    for output in lacking:
        ours.output.remove(output)
    assert ours == known
