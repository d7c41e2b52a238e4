"""A Qwen3 checkpoint as an OpenVINO graph, built from its tensors alone.

The graph is stateful and uses plain scaled dot-product attention, because that form can be saved
and read back. `runtime` turns it into paged attention at load.
"""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import Type, opset13
from openvino.op.util import Variable, VariableInfo

from guard_engine._config import ModelConfig, read_config
from guard_engine._precision import describe
from guard_engine._safetensors import Weights
from guard_engine._weights import Node, WeightFormat, matrix

_MASKED = np.float32(-65504)  # the least value of half precision


def build_graph(
    checkpoint: Path,
    *,
    weights: WeightFormat = "int8",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ov.Model:
    """Builds the graph of the Qwen3 in `checkpoint`.

    Inputs: `input_ids`, `attention_mask`, `position_ids` [batch, tokens] int64, `beam_idx` [batch]
    int32, and `sel` [n] int64: the indices of the tokens to compute logits for. Output: `logits`
    [n, vocab] float32. `progress(done, total)` is called after each layer. Raises
    CheckpointInvalid.
    """
    config = read_config(checkpoint)
    builder = _Builder(config, Weights(checkpoint), weights)
    inputs = {
        "input_ids": opset13.parameter([-1, -1], Type.i64),
        "attention_mask": opset13.parameter([-1, -1], Type.i64),
        "position_ids": opset13.parameter([-1, -1], Type.i64),
        "beam_idx": opset13.parameter([-1], Type.i32),
        "sel": opset13.parameter([-1], Type.i64),
    }
    for name, parameter in inputs.items():
        parameter.output(0).set_names({name})
    logits = builder.forward(inputs, progress)
    result = opset13.result(logits)
    result.output(0).set_names({"logits"})
    model = ov.Model([result], builder.sinks, list(inputs.values()), "qwen3")
    describe(model, config, weights)
    # OpenVINO counts nodes over the whole process. Numbering them here makes one checkpoint always
    # give the same file. The paged attention pass needs the inputs' own names.
    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
    for name, parameter in inputs.items():
        parameter.set_friendly_name(name)
    return model


def save_graph(model: ov.Model, xml: Path) -> None:
    """Writes `xml` and the `.bin` beside it. Raises OSError."""
    try:
        ov.save_model(model, xml, compress_to_fp16=False)
    except RuntimeError as error:  # which doesn't say why
        raise OSError(errno.EIO, "OpenVINO can't write it; is the disk full?", str(xml)) from error


class _Builder:
    def __init__(self, config: ModelConfig, weights: Weights, kind: WeightFormat) -> None:
        self._config = config
        self._weights = weights
        self._kind = kind
        self.sinks: list[Node] = []

    def forward(self, inputs: dict[str, Node], progress: Callable[[int, int], None]) -> Node:
        config = self._config
        embedding = self._matrix("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        x = opset13.gather(embedding(), inputs["input_ids"], _ints(0))
        positions = _rotary(config, inputs["position_ids"])
        mask = _causal_mask(inputs["input_ids"], inputs["attention_mask"])
        for layer in range(config.layers):
            x = self._layer(layer, x, positions, mask, inputs)
            progress(layer + 1, config.layers)
        x = opset13.reshape(x, _ints([-1, config.hidden_size]), False)
        x = opset13.gather(x, inputs["sel"], _ints(0))
        x = self._norm(x, "model.norm.weight", config.hidden_size)
        head = embedding
        if not config.tied_head:
            head = self._matrix("lm_head.weight", config.vocab_size, config.hidden_size)
        return opset13.matmul(x, head(), False, True)

    def _layer(
        self, layer: int, x: Node, positions: tuple[Node, Node], mask: Node, inputs: dict[str, Node]
    ) -> Node:
        config, prefix = self._config, f"model.layers.{layer}."
        width, inner = config.hidden_size, config.intermediate_size
        h = self._norm(x, prefix + "input_layernorm.weight", width)
        h = self._attention(layer, h, positions, mask, inputs)
        h = self._linear(
            h, prefix + "self_attn.o_proj.weight", width, config.heads * config.head_dim
        )
        x = opset13.add(x, h)
        h = self._norm(x, prefix + "post_attention_layernorm.weight", width)
        gate = opset13.swish(self._linear(h, prefix + "mlp.gate_proj.weight", inner, width))
        up = self._linear(h, prefix + "mlp.up_proj.weight", inner, width)
        h = self._linear(opset13.multiply(gate, up), prefix + "mlp.down_proj.weight", width, inner)
        return opset13.add(x, h)

    def _attention(
        self, layer: int, h: Node, positions: tuple[Node, Node], mask: Node, inputs: dict[str, Node]
    ) -> Node:
        config, prefix = self._config, f"model.layers.{layer}.self_attn."
        width, dim = config.hidden_size, config.head_dim

        def heads(name: str, count: int) -> Node:
            x = self._linear(h, f"{prefix}{name}_proj.weight", count * dim, width)
            return opset13.reshape(x, _ints([0, 0, count, dim]), True)

        def positioned(x: Node, norm: str) -> Node:
            return _rotate(_swap(self._norm(x, prefix + norm, dim)), positions, dim)

        q = positioned(heads("q", config.heads), "q_norm.weight")
        k = positioned(heads("k", config.kv_heads), "k_norm.weight")
        v = _swap(heads("v", config.kv_heads))
        attended = opset13.scaled_dot_product_attention(
            q,
            self._cached(k, f"{layer}.key", inputs),
            self._cached(v, f"{layer}.value", inputs),
            mask,
            opset13.constant(np.float32(dim**-0.5)),
            causal=False,
        )
        return opset13.reshape(_swap(attended), _ints([0, 0, config.heads * dim]), True)

    def _cached(self, new: Node, name: str, inputs: dict[str, Node]) -> Node:
        """Appends `new` to a state variable. Returns the whole state, repeated per query head."""
        kv_heads, dim = self._config.kv_heads, self._config.head_dim
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, kv_heads, -1, dim])
        info.data_type = Type.f32
        info.variable_id = f"past_key_values.{name}present.{name}"
        variable = Variable(info)
        empty = opset13.concat([_size(inputs["input_ids"], 0), _ints([kv_heads, 0, dim])], 0)
        past = opset13.read_value(
            opset13.broadcast(opset13.constant(np.float32(0)), empty), variable
        )
        past = opset13.gather(past, inputs["beam_idx"], _ints(0))
        whole = opset13.concat([past, new], -2)
        self.sinks.append(opset13.assign(whole, variable))
        group = self._config.heads // kv_heads
        repeated = opset13.broadcast(
            opset13.unsqueeze(whole, _ints(2)),
            opset13.concat(
                [_size(whole, 0), _ints([kv_heads, group]), _size(whole, 2), _ints([dim])], 0
            ),
            "BIDIRECTIONAL",
        )
        return opset13.reshape(repeated, _ints([0, kv_heads * group, -1, dim]), True)

    def _norm(self, x: Node, name: str, width: int) -> Node:
        weight = self._weights.get(name, width).float32()
        square = opset13.power(x, opset13.constant(np.float32(2)))
        mean = opset13.reduce_mean(square, _ints([-1]), True)
        root = opset13.sqrt(
            opset13.add(mean, opset13.constant(np.float32(self._config.rms_norm_eps)))
        )
        scale = opset13.divide(opset13.constant(np.float32(1)), root)
        return opset13.multiply(opset13.multiply(x, scale), opset13.constant(weight))

    def _linear(self, x: Node, name: str, rows: int, columns: int) -> Node:
        return opset13.matmul(x, self._matrix(name, rows, columns)(), False, True)

    def _matrix(self, name: str, rows: int, columns: int) -> Callable[[], Node]:
        return matrix(self._weights.get(name, rows, columns), self._kind)


