"""`guard moderate`: judge conversations by a running server; the exit code gives the action."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson
from google.rpc import status_pb2
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from guard_cli.connection import connect, credentials, fail_unavailable
from guard_cli.controversial import ControversialOption
from guard_cli.live_view import type_answer
from guard_cli.options import (
    DEFAULT_TARGET,
    CaOption,
    CertOption,
    IgnoreOption,
    JsonLinesOption,
    KeyOption,
    TargetOption,
    fail,
)
from guard_eval.datasets import ROW_FILES, load_examples, parse_json_lines
from guard_eval.errors import DataInvalid
from guard_eval.rows import Example
from guard_eval.service import to_contract
from qwen3guard.v1 import types_pb2
from qwen3guard.v1.moderation_pb2 import LiveStart, ModerateRequest, StreamModerateResponse
from qwen3guard_client import Client, GuardError, Unavailable, request

_EXIT_CODES = {
    types_pb2.ACTION_ALLOW: 0,
    types_pb2.ACTION_REVIEW: 3,
    types_pb2.ACTION_BLOCK: 4,
}
_COLOURS = {
    types_pb2.ACTION_ALLOW: "green",
    types_pb2.ACTION_REVIEW: "yellow",
    types_pb2.ACTION_BLOCK: "red",
}


def moderate(
    text: Annotated[str | None, typer.Argument(help="A prompt; - for standard input.")] = None,
    response: Annotated[
        str | None, typer.Option(help="The answer to the prompt: it is judged instead.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="A prompt in a text file, or conversations in a .jsonl or .csv file.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    live: Annotated[
        Path | None,
        typer.Option(
            help="A text file with the answer to the prompt: it is typed, and judged meanwhile.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Characters a second that --live types.", min=1)
    ] = 200,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="The input is JSON Lines.")] = False,
    ignore: IgnoreOption = None,
    controversial: Annotated[
        ControversialOption | None,
        typer.Option(help="How Controversial is treated. Default: the server's policy for you."),
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Ask for probabilities too.")] = False,
    json: JsonLinesOption = False,
    target: TargetOption = DEFAULT_TARGET,
    tls_ca: CaOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
) -> None:
    """Judge a prompt, a response (also live), or many conversations.

    Exit code: 0 allow, 3 review, 4 block (the strictest of all); 1 if one could not be judged.
    """
    try:
        named = _read(text, response, file, ignore or (), jsonl=jsonl)
    except UnicodeError:
        fail("The input is not UTF-8. Send text, not binary data.", code=2)
    except DataInvalid as error:
        fail(str(error), code=2)
    requests = [asked for _, asked in named]
    for asked in requests:
        if controversial is not None:
            asked.policy.controversial = controversial.treatment
        asked.with_scores = scores
    with connect(Client, target, credentials(tls_ca, tls_cert, tls_key)) as client:
        if live is not None:
            raise typer.Exit(_type(client, requests, live, rate, target, json=json))
        answers = _judge(client, requests, target)
    _show([name for name, _ in named], requests, answers, json=json)
    raise typer.Exit(_exit_code(answers))


def _show(
    names: Sequence[str],
    requests: Sequence[ModerateRequest],
    answers: Sequence[StreamModerateResponse],
    *,
    json: bool,
) -> None:
    if json:
        for name, answer in zip(names, answers, strict=True):
            answer.id = name
            compact = MessageToJson(answer, preserving_proto_field_name=True, indent=None)
            sys.stdout.write(compact + "\n")
        return
    out = Console()
    out.print(_table(requests, answers))
    for name, answer in zip(names, answers, strict=True):
        if answer.HasField("error"):
            out.print(f"[magenta]none[/]  {escape(f'{name}: {answer.error.message}')}")


def _type(
    client: Client,
    requests: Sequence[ModerateRequest],
    file: Path,
    rate: float,
    target: str,
    *,
    json: bool,
) -> int:
    """Judges the file's text as the answer to the one prompt; gives the exit code."""
    if len(requests) != 1 or requests[0].conversation[-1].role != types_pb2.ROLE_USER:
        fail("--live needs one prompt, without --response: the answer is in its file.", code=2)
    try:
        answer = file.read_text(encoding="utf-8")
    except UnicodeError:
        fail(f"{file} is not UTF-8. Send text, not binary data.", code=2)
    try:
        last = type_answer(client, LiveStart(request=requests[0]), answer, rate, json=json)
    except GuardError as error:
        if isinstance(error, Unavailable):
            fail_unavailable(target, error)
        fail(str(error))
    return _EXIT_CODES[last.action]


