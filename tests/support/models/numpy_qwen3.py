"""Qwen3 in plain float32 numpy: what the engine is measured against. No cache, no batching."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass
class Answer:
    output_ids: list[int]
    log_probs: list[float]
    logits: Array


@dataclass(frozen=True)
class NumpyQwen3:
    """`config` as in config.json; `tensors` under their Hugging Face names."""

    config: dict[str, Any]
    tensors: dict[str, Array]

    def logits(self, ids: Sequence[int]) -> Array:
        """Logits after each of `ids`: [len(ids), vocab]."""
        config, tensors = self.config, self.tensors
        x = tensors["model.embed_tokens.weight"][list(ids)]
        for layer in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            x = x + self._attention(prefix, self._norm(x, prefix + "input_layernorm.weight"))
            x = x + self._mlp(prefix, self._norm(x, prefix + "post_attention_layernorm.weight"))
        x = self._norm(x, "model.norm.weight")
        head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
        return x @ tensors[head].T

    def greedy(
        self, prompt: Sequence[int], length: int, end_ids: frozenset[int] = frozenset()
    ) -> Answer:
        ids = list(prompt)
        log_probs: list[float] = []
        rows: list[Array] = []
        while len(rows) < length and not (rows and ids[-1] in end_ids):
            row = self.logits(ids)[-1]
            rows.append(row)
            ids.append(int(row.argmax()))
            log_probs.append(float(row.max() - np.log(np.exp(row.astype(np.float64)).sum())))
        return Answer(ids[len(prompt) :], log_probs, np.stack(rows))

    def _norm(self, x: Array, name: str) -> Array:
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.config["rms_norm_eps"]))
        normed: Array = x / scale * self.tensors[name]
        return normed

    def _mlp(self, prefix: str, x: Array) -> Array:
        gate = x @ self.tensors[prefix + "mlp.gate_proj.weight"].T
        up = x @ self.tensors[prefix + "mlp.up_proj.weight"].T
        inner: Array = gate / (1 + np.exp(-gate)) * up
        return inner @ self.tensors[prefix + "mlp.down_proj.weight"].T

    def _attention(self, prefix: str, x: Array) -> Array:
        config, tokens = self.config, len(x)
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        dim = config["head_dim"]

        def split(name: str) -> Array:
            projected = x @ self.tensors[f"{prefix}self_attn.{name}_proj.weight"].T
            return projected.reshape(tokens, -1, dim).transpose(1, 0, 2)

        q = self._rotate(self._norm(split("q"), prefix + "self_attn.q_norm.weight"))
        k = self._rotate(self._norm(split("k"), prefix + "self_attn.k_norm.weight"))
        k, v = (y.repeat(heads // kv_heads, axis=0) for y in (k, split("v")))
        scores = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(dim))
        scores = np.where(np.tri(tokens, dtype=bool), scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = weights / weights.sum(-1, keepdims=True) @ v
        joined: Array = attended.transpose(1, 0, 2).reshape(tokens, heads * dim)
        return joined @ self.tensors[prefix + "self_attn.o_proj.weight"].T

    def _rotate(self, x: Array) -> Array:
        half = x.shape[-1] // 2
        frequencies = self.config["rope_theta"] ** -(np.arange(half) / half)
        angles = (np.arange(x.shape[1])[:, None] * frequencies).astype(np.float32)
        cosine, sine = np.cos(angles), np.sin(angles)
        low, high = x[..., :half], x[..., half:]
        return np.concatenate([low * cosine - high * sine, high * cosine + low * sine], -1)
