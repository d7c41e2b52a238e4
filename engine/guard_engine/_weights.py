"""How the graph stores matrices, and how it decompresses them."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import Type, opset13

from guard_engine._errors import CheckpointInvalid
from guard_engine._safetensors import Tensor

WeightFormat = Literal["int8", "int8-g128", "bf16", "f32"]
"""The format that a matrix is stored in.

`int8`: one symmetric scale per output channel. `int8-g128`: one scale per output channel and 128
input channels; a matrix whose width is no multiple of 128 is stored as `int8`. `bf16`: bfloat16.
`f32`: exact, so a bfloat16 matrix stays bfloat16. `_precision` decides what it computes in.
"""
Node = Any  # OpenVINO annotates the arguments and results of its factory functions so
_GROUP = 128
_RANGE = np.float32(127 * (1 - 2**-8))  # lower than 127, because a scale may be rounded down


def matrix(tensor: Tensor, weights: WeightFormat) -> Callable[[], Node]:
    """Returns a function that makes the matrix's float32 node. Raises CheckpointInvalid.

    Each use needs its own node: the plugin fuses a decompression with only one consumer.
    """
    if weights in ("bf16", "f32"):
        stored = _unquantized(tensor, weights)
        if stored.get_element_type() == Type.f32:
            return lambda: stored
        return lambda: opset13.convert(stored, "f32")
    grouped = weights == "int8-g128" and tensor.shape[1] % _GROUP == 0
    values, scales = _quantize(tensor, _GROUP if grouped else tensor.shape[1])
    if not grouped:
        values, scales = values.reshape(tensor.shape), scales.reshape(-1, 1)
    quantized = opset13.constant(values, shared_memory=True)
    scale = opset13.constant(scales, shared_memory=True)

    def decompress() -> Node:
        x = opset13.multiply(opset13.convert(quantized, "f32"), scale)
        shape = np.asarray(tensor.shape, np.int64)
        return opset13.reshape(x, opset13.constant(shape), False) if grouped else x

    return decompress


def _unquantized(tensor: Tensor, weights: WeightFormat) -> Node:
    if tensor.stored != "BF16":
        if weights == "f32":
            return opset13.constant(tensor.read(), shared_memory=True)
        raw = np.empty(tensor.shape, np.uint16)
        for rows, chunk in tensor.row_chunks():
            raw[rows] = _bfloat16(chunk)
    else:
        raw = tensor.read()
    # Copied, because OpenVINO keeps no reference to an array whose type is not the tensor's.
    stored = ov.Tensor(raw, ov.Shape(list(raw.shape)), Type.bf16)
    return opset13.constant(stored, shared_memory=False)


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds to bfloat16 (nearest even) and returns the bits."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _quantize(tensor: Tensor, group: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Returns the values [rows, groups, group] and each group's scale [rows, groups, 1]."""
    count, columns = tensor.shape
    values = np.empty((count, columns // group, group), np.int8)
    scales = np.empty((count, columns // group, 1), np.float32)
    for rows, chunk in tensor.row_chunks():
        x = chunk.reshape(len(chunk), -1, group)
        largest = np.maximum(x.max(axis=2, keepdims=True), -x.min(axis=2, keepdims=True))
        if not np.isfinite(largest).all():
            raise CheckpointInvalid(
                f"{tensor.path}: the tensor {tensor.name} holds NaN or infinite values. "
                "Fetch the checkpoint again."
            )
        # Scales that bfloat16 holds exactly, because bfloat16 arithmetic would round them again.
        scales[rows] = _widen(_bfloat16(np.where(largest > 0, largest / _RANGE, 1)))
        np.divide(x, scales[rows], out=x)
        values[rows] = np.rint(x, out=x)
    return values, scales
