"""Qwen3Guard-Gen as a TensorRT-LLM engine: built in the pinned container, on a GPU machine.

What of it ran where, and what never ran, stands in docs/gpu.md.
"""

from guard_build.tensorrt_llm.calibrate import CALIBRATION_SET
from guard_build.tensorrt_llm.commands import Tools
from guard_build.tensorrt_llm.engine_build import EngineBuild, build_engine, plan
from guard_build.tensorrt_llm.formats import Format, KvCache, Recipe, recipe

__all__ = [
    "CALIBRATION_SET",
    "EngineBuild",
    "Format",
    "KvCache",
    "Recipe",
    "Tools",
    "build_engine",
    "plan",
    "recipe",
]
