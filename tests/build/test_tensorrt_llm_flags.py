"""Invalid formats and flags are rejected before any of TensorRT-LLM's tools runs."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_build import BuildFailed
from guard_build.tensorrt_llm import Format, KvCache, recipe
from guard_build.tensorrt_llm import flags as table
from tests.support.shared import SHARED

CONFIG_FACTS = SHARED / "reference" / "trtllm" / "trtllm_1.2.1_config_facts.json"


@pytest.mark.parametrize(
    ("kind", "kv_cache", "reason"),
    [
        (Format.FP8, KvCache.INT8, "does not work on an INT8 KV cache"),
        (Format.FP8, KvCache.BF16, "its attention runs in FP8"),
        (Format.W8A8, KvCache.FP8, "only beside FP8 weights"),
        (Format.W8A16, KvCache.FP8, "only beside FP8 weights"),
        (Format.BF16, KvCache.INT8, "does not work on an INT8 KV cache"),
    ],
)
def test_a_format_and_kv_cache_that_lose_block_reuse(
    kind: Format, kv_cache: KvCache, reason: str
) -> None:
    with pytest.raises(BuildFailed, match=reason):
        recipe(kind, kv_cache)
    fitting = recipe(kind).kv_cache
    assert recipe(kind, fitting) == recipe(kind)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--use_paged_contxt_fmha", "enable"], "has no flag --use_paged_contxt_fmha"),
        (["use_paged_context_fmha", "enable"], "has no flag use_paged"),
        (["--use_paged_context_fmha", "true"], "takes one of enable, disable; not true"),
        (["--max_draft_len", "many"], "takes a whole number"),
        (["--max_draft_len"], "lacks its value"),
        (["--multiple_profiles", "enable", "--opt_num_tokens", "8"], "conflicts"),
        (["--max_draft_len", "8", "--gather_context_logits"], "conflicts"),
    ],
)
def test_a_flag_that_the_tool_does_not_have(arguments: list[str], text: str) -> None:
    with pytest.raises(BuildFailed, match=text):
        table.check("trtllm-build", arguments)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12))
def test_an_unknown_flag_is_rejected(name: str) -> None:
    known = json.loads(Path(table.__file__).with_name("flags_1_2_1.json").read_text())
    if name not in known["quantize.py"]:
        with pytest.raises(BuildFailed):
            table.check("quantize.py", [f"--{name}", "1"])


@pytest.mark.reference
def test_the_table_agrees_with_the_facts_about_1_2_1() -> None:
    facts = json.loads(CONFIG_FACTS.read_text())
    by_class = {name.split("(")[0]: value for name, value in facts.items()}
    fields = {**by_class["BuildConfig"], **by_class["PluginConfig"]}
    ours = json.loads(Path(table.__file__).with_name("flags_1_2_1.json").read_text())
    tool_only = {
        *("checkpoint_dir", "output_dir", "log_level", "workers", "logits_dtype"),
        *("gather_all_token_logits", "fast_build", "strip_plan"),
    }
    assert set(ours["trtllm-build"]) - tool_only <= set(fields)
    for name, kind in ours["trtllm-build"].items():
        default = fields.get(name)
        if isinstance(default, bool):
            assert kind in ("switch", ["enable", "disable"]), name
        elif isinstance(default, int):
            assert kind == "int", name