def _judge(
    client: Client, requests: Sequence[ModerateRequest], target: str
) -> list[StreamModerateResponse]:
    """The answers in order, without ids. Requests that the stream left unanswered are errors."""
    answers: dict[int, StreamModerateResponse] = {}
    ended = status_pb2.Status()
    try:
        for outcome in track(
            client.stream(requests),
            description="Moderating",
            total=len(requests),
            console=Console(stderr=True),
            transient=True,
            disable=len(requests) < 20,
        ):
            answers[outcome.index] = StreamModerateResponse(
                response=outcome.response,
                error=outcome.error and outcome.error.status,
            )
    except GuardError as error:
        if not answers and isinstance(error, Unavailable):
            fail_unavailable(target, error)
        ended = status_pb2.Status(code=error.status.code, message=f"not answered: {error}")
    return [
        answers.get(index) or StreamModerateResponse(error=ended) for index in range(len(requests))
    ]


def _read(
    text: str | None,
    response: str | None,
    file: Path | None,
    ignore: Sequence[str],
    *,
    jsonl: bool,
) -> list[tuple[str, ModerateRequest]]:
    """Requests with their names: a row's own `id`, or its line.

    Raises DataInvalid for rows that can't be used, and UnicodeError for other text.
    """
    if (text is None) == (file is None):
        fail("Give a text, - for standard input, or --file FILE.", code=2)
    if file is not None and file.suffix in ROW_FILES and not jsonl:
        return _asked(load_examples(file, ignore))
    if file is not None:
        source, raw = str(file), file.read_bytes()
    elif text == "-":
        source, raw = "standard input", sys.stdin.buffer.read()
    else:
        assert text is not None  # noqa: S101  (one of the two was given)
        source, raw = "TEXT", text.encode()
    if jsonl:
        return _asked(parse_json_lines(raw, source, ignore))
    # An empty prompt is sent as well: the server says what is wrong with it.
    prompt = types_pb2.Message(role=types_pb2.ROLE_USER, content=raw.decode("utf-8"))
    return [("text", request(conversation=[prompt], response=response))]


def _table(requests: Sequence[ModerateRequest], answers: Sequence[StreamModerateResponse]) -> Table:
    table = Table("Action", "Severity", "Categories", "Refusal", box=box.SIMPLE_HEAD, expand=True)
    table.add_column("Judged text", ratio=1, no_wrap=True, overflow="ellipsis")
    for asked, answer in zip(requests, answers, strict=True):
        judged = escape(" ".join(asked.conversation[-1].content.split()))
        if answer.HasField("error"):
            table.add_row("[magenta]none", "", "", "", judged)  # the reason is below the table
            continue
        verdict, action = answer.response.verdict, answer.response.action
        table.add_row(
            f"[{_COLOURS[action]}]{_word(types_pb2.Action.Name(action))}",
            _word(types_pb2.Severity.Name(verdict.severity)) + _percent(verdict),
            ", ".join(_word(types_pb2.Category.Name(item)) for item in verdict.categories),
            _word(types_pb2.Refusal.Name(verdict.refusal)) if verdict.HasField("refusal") else "",
            judged,
        )
    models = {
        f"{a.response.model.name} {a.response.model.fingerprint} (slot {a.response.model.slot})"
        + (" - a demonstration, not a moderator" if a.response.model.demonstration else "")
        for a in answers
        if a.HasField("response")
    }
    table.caption = "; ".join(sorted(models))
    return table


def _percent(verdict: types_pb2.Verdict) -> str:
    if not verdict.HasField("scores"):
        return ""
    s = verdict.scores
    return f"\nS {s.safe:.0%} C {s.controversial:.0%} U {s.unsafe:.0%}"


def _word(name: str) -> str:
    """ACTION_BLOCK -> Block; CATEGORY_UNETHICAL_ACTS -> Unethical acts."""
    return name.split("_", 1)[1].replace("_", " ").capitalize().replace("Pii", "PII")


def _exit_code(answers: Sequence[StreamModerateResponse]) -> int:
    if any(answer.HasField("error") for answer in answers):
        return 1
    return max((_EXIT_CODES[answer.response.action] for answer in answers), default=0)


def _asked(examples: Iterable[Example]) -> list[tuple[str, ModerateRequest]]:
    return [
        (example.id, request(conversation=to_contract(example.messages))) for example in examples
    ]
