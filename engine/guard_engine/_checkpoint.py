"""Tensors of a checkpoint: safetensors, one file or sharded, memory-mapped, without torch.

The header is read by hand, because the numpy face of `safetensors` has no bfloat16.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guard_engine._errors import CheckpointInvalid

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES: dict[str, type[np.generic]] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
_ROWS = 4096  # converted at a time, so that an embedding never lies in memory whole as float32


@dataclass(frozen=True, slots=True)
class Tensor:
    """One stored tensor; `raw` is a view into the mapped file (uint16 for bfloat16)."""

    raw: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.raw.shape

    def float32(self) -> NDArray[np.float32]:
        """The whole tensor."""
        return _float32(self.raw)

    def row_chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The tensor in chunks of rows, each with the rows that it covers."""
        for start in range(0, self.raw.shape[0], _ROWS):
            rows = slice(start, start + _ROWS)
            yield rows, _float32(self.raw[rows])


def _float32(raw: NDArray[Any]) -> NDArray[np.float32]:
    if raw.dtype == np.uint16:  # bfloat16 is the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


class Weights:
    """All tensors below one checkpoint directory."""

    def __init__(self, checkpoint: Path) -> None:
        """Maps the files. Raises CheckpointInvalid for a missing or damaged one."""
        self._checkpoint = checkpoint
        self._tensors: dict[str, Tensor] = {}
        for path in weight_files(checkpoint):
            self._tensors |= _read_file(path)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str, *shape: int) -> Tensor:
        """The tensor `name`. Raises CheckpointInvalid if it is missing or shaped otherwise."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointInvalid(
                f"{self._checkpoint} lacks the tensor {name}. Fetch the checkpoint again; "
                "if it is whole, it is not a Qwen3."
            )
        if tensor.shape != shape:
            raise CheckpointInvalid(
                f"{self._checkpoint}: the tensor {name} is {list(tensor.shape)}, "
                f"but config.json makes it {list(shape)}. The two files don't belong together."
            )
        return tensor


def weight_files(checkpoint: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sorted. Raises CheckpointInvalid if there are none."""
    if (checkpoint / SINGLE).is_file():
        return [checkpoint / SINGLE]
    index = checkpoint / INDEX
    if not index.is_file():
        raise CheckpointInvalid(
            f"{checkpoint} holds neither {SINGLE} nor {INDEX}. "
            "Fetch the checkpoint with its safetensors files."
        )
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointInvalid(f"{index} is damaged. Fetch the checkpoint again.") from None
    return [checkpoint / str(name) for name in sorted(names)]


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointInvalid(f"{path} does not exist. Fetch the checkpoint again.")
    size = path.stat().st_size
    damaged = CheckpointInvalid(f"{path} is damaged or cut short. Fetch the checkpoint again.")
    if size < 8:
        raise damaged
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    try:
        header = json.loads(data[8:start].tobytes()) if start <= size else None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise damaged
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry, data[start:]) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: dict[str, Any], data: NDArray[np.uint8]) -> Tensor:
    if entry["dtype"] not in _DTYPES:
        raise CheckpointInvalid(
            f"{path}: the tensor {name} is {entry['dtype']}; this engine reads BF16, F16 and F32. "
            "Use the original, unquantized checkpoint."
        )
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if end > len(data) or end - begin != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
        raise CheckpointInvalid(
            f"{path} is damaged or cut short at the tensor {name}. Fetch the checkpoint again."
        )
    return Tensor(data[begin:end].view(dtype).reshape(shape))
