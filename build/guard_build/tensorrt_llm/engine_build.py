"""Checkpoint -> TensorRT-LLM engine -> slot, stage by stage.

fetch      hash every file of the checkpoint
calibrate  render conversations with their verdicts as the model reads them (fp8, w8a8)
quantize   run ModelOpt's quantize.py, or convert_checkpoint.py
compile    run trtllm-build, and compare the engine's config.json with the recipe
package    write config.pbtxt, template, tokenizer and manifest
verify     compare the packaged slot with a reference, before it replaces the slot of its name
"""

import errno
import hashlib
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from guard_build.checkpoint import Packaging, hash_files, read_packaging
from guard_build.errors import BuildFailed
from guard_build.hub import Checkpoint
from guard_build.progress import Progress
from guard_build.slot_directory import replacing, triton_model_name
from guard_build.tensorrt_llm import commands, engine_config
from guard_build.tensorrt_llm.calibrate import FILE_NAME, check_path, write_calibration
from guard_build.tensorrt_llm.flags import VERSION
from guard_build.tensorrt_llm.formats import RECIPES, Format, Recipe
from guard_build.tensorrt_llm.package import package
from guard_build.tensorrt_llm.stages import Workspace
from guard_core.slot import manifest as m
from guard_core.slot.gpu_host import Machine
from guard_engine import CheckpointInvalid, read_config
from guard_eval.datasets import load_examples
from guard_eval.errors import DataInvalid
from guard_eval.rows import Example

_MOST_CALIBRATION_ROWS = 512
_DISK_FACTOR = 2  # times the weights: quantized checkpoint and engine, each at most in bf16


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """A slot to build: its checkpoint, format and directories.

    `work` keeps the results of the stages. `calibration` is a JSON Lines file of conversations.
    """

    checkpoint: Checkpoint
    slot: Path
    kind: Format
    recipe: Recipe
    work: Path
    calibration: Path


def plan(build: EngineBuild, tools: commands.Tools) -> Iterator[str]:
    """Yields every command and file of a build as text lines, without running anything.

    Raises BuildFailed as the build would. The checkpoint need not exist yet.
    """
    model = triton_model_name(build.slot)
    workspace = Workspace(build.work, _silent)
    items = _calibration_items(build)
    yield f"fetch      read and hash {build.checkpoint.directory}"
    if build.recipe.calibrated:
        yield f"calibrate  write {workspace.path('calibrate') / FILE_NAME}: {len(items)} rows"
    for name, command in _commands(build, tools, workspace, len(items)).items():
        yield f"{name:<10} {shlex.join(command.line)}"
        yield f"           then rename it to {workspace.path(name)}; log: {workspace.log(name)}"
    yield f"package    {build.checkpoint.name} as {build.slot}, which is replaced:"
    for path in (m.FILE_NAME, m.TEMPLATE, m.TOKENIZER, f"{model}/config.pbtxt"):
        yield f"           {build.slot / path}"
    for path in (engine_config.ENGINE, engine_config.CONFIG):
        yield f"           {build.slot / model / '1' / path}"
    yield "verify     guard verify, before the slot is replaced"


def build_engine(
    build: EngineBuild,
    *,
    tools: commands.Tools,
    machine: Machine,
    verify: Callable[[Path], None],
    progress: Progress,
) -> m.Manifest:
    """Builds the engine and packages it as `build.slot`, which is unchanged if the build fails.

    `verify` gets the directory of the packaged slot and raises BuildFailed to reject it. After a
    failure, a second call resumes at the stage that failed. Raises BuildFailed.
    """
    triton_model = triton_model_name(build.slot)
    _check_machine(build, machine)
    items, packaging = _calibration_items(build), _packaging(build)
    workspace = Workspace(build.work, progress)
    hashes = hash_files(build.checkpoint.directory, partial(progress, "fetch"))
    _check_disk(build, workspace)
    _calibrate(build, workspace, items, packaging)
    engine = _quantize_and_compile(build, tools, machine, workspace, hashes, len(items))
    model = m.Model(
        name=packaging.name,
        demonstration=packaging.demonstration,
        checkpoint=hashes,
        source=build.checkpoint.source,
    )
    try:
        with replacing(build.slot) as new:
            progress("package", 0, 1)
            manifest = package(
                new,
                engine,
                triton_model=triton_model,
                kind=build.kind,
                recipe=build.recipe,
                machine=machine,
                packaging=packaging,
                model=model,
            )
            progress("package", 1, 1)
            verify(new)
    except OSError as error:
        advice = " Free some space there." if error.errno == errno.ENOSPC else ""
        raise BuildFailed(f"{build.slot} could not be written: {error}.{advice}") from error
    return manifest


