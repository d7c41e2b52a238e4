"""Checkpoint -> TensorRT-LLM engine -> slot, stage by stage.

fetch      hash every file of the checkpoint
calibrate  render conversations with their verdicts as the model reads them (fp8, w8a8)
links      link the checkpoint's files, and write an output head where it lacks one (w8a16, bf16)
quantize   run ModelOpt's quantize.py, or convert_checkpoint.py
compile    run trtllm-build, and compare the engine's config.json with the recipe
package    write config.pbtxt, template, tokenizer and manifest
verify     compare the packaged slot with a reference, before it replaces the slot of its name
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from guard_build.checkpoint import Packaging, hash_files
from guard_build.errors import BuildFailed
from guard_build.progress import Progress
from guard_build.slot_directory import replacing
from guard_build.tensorrt_llm import engine_config
from guard_build.tensorrt_llm.calibrate import FILE_NAME, calibration_rows
from guard_build.tensorrt_llm.commands import MAX_CALIBRATION_TOKENS, Command, Tools
from guard_build.tensorrt_llm.formats import Recipe
from guard_build.tensorrt_llm.links import missing_head, write_links
from guard_build.tensorrt_llm.package import package
from guard_build.tensorrt_llm.plan import EngineBuild, load_packaging, make_plan
from guard_build.tensorrt_llm.stages import Workspace
from guard_core.slot import manifest as m
from guard_core.slot.gpu_host import Machine
from guard_eval.rows import Example

_DISK_FACTOR = 2  # times the weights: quantized checkpoint and engine, each at most in bf16
_HEAD_FACTOR = 3  # times a tied head, which both hold apart, and the stage links


def build_engine(
    build: EngineBuild,
    *,
    tools: Tools,
    machine: Machine,
    verify: Callable[[Path], None],
    progress: Progress,
) -> m.Manifest:
    """Builds the engine and packages it as `build.slot`, which is unchanged if the build fails.

    `verify` gets the directory of the packaged slot and raises BuildFailed to reject it. After a
    failure, a second call resumes at the stage that failed. Raises BuildFailed.
    """
    plan = make_plan(build, tools, machine)
    workspace = Workspace(build.work, progress)
    packaging = load_packaging(build)
    hashes = hash_files(build.checkpoint.directory, partial(progress, "fetch"))
    _check_disk(build, workspace)
    if build.recipe.calibrated:
        _calibrate(build, workspace, plan.examples, packaging)
    else:
        links = partial(write_links, build.checkpoint.directory)
        workspace.stage("links", {"checkpoint": hashes}, links)
    engine = _quantize_and_compile(build, plan.commands, machine, workspace, hashes)
    model = m.Model(
        name=packaging.name,
        demonstration=packaging.demonstration,
        checkpoint=hashes,
        source=build.checkpoint.source,
    )
    with replacing(build.slot) as new:
        progress("package", 0, 1)
        manifest = package(
            new,
            engine,
            triton_model=plan.triton_model,
            config=plan.config,
            kind=build.kind,
            recipe=build.recipe,
            machine=machine,
            packaging=packaging,
            model=model,
        )
        progress("package", 1, 1)
        verify(new)
    return manifest


def _quantize_and_compile(
    build: EngineBuild,
    commands: Mapping[str, Command],
    machine: Machine,
    workspace: Workspace,
    hashes: dict[str, str],
) -> Path:
    """Runs the stages quantize and compile. Returns the engine's directory."""
    calibration = workspace.path("calibrate") / FILE_NAME
    inputs: dict[str, object] = {
        "checkpoint": hashes,
        "calibration": _digest(calibration) if build.recipe.calibrated else None,
        "tensorrt_llm": machine.tensorrt_llm,
    }
    for name, command in commands.items():
        inputs[name] = command.line
        if name == "compile":
            inputs |= {"tensorrt": machine.tensorrt, "gpu": machine.gpu.compute_capability}
        run = partial(_run, workspace, name, command, build.recipe)
        engine = workspace.stage(name, inputs, run)
    return engine


def _run(
    workspace: Workspace, name: str, command: Command, recipe: Recipe, directory: Path
) -> None:
    workspace.run(name, command)
    check = engine_config.read_engine if name == "compile" else engine_config.check_quantized
    check(directory, recipe)


def _calibrate(
    build: EngineBuild, workspace: Workspace, examples: Sequence[Example], packaging: Packaging
) -> None:
    texts = (packaging.template.encode(), packaging.tokenizer)
    inputs = {
        "conversations": _digest(build.calibration),
        "checkpoint": [hashlib.sha256(data).hexdigest() for data in texts],
        "end": packaging.end_ids[0],
        "row_tokens": MAX_CALIBRATION_TOKENS,
    }

    def fill(directory: Path) -> None:
        calibration_rows(examples, packaging).write(directory)

    workspace.stage("calibrate", inputs, fill)


def _check_disk(build: EngineBuild, workspace: Workspace) -> None:
    """Raises BuildFailed if the disk is too small, before hours are spent on the build."""
    if workspace.path("compile").exists():
        return
    build.work.mkdir(parents=True, exist_ok=True)
    weights = sum(path.stat().st_size for path in build.checkpoint.directory.glob("*.safetensors"))
    head = missing_head(build.checkpoint.directory)
    needed = _DISK_FACTOR * weights + _HEAD_FACTOR * (head.nbytes if head else 0)
    free = shutil.disk_usage(build.work).free
    if free < needed:
        raise BuildFailed(
            f"{build.work} has {free / 1e9:.1f} GB free; the build needs about "
            f"{needed / 1e9:.1f} GB. Free some space, or choose a directory on "
            "another disk with --work."
        )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
