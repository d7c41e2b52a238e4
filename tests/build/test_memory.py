"""A build takes less memory than twice its checkpoint's size, in every weight format."""

import subprocess
import sys
from pathlib import Path

import pytest

from guard_engine import WeightFormat
from tests.support.models.checkpoints import write_checkpoint

pytestmark = pytest.mark.slow

# VmHWM, because a process inherits ru_maxrss from its parent.
_BUILD = """
import sys
from pathlib import Path
from guard_build import build_slot

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

before = peak()
build_slot(Path(sys.argv[1]), Path(sys.argv[2]), weights=sys.argv[3])
print(peak() - before)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    shape = {
        "vocab_size": 20_000,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 5,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    }
    write_checkpoint(directory, shards=2, **shape)  # type: ignore[arg-type]
    return directory


@pytest.mark.parametrize("weights", ["int8", "int8-g128", "bf16", "f32"])
def test_peak_memory(checkpoint: Path, tmp_path: Path, weights: WeightFormat) -> None:
    arguments = [str(checkpoint), str(tmp_path / "blue"), weights]
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, *arguments], check=True, capture_output=True, text=True
    )
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    assert size > 190e6
    assert int(done.stdout) < (1.2 if weights.startswith("int8") else 1.6) * size
