"""The compiled model: one packed step over paged KV blocks."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import Type, opset13
from openvino._offline_transformations import paged_attention_transformation

from guard_engine._precision import head_properties, properties
from guard_engine.blocks import BLOCK_TOKENS
from guard_engine.sequence import Chunk


class Runtime:
    """Runs the model, on one thread. It knows KV blocks only by number; BlockPool assigns them."""

    def __init__(self, xml: Path, blocks: int) -> None:
        """Compiles the graph that `save_graph` wrote, with a KV cache of `blocks` blocks."""
        core = ov.Core()
        self._weights = _map(xml.with_suffix(".bin"))
        weights = ov.Tensor(np.frombuffer(self._weights, np.uint8), shared_memory=True)
        model = core.read_model(xml.read_bytes(), weights)
        # With pinning, the threads of two engines wait for the same cores while others are idle.
        wanted = properties(model, core) | {"ENABLE_CPU_PINNING": "NO"}
        head = _split_head(model)
        self.vocab_size: int = head.output(0).partial_shape[1].get_length()
        self._head = core.compile_model(head, "CPU", head_properties(wanted)).create_infer_request()
        paged_attention_transformation(model)
        compiled = core.compile_model(model, "CPU", wanted)
        self._infer = compiled.create_infer_request()
        self._padding_block = blocks  # an extra block, which is written but never read
        # Each [blocks, KV heads, tokens, dim]. bfloat16 as uint16, because numpy has no bfloat16.
        self._kv_cache: list[NDArray[Any]] = []
        for port in compiled.inputs:
            name, shape = port.any_name, port.partial_shape
            if "_cache." not in name:
                continue
            inner = [dimension.get_length() for dimension in list(shape)[1:]]
            if inner[1] != BLOCK_TOKENS:
                raise RuntimeError(f"OpenVINO wants KV blocks of {inner[1]}, not {BLOCK_TOKENS}.")
            stored = port.get_element_type()
            # The zeroed pages take no memory until they are written to.
            pages = np.zeros([blocks + 1, *inner], np.uint16 if stored == Type.bf16 else np.float32)
            self._kv_cache.append(pages)
            self._infer.set_tensor(port, ov.Tensor(pages, ov.Shape(list(pages.shape)), stored))

    def copy_tokens(self, source: int, target: int, tokens: int) -> None:
        """Copies the keys and values of a block's first `tokens` tokens, in all layers."""
        for cache in self._kv_cache:
            cache[target, :, :tokens] = cache[source, :, :tokens]

    def step(self, chunks: list[Chunk]) -> NDArray[np.float32]:
        """Computes all chunks in one pass.

        Returns the logits [all reads in order, vocab], which are valid until the next step.
        """
        tokens: list[int] = []
        positions: list[int] = []
        blocks: list[int] = []
        reads: list[int] = []
        token_begins, block_begins = [0], [0]
        for chunk in chunks:
            sequence = chunk.sequence
            tokens += sequence.tokens[chunk.begin : chunk.end]
            positions += range(chunk.begin, chunk.end)
            blocks += sequence.blocks[: -(-chunk.end // BLOCK_TOKENS)]
            token_begins.append(len(tokens))
            block_begins.append(len(blocks))
            reads += range(len(tokens) - chunk.reads, len(tokens))
        past = [chunk.begin for chunk in chunks]
        if padding := _padded(len(tokens)) - len(tokens):
            tokens += [0] * padding
            positions += range(padding)
            blocks.append(self._padding_block)
            token_begins.append(len(tokens))
            block_begins.append(len(blocks))
            past.append(0)
        wanted = len(reads)
        reads += [0] * (_padded(wanted) - wanted)
        inputs = {
            "input_ids": np.array(tokens, np.int64),
            "position_ids": np.array(positions, np.int64),
            "sel": np.array(reads, np.int64),
            "past_lens": np.array(past, np.int32),
            "subsequence_begins": np.array(token_begins, np.int32),
            "block_indices": np.array(blocks, np.int32),
            "block_indices_begins": np.array(block_begins, np.int32),
            "max_context_len": np.array(max(padding, *(chunk.end for chunk in chunks)), np.int32),
        }
        for name, array in inputs.items():
            self._infer.set_tensor(name, ov.Tensor(array))
        self._infer.infer()
        self._head.set_input_tensor(self._infer.get_output_tensor())
        self._head.infer()
        # OpenVINO has packed the matrices into its own memory and no longer needs the file's pages.
        # The rows of the embedding that a step reads are loaded again.
        self._weights.madvise(mmap.MADV_DONTNEED)
        logits: NDArray[np.float32] = self._head.get_output_tensor().data
        return logits[:wanted]


def _map(weights: Path) -> mmap.mmap:
    """Maps the file. It is never written to, but OpenVINO takes writable memory only."""
    with weights.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)


def _padded(count: int) -> int:
    """Rounds up to one of a few numbers, by less than a block.

    For each new number of rows OpenVINO prepares and keeps its kernels: a megabyte with the tiny
    guard's few layers, and a tenth of a second at the 0.6B shape.
    """
    if count <= 16:
        return count
    step = 8 if count <= 64 else 16 if count <= 256 else 32
    return -(-count // step) * step


def _split_head(model: ov.Model) -> ov.Model:
    """Removes the head from the model, which then outputs [n, hidden]. Returns the head."""
    product = model.output("logits").get_node().input_value(0).get_node()
    hidden, matrix = product.input_value(0), product.input_value(1)
    parameter = opset13.parameter(hidden.get_partial_shape(), Type.f32)
    head = ov.Model([opset13.matmul(parameter, matrix, False, True)], [parameter], "head")
    model.remove_result(model.get_results()[0])
    model.add_results([opset13.result(hidden)])
    return head