def _quantize_and_compile(
    build: EngineBuild,
    tools: commands.Tools,
    machine: Machine,
    workspace: Workspace,
    hashes: dict[str, str],
    rows: int,
) -> Path:
    """Runs the stages quantize and compile. Returns the engine's directory."""
    inputs: dict[str, object] = {
        "checkpoint": hashes,
        "calibration": _digest(build.calibration) if build.recipe.calibrated else None,
        "tensorrt_llm": machine.tensorrt_llm,
    }
    for name, command in _commands(build, tools, workspace, rows).items():
        inputs[name] = command.line
        if name == "compile":
            inputs |= {"tensorrt": machine.tensorrt, "gpu": machine.gpu.compute_capability}
        run = partial(_run, workspace, name, command, build.recipe)
        engine = workspace.stage(name, inputs, run)
    return engine


def _run(
    workspace: Workspace, name: str, command: commands.Command, recipe: Recipe, directory: Path
) -> None:
    workspace.run(name, command)
    check = engine_config.read_engine if name == "compile" else engine_config.check_quantized
    check(directory, recipe)


def _commands(
    build: EngineBuild, tools: commands.Tools, workspace: Workspace, rows: int
) -> dict[str, commands.Command]:
    calibration = workspace.path("calibrate"), min(rows, _MOST_CALIBRATION_ROWS)
    checkpoint = build.checkpoint.directory.resolve()
    quantized = workspace.partial("quantize")
    engine = workspace.partial("compile")
    return {
        "quantize": commands.quantize(tools, build.recipe, checkpoint, quantized, calibration),
        "compile": commands.compile_engine(tools, build.recipe, workspace.path("quantize"), engine),
    }


def _calibrate(
    build: EngineBuild, workspace: Workspace, items: tuple[Example, ...], packaging: Packaging
) -> None:
    if not build.recipe.calibrated:
        return
    tokenizer = packaging.tokenizer.decode()
    texts = (packaging.template.encode(), packaging.tokenizer)
    inputs = {
        "conversations": _digest(build.calibration),
        "checkpoint": [hashlib.sha256(data).hexdigest() for data in texts],
        "end": packaging.end_ids[0],
    }

    def fill(directory: Path) -> None:
        write_calibration(items, packaging.template, tokenizer, packaging.end_ids[0], directory)

    workspace.stage("calibrate", inputs, fill)


def _calibration_items(build: EngineBuild) -> tuple[Example, ...]:
    """The conversations to calibrate on; empty if the format needs none."""
    if not build.recipe.calibrated:
        return ()
    check_path(build.work)
    try:
        return load_examples(build.calibration)
    except DataInvalid as error:
        raise BuildFailed(str(error)) from error


def _packaging(build: EngineBuild) -> Packaging:
    directory = build.checkpoint.directory
    needed = commands.MAX_INPUT_TOKENS + commands.MAX_OUTPUT_TOKENS
    try:
        positions = read_config(directory).max_positions
    except CheckpointInvalid as error:
        raise BuildFailed(str(error)) from error
    if positions < needed:
        raise BuildFailed(
            f"The model has {positions} positions; a GPU engine is built for {needed}."
        )
    return read_packaging(directory, build.checkpoint.name)


def _check_machine(build: EngineBuild, machine: Machine) -> None:
    if machine.tensorrt_llm != VERSION:
        raise BuildFailed(
            f"This container has TensorRT-LLM {machine.tensorrt_llm}; engines are built and served "
            f"with {VERSION} only. Use {commands.IMAGE}."
        )
    major, minor = map(int, machine.gpu.compute_capability.split("."))
    if (major, minor) < build.recipe.least_compute_capability:
        least = ".".join(map(str, build.recipe.least_compute_capability))
        fitting = [k for k, r in RECIPES.items() if r.least_compute_capability <= (major, minor)]
        advice = f"Use {' or '.join(fitting)}." if fitting else "No format fits it."
        raise BuildFailed(
            f"--format {build.kind} needs a GPU of compute capability {least} or more; "
            f"{machine.gpu.name} has {machine.gpu.compute_capability}. {advice}"
        )


def _check_disk(build: EngineBuild, workspace: Workspace) -> None:
    """Raises BuildFailed if the disk is too small, before hours are spent on the build."""
    if workspace.path("compile").exists():
        return
    build.work.mkdir(parents=True, exist_ok=True)
    weights = sum(path.stat().st_size for path in build.checkpoint.directory.glob("*.safetensors"))
    free = shutil.disk_usage(build.work).free
    if free < _DISK_FACTOR * weights:
        raise BuildFailed(
            f"{build.work} has {free / 1e9:.1f} GB free; the build needs about "
            f"{_DISK_FACTOR * weights / 1e9:.1f} GB. Free some space, or choose a directory on "
            "another disk with --work."
        )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _silent(stage: str, done: int, total: int) -> None:
    """Ignores the progress: a plan runs nothing."""
