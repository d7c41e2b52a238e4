"""What a build is to do, checked before its first stage, and before anything is downloaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from guard_build.checkpoint import Packaging, read_packaging
from guard_build.errors import BuildFailed, reason
from guard_build.hub import Checkpoint
from guard_build.slot_directory import check_slot, probe_writing
from guard_build.tensorrt_llm.commands import (
    IMAGE,
    MAX_IN_FLIGHT,
    MAX_INPUT_TOKENS,
    MAX_OUTPUT_TOKENS,
    Command,
    Tools,
    compile_engine,
    quantize,
)
from guard_build.tensorrt_llm.flags import VERSION
from guard_build.tensorrt_llm.formats import RECIPES, Format, Recipe
from guard_build.tensorrt_llm.package import render_model
from guard_build.tensorrt_llm.stages import StagePaths
from guard_core.errors import SlotInvalid
from guard_core.slot.gpu_host import Machine
from guard_core.slot.slot import WARM_UP
from guard_core.verdict.prompt import Prompt
from guard_engine import CheckpointInvalid, Weights, read_config
from guard_eval.datasets import load_examples
from guard_eval.errors import DataInvalid
from guard_eval.rows import Example


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


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known before the checkpoint is read."""

    triton_model: str
    config: str
    """The text of config.pbtxt."""
    commands: Mapping[str, Command]
    """Of the stages quantize and compile."""
    examples: tuple[Example, ...]
    """The conversations to calibrate on; empty if the format needs none."""


def make_plan(build: EngineBuild, tools: Tools, machine: Machine | None) -> Plan:
    """Checks everything but the checkpoint, which need not be here yet. Raises BuildFailed.

    Nothing is written, but whether the slot and `work` can be written is tried. `machine`: the one
    to build on; None if this is another.
    """
    if machine:
        _check_machine(build, machine)
    triton_model = check_slot(build.slot)
    try:
        probe_writing(build.work)
    except OSError as error:
        raise BuildFailed(
            f"{build.work} can't be made or written ({reason(error)}). Choose another directory "
            "with --work."
        ) from None
    return Plan(
        triton_model=triton_model,
        config=render_model(triton_model, MAX_IN_FLIGHT),
        commands=_commands(build, tools),
        examples=_examples(build),
    )


def load_packaging(build: EngineBuild) -> Packaging:
    """The checkpoint's text side, after a check of the whole checkpoint. Raises BuildFailed.

    Of the weights only headers and file sizes are read.
    """
    directory = build.checkpoint.directory
    needed = MAX_INPUT_TOKENS + MAX_OUTPUT_TOKENS
    try:
        positions = read_config(directory).max_positions
        Weights(directory)
    except CheckpointInvalid as error:
        raise BuildFailed(str(error)) from error
    if positions < needed:
        raise BuildFailed(
            f"The model has {positions} positions; a GPU engine is built for {needed}. Use a "
            "checkpoint with more, or --engine openvino, which takes shorter prompts then."
        )
    packaging = read_packaging(directory, build.checkpoint.name)
    try:
        prompt = Prompt(packaging.template, packaging.tokenizer.decode())
        for messages in WARM_UP:
            prompt.ids(messages)
    except SlotInvalid as error:
        raise BuildFailed(f"{directory}: {error}") from error
    return packaging


def _check_machine(build: EngineBuild, machine: Machine) -> None:
    if machine.tensorrt_llm != VERSION:
        raise BuildFailed(
            f"This container has TensorRT-LLM {machine.tensorrt_llm}; engines are built and served "
            f"with {VERSION} only. Use {IMAGE}."
        )
    major, minor = map(int, machine.gpu.compute_capability.split("."))
    if (major, minor) < build.recipe.least_compute_capability:
        least = ".".join(map(str, build.recipe.least_compute_capability))
        fitting = [k for k, r in RECIPES.items() if r.least_compute_capability <= (major, minor)]
        advice = (
            f"Use {' or '.join(fitting)}."
            if fitting
            else "No format fits it: use --engine openvino."
        )
        raise BuildFailed(
            f"--format {build.kind} needs a GPU of compute capability {least} or more; "
            f"{machine.gpu.name} has {machine.gpu.compute_capability}. {advice}"
        )


def _commands(build: EngineBuild, tools: Tools) -> dict[str, Command]:
    paths = StagePaths(build.work)
    if build.recipe.calibrated:
        checkpoint = build.checkpoint.directory.resolve()
    else:
        checkpoint = paths.path("links")
    calibration, quantized = paths.path("calibrate"), paths.path("quantize")
    return {
        "quantize": quantize(
            tools, build.recipe, checkpoint, paths.partial("quantize"), calibration
        ),
        "compile": compile_engine(tools, build.recipe, quantized, paths.partial("compile")),
    }


def _examples(build: EngineBuild) -> tuple[Example, ...]:
    if not build.recipe.calibrated:
        return ()
    try:
        return load_examples(build.calibration)
    except DataInvalid as error:
        raise BuildFailed(f"--calibration: {error}") from error
