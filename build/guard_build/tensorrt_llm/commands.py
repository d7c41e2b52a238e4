"""The command lines of TensorRT-LLM's tools for one engine."""

from dataclasses import dataclass
from pathlib import Path

from guard_build.tensorrt_llm import flags, paths
from guard_build.tensorrt_llm.formats import Recipe
from guard_core.slot.gpu_host import Container, find_python

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
MAX_IN_FLIGHT = 64
MAX_INPUT_TOKENS = 8192
MAX_OUTPUT_TOKENS = 64
MAX_DRAFT_TOKENS = 16  # our drafts have 8 and 13; each more takes 74 MiB at 64 in flight
KV_BLOCK_TOKENS = 32
LOGITS_DTYPE = "float32"  # what config.pbtxt declares for generation_logits

MAX_CALIBRATION_ROWS = 512
MAX_CALIBRATION_TOKENS = 1024  # of one row

_CALIBRATION_BATCH = 8


@dataclass(frozen=True, slots=True)
class Tools:
    """TensorRT-LLM's tools: the Python that has it, its examples, and `trtllm-build`."""

    python: str
    examples: Path
    trtllm_build: str


def find_tools(container: Container) -> Tools:
    """The tools of a container. Raises MachineUnfit."""
    return Tools(find_python(container), container.examples, container.trtllm_build)


@dataclass(frozen=True, slots=True)
class Command:
    """One process: its program and arguments."""

    tool: str
    program: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def line(self) -> list[str]:
        return [*self.program, *self.arguments]


def quantize(
    tools: Tools, recipe: Recipe, checkpoint: Path, output: Path, calibration: Path
) -> Command:
    """Checkpoint -> TensorRT-LLM checkpoint. `calibration` is the directory of its rows.

    Raises BuildFailed if quantize.py would misread a path.
    """
    common = ("--model_dir", str(checkpoint), "--output_dir", str(output), "--dtype", "bfloat16")
    if not recipe.calibrated:
        script = tools.examples / "models" / "core" / "qwen" / "convert_checkpoint.py"
        return _checked(tools, script, (*common, *recipe.arguments))
    paths.check_checkpoint(checkpoint)
    paths.check_calibration(calibration)
    calibrated = (
        # It takes so many rows, or as many as there are.
        *("--calib_dataset", str(calibration), "--calib_size", str(MAX_CALIBRATION_ROWS)),
        *("--batch_size", str(_CALIBRATION_BATCH)),
        *("--calib_max_seq_length", str(MAX_CALIBRATION_TOKENS)),
    )
    script = tools.examples / "quantization" / "quantize.py"
    return _checked(tools, script, (*common, *recipe.arguments, *calibrated))


def compile_engine(tools: Tools, recipe: Recipe, checkpoint: Path, output: Path) -> Command:
    """TensorRT-LLM checkpoint -> engine."""
    arguments = (
        *("--checkpoint_dir", str(checkpoint), "--output_dir", str(output)),
        # By default it is written to the current directory.
        *("--output_timing_cache", str(output / "timing.cache")),
        *("--max_batch_size", str(MAX_IN_FLIGHT), "--max_beam_width", "1"),
        *("--max_input_len", str(MAX_INPUT_TOKENS)),
        *("--max_seq_len", str(MAX_INPUT_TOKENS + MAX_OUTPUT_TOKENS)),
        *("--max_num_tokens", str(MAX_INPUT_TOKENS)),
        *("--kv_cache_type", "paged", "--tokens_per_block", str(KV_BLOCK_TOKENS)),
        *("--use_paged_context_fmha", "enable"),
        *("--use_fp8_context_fmha", "enable" if recipe.fp8_attention else "disable"),
        *("--gemm_plugin", recipe.gemm_plugin, "--multiple_profiles", "enable"),
        *("--logits_dtype", LOGITS_DTYPE, "--gather_generation_logits"),
        *("--speculative_decoding_mode", "draft_tokens_external"),
        *("--max_draft_len", str(MAX_DRAFT_TOKENS)),
    )
    flags.check("trtllm-build", arguments)
    return Command("trtllm-build", (tools.trtllm_build,), arguments)


def _checked(tools: Tools, script: Path, arguments: tuple[str, ...]) -> Command:
    flags.check(script.name, arguments)
    return Command(script.name, (tools.python, str(script)), arguments)
