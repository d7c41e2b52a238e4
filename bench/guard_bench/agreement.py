"""How often two weight formats of one checkpoint reach the same verdict.

python -m guard_bench.agreement --checkpoint checkpoints/tiny-guard --data ../shared/data/eval
"""

import argparse
import json
import queue
import sys
import tempfile
from collections.abc import Iterable
from math import sqrt
from pathlib import Path
from typing import get_args

from guard_engine import (
    Completion,
    Engine,
    EngineError,
    EngineOptions,
    Request,
    WeightFormat,
    build_graph,
    save_graph,
)
from guard_server.prompt import ASSISTANT, USER, Message, Prompt

_IN_FLIGHT = 32
_OPTIONS = EngineOptions(
    max_input_tokens=8192,
    max_output_tokens=64,
    max_draft_tokens=24,
    max_in_flight=_IN_FLIGHT,
    kv_blocks=4096,
)


def conversations(data: Path) -> list[list[Message]]:
    """All of the .jsonl files in `data`: objects with `prompt` and `response`, or null."""
    found = []
    for path in sorted(data.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            turns = [(USER, row["prompt"]), (ASSISTANT, row["response"])]
            found.append([Message(role, text) for role, text in turns if text])
    return found


def write_verdicts(
    checkpoint: Path, weights: WeightFormat, conversations: Iterable[list[Message]]
) -> list[str]:
    """What the model writes of each, decoded greedily by an engine with `weights`."""
    prompt = Prompt.load(checkpoint)
    end_ids = json.loads((checkpoint / "config.json").read_bytes())["eos_token_id"]
    ends = frozenset(end_ids if isinstance(end_ids, list) else [end_ids])
    with tempfile.TemporaryDirectory() as directory:
        xml = Path(directory) / "openvino_model.xml"
        save_graph(build_graph(checkpoint, weights=weights), xml)
        engine = Engine(xml, _OPTIONS)
    arrived: queue.SimpleQueue[Completion | EngineError] = queue.SimpleQueue()
    texts: dict[str, str] = {}
    names = []
    for number, messages in enumerate(conversations):
        names.append(str(number))
        engine.submit(Request(names[-1], prompt.ids(messages), 64, (), ends), arrived.put)
    for _ in names:
        outcome = arrived.get()
        if isinstance(outcome, EngineError):
            raise outcome
        texts[outcome.request_id] = prompt.decode(outcome.output_ids)
    engine.close()
    return [texts[name] for name in names]


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95% interval of a share."""
    z, share = 1.96, successes / trials
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    return middle - half, middle + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", choices=get_args(WeightFormat), default="int8")
    options = parser.parse_args()
    asked = conversations(options.data)
    exact = write_verdicts(options.checkpoint, "f32", asked)
    other = write_verdicts(options.checkpoint, options.weights, asked)
    equal = sum(a == b for a, b in zip(exact, other, strict=True))
    low, high = wilson(equal, len(asked))
    sys.stdout.write(
        f"{options.weights} and f32 write the same verdict in {equal} of {len(asked)} "
        f"conversations: {equal / len(asked):.4f} (95% interval {low:.4f} to {high:.4f}).\n"
    )


if __name__ == "__main__":
    main()
