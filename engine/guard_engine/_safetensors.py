"""Tensors of a checkpoint: safetensors, one file or sharded, read on demand, without torch.

The header is parsed here, because the numpy API of `safetensors` has no bfloat16. Tensors are read
and not mapped: mapped pages would count as the builder's memory until the file is closed.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guard_engine._errors import CheckpointInvalid

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES: dict[str, type[np.generic]] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
_CHUNK_VALUES = 1 << 22  # converted at once, so that no whole embedding is held as float32


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a safetensors file: where it is stored, and how."""

    name: str
    path: Path
    offset: int
    """Bytes from the start of the file."""
    stored: str
    """BF16, F16 or F32."""
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * np.dtype(_DTYPES[self.stored]).itemsize

    def read(self) -> NDArray[Any]:
        """The tensor as it is stored (bfloat16 as uint16). Raises CheckpointInvalid."""
        return self._read(0, math.prod(self.shape)).reshape(self.shape)

    def float32(self) -> NDArray[np.float32]:
        """The tensor converted to float32. Raises CheckpointInvalid."""
        return _float32(self.read())

    def row_chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yields a matrix in chunks: the rows that a chunk covers, and the chunk [rows, columns].

        Raises CheckpointInvalid.
        """
        count, columns = self.shape
        step = max(1, _CHUNK_VALUES // columns)
        for start in range(0, count, step):
            stop = min(start + step, count)
            raw = self._read(start * columns, (stop - start) * columns)
            yield slice(start, stop), _float32(raw.reshape(-1, columns))

    def _read(self, start: int, count: int) -> NDArray[Any]:
        dtype = np.dtype(_DTYPES[self.stored])
        raw = np.fromfile(self.path, dtype, count, offset=self.offset + start * dtype.itemsize)
        if len(raw) != count:
            raise _cut_short(self.path, self.name)
        return raw


def _float32(raw: NDArray[Any]) -> NDArray[np.float32]:
    if raw.dtype == np.uint16:  # bfloat16 is the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)


class Weights:
    """All tensors of one checkpoint directory."""

    def __init__(self, checkpoint: Path) -> None:
        """Reads the files' headers. Raises CheckpointInvalid for a missing or damaged one."""
        self._checkpoint = checkpoint
        self._tensors: dict[str, Tensor] = {}
        for path in weight_files(checkpoint):
            try:
                self._tensors |= _read_header(path)
            except OSError as error:
                raise CheckpointInvalid(
                    f"{path} can't be read: {error.strerror}. Make it readable, or fetch the "
                    "checkpoint again."
                ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str, *shape: int) -> Tensor:
        """The tensor `name`. Raises CheckpointInvalid if it is missing or has another shape."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointInvalid(
                f"{self._checkpoint} lacks the tensor {name}. Fetch the checkpoint again; "
                "if it is complete, it is not a Qwen3."
            )
        if tensor.shape != shape:
            raise CheckpointInvalid(
                f"{self._checkpoint}: the tensor {name} is {list(tensor.shape)}, "
                f"but config.json says {list(shape)}. The two files don't belong together: fetch "
                "the checkpoint again."
            )
        return tensor


def weight_files(checkpoint: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sorted; all of them exist.

    Raises CheckpointInvalid if there are none, or if a file that the index names is missing.
    """
    if (checkpoint / SINGLE).is_file():
        return [checkpoint / SINGLE]
    index = checkpoint / INDEX
    if not index.is_file():
        raise CheckpointInvalid(
            f"{checkpoint} holds neither {SINGLE} nor {INDEX}. "
            "Fetch the checkpoint with its safetensors files."
        )
    shards = _shards(index)
    for shard, (tensor, count) in shards.items():
        if not (checkpoint / shard).is_file():
            others = f" and {count - 1} others" if count > 1 else ""
            raise CheckpointInvalid(
                f"{checkpoint / shard} does not exist, but {INDEX} says that it holds "
                f"{tensor}{others}. Fetch the checkpoint again."
            )
    return [checkpoint / shard for shard in sorted(shards)]


def _shards(index: Path) -> dict[str, tuple[str, int]]:
    """File name of each shard -> its first tensor, and its number of tensors."""
    damaged = CheckpointInvalid(f"{index} is damaged. Fetch the checkpoint again.")
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        counts = Counter(weight_map.values())
        firsts = {shard: name for name, shard in sorted(weight_map.items(), reverse=True)}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise damaged from None
    # A shard lies beside its index: a name with a path could read any other file.
    if not counts or any(not isinstance(n, str) or n != Path(n).name or not n for n in counts):
        raise damaged
    return {shard: (firsts[shard], counts[shard]) for shard in counts}


def _read_header(path: Path) -> dict[str, Tensor]:
    damaged = CheckpointInvalid(f"{path} is damaged or cut short. Fetch the checkpoint again.")
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        if not 8 < start <= size:
            raise damaged
        try:
            header = json.loads(stream.read(start - 8))
        except ValueError:
            raise damaged from None
    if not isinstance(header, dict):
        raise damaged
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry, start, size) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> Tensor:
    try:
        stored, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        valid = isinstance(stored, str) and all(
            type(n) is int and n >= 0 for n in (*shape, begin, end)
        )
    except (TypeError, KeyError, ValueError):
        valid = False
    if not valid:
        raise CheckpointInvalid(
            f"{path}: the entry of the tensor {name} is damaged. Fetch the checkpoint again."
        )
    if stored not in _DTYPES:
        raise CheckpointInvalid(
            f"{path}: the tensor {name} is {stored}; this engine reads BF16, F16 and F32. "
            "Use the original, unquantized checkpoint."
        )
    length = math.prod(shape) * np.dtype(_DTYPES[stored]).itemsize
    if start + end > size or end - begin != length:
        raise _cut_short(path, name)
    return Tensor(name, path, start + begin, stored, shape)


def _cut_short(path: Path, name: str) -> CheckpointInvalid:
    return CheckpointInvalid(
        f"{path} is damaged or cut short at the tensor {name}. Fetch the checkpoint again."
    )
