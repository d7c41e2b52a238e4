"""Builds Qwen3Guard-Gen slots for TensorRT-LLM, in the pinned container on a GPU machine.

docs/gpu.md says which parts ran on which machine, and which never ran.
"""

from guard_build.tensorrt_llm.calibrate import CALIBRATION_SET
from guard_build.tensorrt_llm.commands import Tools, find_tools
from guard_build.tensorrt_llm.dry_run import dry_run
from guard_build.tensorrt_llm.engine_build import build_engine
from guard_build.tensorrt_llm.formats import Format, KvCache, Recipe, recipe
from guard_build.tensorrt_llm.plan import EngineBuild, make_plan

__all__ = [
    "CALIBRATION_SET",
    "EngineBuild",
    "Format",
    "KvCache",
    "Recipe",
    "Tools",
    "build_engine",
    "dry_run",
    "find_tools",
    "make_plan",
    "recipe",
]
