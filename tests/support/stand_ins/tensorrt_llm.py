"""Stand-ins for TensorRT-LLM's tools and container, which no machine without a GPU has.

They take the flags that the real ones take, refuse others, and write an engine's config.json as the
real ones do; the "engine" is a few bytes. Their faults are in faults.json. As in the container,
only a virtual environment of its own has TensorRT-LLM, and no tool works in another Python.
"""

import json
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard_build import Checkpoint
from guard_build.tensorrt_llm import (
    CALIBRATION_SET,
    EngineBuild,
    Format,
    build_engine,
    find_tools,
    recipe,
)
from guard_core.slot.gpu_host import Container, Machine
from guard_core.slot.manifest import Gpu, Manifest
from tests.support.slots import TINY

MACHINE = Machine("1.2.1", "10.14.1.48", Gpu(name="NVIDIA H100", compute_capability="9.0"))

_COMMON = """#!{python}
import argparse, json, pathlib, sys, warnings
from importlib.metadata import version
version("tensorrt_llm")  # as the import of the package: another Python does not have it
here = pathlib.Path({directory!r})
tool = pathlib.Path(sys.argv[0]).name
faults = json.loads((here / "faults.json").read_text())
with (here / "ran.txt").open("a") as ran:
    ran.write(tool + "\\n")
parser = argparse.ArgumentParser(allow_abbrev=False)
def flags(*names, **kinds):
    for name in names:
        parser.add_argument("--" + name, required=True, **kinds)
def finish(directory, config):
    for path, value in faults.get("config", {{}}).items():
        *above, last = path.split(".")
        inner = config
        for key in above:
            inner = inner.get(key, {{}})
        if last in inner:
            inner[last] = value
    out = pathlib.Path(directory)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config))
    if tool in faults.get("fail", []):
        warnings.warn("Trying the manual approach: \\nthe true cause")
        print("a line\\n" * 20, flush=True)
        (out / "rank0.engine").write_bytes(b"half")
        sys.exit("it broke in the middle")
def checkpoint(algorithm, kv):
    finish(args.output_dir, dict(
        architecture="Qwen3ForCausalLM", dtype=args.dtype, logits_dtype="float16",
        quantization=dict(quant_algo=algorithm, kv_cache_quant_algo=kv)))
"""
_QUANTIZE = """
flags("model_dir", "output_dir", "dtype", "qformat", "calib_dataset")
flags("calib_size", "batch_size", "calib_max_seq_length", type=int)
parser.add_argument("--kv_cache_dtype")
args = parser.parse_args()
rows = (pathlib.Path(args.calib_dataset) / "train.jsonl").read_text().splitlines()
assert 0 < len(rows) <= args.calib_size and all("text" in json.loads(row) for row in rows)
algorithm = dict(fp8="FP8", int8_sq="W8A8_SQ_PER_CHANNEL")[args.qformat]
checkpoint(algorithm, "FP8" if args.kv_cache_dtype == "fp8" else None)
"""
_CONVERT = """
flags("model_dir", "output_dir", "dtype")
parser.add_argument("--use_weight_only", action="store_true")
parser.add_argument("--weight_only_precision")
args = parser.parse_args()
names = set()
for shard in pathlib.Path(args.model_dir).glob("*.safetensors"):
    with shard.open("rb") as stream:
        names |= json.loads(stream.read(int.from_bytes(stream.read(8), "little"))).keys()
if "lm_head.weight" not in names:
    raise AttributeError("'NoneType' object has no attribute 'to'")
checkpoint("W8A16" if args.use_weight_only else None, None)
"""
_BUILD = """
flags("checkpoint_dir", "output_dir", "output_timing_cache", "kv_cache_type", "gemm_plugin")
flags("logits_dtype", "speculative_decoding_mode")
flags("use_paged_context_fmha", "use_fp8_context_fmha", "multiple_profiles",
      choices=["enable", "disable"])
numbers = ["max_batch_size", "max_beam_width", "max_input_len", "max_seq_len", "max_num_tokens",
           "max_draft_len"]
flags(*numbers, "tokens_per_block", type=int)
parser.add_argument("--gather_generation_logits", action="store_true")
args = parser.parse_args()
pretrained = json.loads((pathlib.Path(args.checkpoint_dir) / "config.json").read_text())
pretrained["logits_dtype"] = args.logits_dtype
finish(args.output_dir, dict(
    version="1.2.1",
    pretrained_config=pretrained,
    build_config={name: getattr(args, name) for name in numbers} | dict(
        gather_context_logits=False,
        gather_generation_logits=args.gather_generation_logits,
        speculative_decoding_mode=dict(draft_tokens_external=2)[args.speculative_decoding_mode],
        kv_cache_type=args.kv_cache_type.upper(),
        plugin_config=dict(
            use_paged_context_fmha=args.use_paged_context_fmha == "enable",
            use_fp8_context_fmha=args.use_fp8_context_fmha == "enable",
            tokens_per_block=args.tokens_per_block))))
(pathlib.Path(args.output_dir) / "rank0.engine").write_bytes(b"an engine")
"""


