"""What a build would run and write, on any machine: rendered and checked, but nothing is run."""

import shlex
import shutil
from collections.abc import Iterator

from guard_build.checkpoint import Packaging
from guard_build.slot_directory import SEAL
from guard_build.tensorrt_llm import engine_config
from guard_build.tensorrt_llm.calibrate import FILE_NAME, calibration_rows
from guard_build.tensorrt_llm.commands import Tools, find_tools
from guard_build.tensorrt_llm.links import HEAD_SHARD, missing_head
from guard_build.tensorrt_llm.plan import EngineBuild, Plan, load_packaging, make_plan
from guard_build.tensorrt_llm.stages import StagePaths
from guard_core.slot import manifest as m
from guard_core.slot.gpu_host import Container

_PYTHON = "/opt/venv-tritonserver/bin/python3"  # in NVIDIA's container


def dry_run(build: EngineBuild, container: Container) -> Iterator[str]:
    """Yields every command and file of a build as text lines, and the rendered config.pbtxt.

    Neither the checkpoint nor the container need be here; what is here is checked, and the
    calibration data are rendered. Raises BuildFailed as the build would, and MachineUnfit if
    `trtllm-build` is here and names no Python.
    """
    here = shutil.which(container.trtllm_build) is not None
    tools = (
        find_tools(container)
        if here
        else Tools(_PYTHON, container.examples, container.trtllm_build)
    )
    plan, paths = make_plan(build, tools, None), StagePaths(build.work)
    packaging = load_packaging(build) if build.checkpoint.directory.is_dir() else None
    why = "trtllm-build names it" if here else "as in NVIDIA's container: no trtllm-build is here"
    yield f"python     {tools.python} ({why})"
    yield f"fetch      read and hash {build.checkpoint.directory}"
    yield from _before_quantize(build, plan, packaging)
    for name, command in plan.commands.items():
        yield f"{name:<10} {shlex.join(command.line)}"
        yield f"           then rename it to {paths.path(name)}; log: {paths.log(name)}"
    model = plan.triton_model
    yield f"package    {build.checkpoint.name} as {build.slot}, which is replaced:"
    for path in (m.FILE_NAME, m.TEMPLATE, m.TOKENIZER, f"{model}/config.pbtxt"):
        yield f"           {build.slot / path}"
    for path in (engine_config.ENGINE, engine_config.CONFIG):
        yield f"           {build.slot / model / '1' / path}"
    yield "verify     guard verify against the slot of --against, if given, before the replacement"
    yield f"{model}/config.pbtxt, its names checked:"
    yield from (f"    {line}" for line in plan.config.splitlines())
    yield f"    {SEAL.rstrip()}"


def _before_quantize(build: EngineBuild, plan: Plan, packaging: Packaging | None) -> Iterator[str]:
    """`packaging`: None if the checkpoint is not here."""
    paths = StagePaths(build.work)
    if build.recipe.calibrated:
        path = paths.path("calibrate") / FILE_NAME
        yield f"calibrate  write {path}: {len(plan.examples)} conversations"
        if packaging:
            rows = calibration_rows(plan.examples, packaging)
            yield (
                f"           packed into {len(rows.tokens)} rows of at most {max(rows.tokens)} "
                f"tokens, {rows.padding:.1%} of them padding"
            )
        return
    yield f"links      link the checkpoint's files into {paths.path('links')}"
    if packaging and missing_head(build.checkpoint.directory) is not None:
        shard = paths.path("links") / HEAD_SHARD
        yield f"           and write the head, which is tied to the embedding: {shard}"
