"""How matrices are stored in the graph."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import Type, opset13

from guard_engine._checkpoint import Tensor
from guard_engine._errors import CheckpointInvalid

WeightFormat = Literal["int8", "int8-g128", "bf16", "f32"]
"""What a matrix is stored as.

`int8`: one symmetric scale for each output channel. `int8-g128`: one for each 128 input channels
of it; a matrix whose width 128 does not divide is stored as `int8`. `bf16`: bfloat16. `f32`:
nothing is lost, so bfloat16 stays as it is stored. What is computed in: see `_precision`.
"""
Node = Any  # OpenVINO's own annotation of its factory functions is `Node`, of their results too
_GROUP = 128
_RANGE = np.float32(127 * (1 - 2**-8))  # of scales before they are rounded, perhaps down


def matrix(tensor: Tensor, weights: WeightFormat) -> Callable[[], Node]:
    """The matrix as a function that gives its float32 node. Raises CheckpointInvalid.

    Each use decompresses for itself: the plugin fuses a decompression with one consumer only.
    """
    if weights in ("bf16", "f32"):
        whole = _whole(tensor, weights)
        if whole.get_element_type() == Type.f32:
            return lambda: whole
        return lambda: opset13.convert(whole, "f32")
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


def _whole(tensor: Tensor, weights: WeightFormat) -> Node:
    if tensor.stored != "BF16":
        if weights == "f32":
            return opset13.constant(tensor.read(), shared_memory=True)
        raw = np.empty(tensor.shape, np.uint16)
        for rows, chunk in tensor.row_chunks():
            raw[rows] = _bfloat16(chunk)
    else:
        raw = tensor.read()
    # Copied: nothing would keep an array alive whose type is not the tensor's.
    stored = ov.Tensor(raw, ov.Shape(list(raw.shape)), Type.bf16)
    return opset13.constant(stored, shared_memory=False)


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves, rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _quantize(tensor: Tensor, group: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Values [rows, groups, group] and the scale [rows, groups, 1] of each group."""
    count, columns = tensor.shape
    values = np.empty((count, columns // group, group), np.int8)
    scales = np.empty((count, columns // group, 1), np.float32)
    for rows, chunk in tensor.row_chunks():
        x = chunk.reshape(len(chunk), -1, group)
        largest = np.maximum(x.max(axis=2, keepdims=True), -x.min(axis=2, keepdims=True))
        if not np.isfinite(largest).all():
            raise CheckpointInvalid(
                f"{tensor.path}: the tensor {tensor.name} holds values that are no numbers. "
                "Fetch the checkpoint again."
            )
        # Scales that bfloat16 holds exactly: half precision arithmetic rounds them once more.
        scales[rows] = _widen(_bfloat16(np.where(largest > 0, largest / _RANGE, 1)))
        np.divide(x, scales[rows], out=x)
        values[rows] = np.rint(x, out=x)
    return values, scales