@dataclass
class FakeTools:
    """The tools, and what they did."""

    directory: Path

    def __post_init__(self) -> None:
        self.container = fake_container(self.directory)
        self.tools = find_tools(self.container)
        python, examples = self.tools.python, self.container.examples
        scripts = {
            examples / "quantization" / "quantize.py": _QUANTIZE,
            examples / "models" / "core" / "qwen" / "convert_checkpoint.py": _CONVERT,
            Path(self.container.trtllm_build): _BUILD,
        }
        for path, text in scripts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            common = _COMMON.format(python=python, directory=str(self.directory))
            path.write_text(common + text)
            path.chmod(0o755)
        self.faults()

    def faults(self, **faults: Any) -> None:
        """`fail`: tools that break; `config`: path -> value that config.json has instead."""
        (self.directory / "faults.json").write_text(json.dumps(faults))

    def ran(self) -> list[str]:
        """The tools that ran since this was last asked."""
        path = self.directory / "ran.txt"
        found = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found


def accept(slot: Path) -> None:
    Manifest.load(slot).check(slot)


def run(build: EngineBuild, fake: FakeTools, **changes: Any) -> Manifest:
    """Builds with the stand-ins, on a machine that fits."""
    return build_engine(
        build,
        **{
            "tools": fake.tools,
            "machine": MACHINE,
            "verify": accept,
            "progress": lambda stage, done, total: None,
            **changes,
        },
    )


def engine_build(directory: Path, kind: Format = Format.FP8, **changes: Any) -> EngineBuild:
    """A build of the tiny guard, whose slot is `directory`/slots/green."""
    return EngineBuild(
        **{
            "checkpoint": Checkpoint(TINY, "tiny-guard"),
            "slot": directory / "slots" / "green",
            "kind": kind,
            "recipe": recipe(kind),
            "work": directory / "work",
            "calibration": CALIBRATION_SET,
            **changes,
        }
    )


def fake_container(
    directory: Path,
    *,
    tensorrt_llm: str = "1.2.1",
    gpu: str | None = "NVIDIA H100, 9.0",
) -> Container:
    """A container with the layout of NVIDIA's, which says what a test wants."""
    environment = directory / "opt" / "venv-tritonserver"
    venv.create(environment, symlinks=True, with_pip=False)
    [packages] = environment.glob("lib/python*/site-packages")
    if tensorrt_llm != "none":
        for name, version in (("tensorrt_llm", tensorrt_llm), ("tensorrt", "10.14.1.48")):
            info = packages / f"{name}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    build, smi = environment / "bin" / "trtllm-build", directory / "usr" / "bin" / "nvidia-smi"
    smi.parent.mkdir(parents=True)
    build.write_text(f"#!{environment}/bin/python3\n")
    smi.write_text(f"#!/bin/sh\necho '{gpu}'\n" if gpu else "#!/bin/sh\nexit 9\n")
    (smi.parent / "python3").symlink_to(sys.executable)  # a Python without TensorRT-LLM
    for path in (build, smi):
        path.chmod(0o755)
    return Container(
        trtllm_build=str(build), nvidia_smi=str(smi), examples=directory / "app" / "examples"
    )
