"""`python -m guard_tiny.reference`: writes what transformers computes, for the engine's tests.

Run it once after each training. It decodes greedily, in float32 on a CPU, from the stored bf16
weights. An engine must write the same ids with nearly the same log-probabilities.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import Qwen3ForCausalLM

from guard_core.conversation import Message
from guard_core.slot.slot_files import load_prompt
from guard_core.verdict.grammar import SEVERITY_KEY
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import SEVERITIES
from guard_tiny.export import load_model
from guard_tiny.tokenizer import IM_END

_CASES = Path(__file__).parent / "reference_cases.json"
_DIGITS = 6
_MAX_NEW_TOKENS = 24


def _greedy(model: Qwen3ForCausalLM, prompt: Sequence[int], end: int) -> list[int]:
    """Output ids, including the end id if the model wrote it."""
    written = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=_MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )
    output: list[int] = written[0, len(prompt) :].tolist()
    return output


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]


def _case(
    name: str, messages: list[Message], model: Qwen3ForCausalLM, prompt: Prompt
) -> dict[str, Any]:
    end = prompt.added_tokens[IM_END]
    ids = prompt.ids(messages)
    output = _greedy(model, ids, end)
    # One pass over all of it, without a cache, must make the same greedy choices.
    with torch.inference_mode():
        all_logits = model(torch.tensor([ids + output[:-1]]), use_cache=False).logits[0]
    logits = all_logits[len(ids) - 1 :]
    if logits.argmax(-1).tolist() != output:
        raise ValueError(f"{name}: a single pass and decoding step by step disagree")
    log_probs = logits.log_softmax(-1)[torch.arange(len(output)), torch.tensor(output)]
    severities = [prompt.encode(f" {severity}")[0] for severity in SEVERITIES]
    watched = [output[0], end, *severities]
    # The scores come from the token after "Safety:".
    position = len(prompt.encode(SEVERITY_KEY))
    return {
        "name": name,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "input_ids": ids,
        "output_ids": output,
        "log_probs": _rounded(log_probs),
        "text": prompt.decode(output[:-1]),
        "first_logits": dict(zip(map(str, watched), _rounded(logits[0, watched]), strict=True)),
        "severity_position": position,
        "severity_logits": dict(
            zip(SEVERITIES, _rounded(logits[position, severities]), strict=True)
        ),
    }


def main(
    *,
    checkpoint: Annotated[Path, typer.Option(help="the trained checkpoint's directory")],
    out: Annotated[Path, typer.Option(help="the JSON file to write")],
) -> None:
    """Compute the reference of every case in reference_cases.json."""
    torch.set_num_threads(1)
    model, prompt = load_model(checkpoint), load_prompt(checkpoint)
    cases = json.loads(_CASES.read_text(encoding="utf-8"))
    made = []
    for case in cases:
        messages = [Message(m["role"], m["content"] * m.get("times", 1)) for m in case["messages"]]
        made.append(_case(case["name"], messages, model, prompt))
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in made)
    out.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
