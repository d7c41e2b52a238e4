"""What a build would run and write, on any machine: rendered and checked, but nothing is run."""

import shlex
from collections.abc import Iterator

from guard_build.slot_directory import triton_model_name
from guard_build.tensorrt_llm import engine_config
from guard_build.tensorrt_llm.calibrate import FILE_NAME, calibration_rows
from guard_build.tensorrt_llm.commands import MAX_IN_FLIGHT, Tools
from guard_build.tensorrt_llm.engine_build import (
    EngineBuild,
    load_calibration,
    load_packaging,
    stage_commands,
)
from guard_build.tensorrt_llm.links import HEAD_SHARD, missing_head
from guard_build.tensorrt_llm.package import render_model
from guard_build.tensorrt_llm.stages import Workspace
from guard_core.slot import manifest as m


def dry_run(build: EngineBuild, tools: Tools) -> Iterator[str]:
    """Yields every command and file of a build as text lines, and the rendered config.pbtxt.

    The checkpoint need not exist yet; if it does, the calibration data are rendered too. Raises
    BuildFailed as the build would, and for a name that TensorRT-LLM does not know.
    """
    model = triton_model_name(build.slot)
    workspace = Workspace(build.work, _silent)
    commands = stage_commands(build, tools, workspace)
    config = render_model(model, MAX_IN_FLIGHT)
    yield f"fetch      read and hash {build.checkpoint.directory}"
    yield from _before_quantize(build, workspace)
    for name, command in commands.items():
        yield f"{name:<10} {shlex.join(command.line)}"
        yield f"           then rename it to {workspace.path(name)}; log: {workspace.log(name)}"
    yield f"package    {build.checkpoint.name} as {build.slot}, which is replaced:"
    for path in (m.FILE_NAME, m.TEMPLATE, m.TOKENIZER, f"{model}/config.pbtxt"):
        yield f"           {build.slot / path}"
    for path in (engine_config.ENGINE, engine_config.CONFIG):
        yield f"           {build.slot / model / '1' / path}"
    yield "verify     guard verify, before the slot is replaced"
    yield f"{model}/config.pbtxt, its names checked:"
    yield from (f"    {line}" for line in config.splitlines())


def _before_quantize(build: EngineBuild, workspace: Workspace) -> Iterator[str]:
    here = build.checkpoint.directory.is_dir()
    if build.recipe.calibrated:
        path, examples = workspace.path("calibrate") / FILE_NAME, load_calibration(build)
        yield f"calibrate  write {path}: {len(examples)} conversations"
        if here:
            rows = calibration_rows(examples, load_packaging(build))
            yield (
                f"           packed into {len(rows.tokens)} rows of at most {max(rows.tokens)} "
                f"tokens, {rows.padding:.1%} of them padding"
            )
        return
    yield f"links      link the checkpoint's files into {workspace.path('links')}"
    if here:
        load_packaging(build)
    if here and missing_head(build.checkpoint.directory) is not None:
        shard = workspace.path("links") / HEAD_SHARD
        yield f"           and write the head, which is tied to the embedding: {shard}"


def _silent(stage: str, done: int, total: int) -> None:
    """Ignores the progress: nothing runs."""
