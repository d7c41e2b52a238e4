"""Builds Qwen3Guard-Gen slots for TensorRT-LLM, in the pinned container on a GPU machine.

docs/gpu.md says which parts ran on which machine, and which never ran.
"""

from guard_build.tensorrt_llm.calibrate import CALIBRATION_SET
from guard_build.tensorrt_llm.commands import Tools
from guard_build.tensorrt_llm.dry_run import dry_run
from guard_build.tensorrt_llm.engine_build import EngineBuild, build_engine
from guard_build.tensorrt_llm.formats import Format, KvCache, Recipe, recipe

__all__ = [
    "CALIBRATION_SET",
    "EngineBuild",
    "Format",
    "KvCache",
    "Recipe",
    "Tools",
    "build_engine",
    "dry_run",
    "recipe",
]