def _ints(value: int | list[int]) -> Node:
    return opset13.constant(np.asarray(value, np.int64))


def _size(x: Node, axis: int) -> Node:
    return opset13.gather(opset13.shape_of(x, "i64"), _ints([axis]), _ints(0))


def _swap(x: Node) -> Node:
    """[batch, tokens, heads, dim] <-> [batch, heads, tokens, dim]."""
    return opset13.transpose(x, _ints([0, 2, 1, 3]))


def _rotary(config: ModelConfig, position_ids: Node) -> tuple[Node, Node]:
    """Cosine and sine of each position's angles: [batch, 1, tokens, head_dim]."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = (config.rope_theta**-exponents).astype(np.float32)
    positions = opset13.unsqueeze(opset13.convert(position_ids, "f32"), _ints(2))
    angles = opset13.multiply(positions, opset13.constant(frequencies.reshape(1, 1, -1)))
    angles = opset13.unsqueeze(opset13.concat([angles, angles], -1), _ints(1))
    return opset13.cos(angles), opset13.sin(angles)


def _rotate(x: Node, positions: tuple[Node, Node], dim: int) -> Node:
    cosine, sine = positions
    # This form, with these constants, is what the plugin fuses into one operation.
    low, high = opset13.variadic_split(x, _ints(3), _ints([dim // 2, dim // 2])).outputs()
    turned = opset13.concat([opset13.multiply(high, opset13.constant(np.float32(-1))), low], -1)
    return opset13.add(opset13.multiply(x, cosine), opset13.multiply(turned, sine))


def _causal_mask(input_ids: Node, attention_mask: Node) -> Node:
    """[batch, 1, tokens, past + tokens]: 0 where a token may attend, far below 0 elsewhere."""
    total = opset13.squeeze(_size(attention_mask, 1), _ints([0]))
    past = opset13.subtract(total, opset13.squeeze(_size(input_ids, 1), _ints([0])))
    rows = opset13.unsqueeze(opset13.range(past, total, _ints(1), "i64"), _ints(1))
    columns = opset13.unsqueeze(opset13.range(_ints(0), total, _ints(1), "i64"), _ints(0))
    present = opset13.unsqueeze(opset13.convert(attention_mask, "boolean"), _ints([1, 2]))
    allowed = opset13.logical_and(opset13.less_equal(columns, rows), present)
    return opset13.select(allowed, opset13.constant(np.float32(0)), opset13.constant(_MASKED))
