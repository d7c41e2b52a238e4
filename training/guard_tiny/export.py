"""Writes and reads the checkpoint's files, in the format of Hugging Face."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from guard_core.slot.manifest import TEMPLATE, TOKENIZER
from guard_tiny.tokenizer import END_OF_TEXT, IM_END

TEMPLATE_SOURCE = Path(__file__).parent / TEMPLATE
VOCAB_SIZE = 12288


def architecture(tokenizer: Tokenizer) -> dict[str, object]:
    """The content of config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "eos_token_id": tokenizer.token_to_id(IM_END),
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 192,
        "initializer_range": 0.02,
        "intermediate_size": 576,
        "max_position_embeddings": 16384,
        "model_type": "qwen3",
        "num_attention_heads": 6,
        "num_hidden_layers": 4,
        "num_key_value_heads": 3,
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": tokenizer.get_vocab_size(),
    }


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Writes every file of the checkpoint except the weights and the card."""
    directory.mkdir(parents=True, exist_ok=True)
    end, pad = tokenizer.token_to_id(IM_END), tokenizer.token_to_id(END_OF_TEXT)
    tokenizer.save(str(directory / TOKENIZER), pretty=False)
    shutil.copyfile(TEMPLATE_SOURCE, directory / TEMPLATE)
    _write(directory / "config.json", architecture(tokenizer))
    _write(
        directory / "generation_config.json",
        {"do_sample": False, "eos_token_id": [end, pad], "pad_token_id": pad},
    )
    _write(
        directory / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": IM_END,
            "model_max_length": 16384,
            "pad_token": END_OF_TEXT,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def new_model(directory: Path) -> Qwen3ForCausalLM:
    """A model with random weights in the shape of config.json."""
    config = json.loads((directory / "config.json").read_text())
    theta = config["rope_theta"]
    # transformers 5 reads the base from rope_parameters; older readers want rope_theta.
    rope = {"rope_type": "default", "rope_theta": theta}
    # Training is in float32, whatever the checkpoint's type.
    model: Qwen3ForCausalLM = Qwen3ForCausalLM(
        Qwen3Config(**{**config, "torch_dtype": "float32"}, rope_parameters=rope)
    )
    return model


def save_weights(directory: Path, model: Qwen3ForCausalLM) -> None:
    """Writes the weights in bf16, without lm_head, which is the embedding."""
    weights = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    partial = directory / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors writes for its owner only
    partial.replace(directory / "model.safetensors")


def load_model(directory: Path) -> Qwen3ForCausalLM:
    """A model with the stored weights, in float32."""
    model = new_model(directory)
    weights = load_file(directory / "model.safetensors")
    missing, unexpected = model.load_state_dict(
        {name: tensor.float() for name, tensor in weights.items()}, strict=False
    )
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise ValueError(f"weights don't fit: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.train(False)
    return model
