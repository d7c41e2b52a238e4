"""`python -m guard_tiny.data.held_out`: writes the held-out rows as a set for `guard eval`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from guard_tiny.data.training_rows import read_rows


def main(
    *,
    data: Annotated[Path, typer.Option(help="the training rows")],
    out: Annotated[Path, typer.Option(help="the JSONL file to write")],
) -> None:
    """Write the rows that are never trained on, with the labels of the data itself."""
    rows = [row for row in read_rows(data) if row.held_out and row.prompt]
    lines = []
    for row in rows:
        texts = {"prompt": row.prompt, "prompt_label": row.prompt_label}
        if row.response and (row.response_label or row.refusal):
            reply = {"response_label": row.response_label, "refusal": row.refusal}
            texts |= {"response": row.response, **reply}
        if row.prompt_label or "response" in texts:
            given = {field: text for field, text in texts.items() if text}
            lines.append(json.dumps({"id": row.id} | given, ensure_ascii=False))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
