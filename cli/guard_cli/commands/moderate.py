"""`guard moderate`: judge conversations by a running server; the exit code tells the action."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import grpc
import typer
from google.protobuf.json_format import MessageToJson
from google.rpc import status_pb2
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from guard_cli.connection import (
    CHANNEL_OPTIONS,
    DEFAULT_TARGET,
    CaOption,
    CertOption,
    KeyOption,
    TargetOption,
    credentials,
)
from guard_cli.controversial import ControversialOption
from guard_cli.conversations import Conversation, ConversationUnreadable, of_lines, of_text
from guard_cli.options import fail
from qwen3guard.v1 import moderation_pb2, moderation_pb2_grpc, types_pb2

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
            help="A prompt in a text file, or conversations in a .jsonl file.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="The input is JSON Lines.")] = False,
    controversial: Annotated[
        ControversialOption, typer.Option(help="How Controversial is treated.")
    ] = ControversialOption.strict,
    scores: Annotated[bool, typer.Option("--scores", help="Ask for probabilities too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    target: TargetOption = DEFAULT_TARGET,
    tls_ca: CaOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
) -> None:
    """Judge a prompt, a response, or many conversations.

    Exit code: 0 allow, 3 review, 4 block (the strictest of all); 1 if one could not be judged.
    """
    try:
        conversations = _read(text, response, file, jsonl)
    except UnicodeError:
        fail("The input is not UTF-8. Send text, not binary data.", code=2)
    except ConversationUnreadable as error:
        fail(str(error), code=2)
    policy = types_pb2.Policy(controversial=controversial.treatment)
    requests = [
        moderation_pb2.ModerateRequest(
            conversation=conversation.messages, policy=policy, with_scores=scores
        )
        for conversation in conversations
    ]
    with _channel(target, tls_ca, tls_cert, tls_key) as channel:
        answers = _judge(moderation_pb2_grpc.ModerationServiceStub(channel), requests, target)
    if json:
        for answer in answers:
            compact = MessageToJson(answer, preserving_proto_field_name=True, indent=None)
            sys.stdout.write(compact + "\n")
    else:
        Console().print(_table(conversations, answers))
    raise typer.Exit(_exit_code(answers))


def _judge(
    stub: moderation_pb2_grpc.ModerationServiceStub,
    requests: Sequence[moderation_pb2.ModerateRequest],
    target: str,
) -> list[moderation_pb2.StreamModerateResponse]:
    """The answers in the requests' order. What the stream's end left open becomes an error."""
    stream = stub.StreamModerate(
        moderation_pb2.StreamModerateRequest(id=str(index), request=request)
        for index, request in enumerate(requests)
    )
    answers: dict[int, moderation_pb2.StreamModerateResponse] = {}
    ended = status_pb2.Status()
    try:
        for answer in track(
            stream,
            description="Moderating",
            total=len(requests),
            console=Console(stderr=True),
            transient=True,
            disable=len(requests) < 20,
        ):
            answers[int(answer.id)] = answer
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)  # noqa: S101  (grpc raises both in one)
        if not answers and error.code() is grpc.StatusCode.UNAVAILABLE:
            fail(f"No server answers at {target} ({error.details()}). Start one: `make serve`.")
        code: int = error.code().value[0]
        ended = status_pb2.Status(code=code, message=f"not answered: {error.details()}")
    return [
        answers.get(index) or moderation_pb2.StreamModerateResponse(id=str(index), error=ended)
        for index in range(len(requests))
    ]


def _read(
    text: str | None, response: str | None, file: Path | None, jsonl: bool
) -> Sequence[Conversation]:
    if (text is None) == (file is None):
        fail("Give a text, - for standard input, or --file FILE.", code=2)
    if file is not None:
        text = file.read_text(encoding="utf-8")
        jsonl = jsonl or file.suffix == ".jsonl"
    elif text == "-":
        text = sys.stdin.buffer.read().decode("utf-8")
    assert text is not None  # noqa: S101  (one of the two was given)
    return list(of_lines(text)) if jsonl else [of_text(text, response)]


def _channel(target: str, ca: Path | None, cert: Path | None, key: Path | None) -> grpc.Channel:
    trusted = credentials(ca, cert, key)
    if trusted is None:
        return grpc.insecure_channel(target, CHANNEL_OPTIONS)
    return grpc.secure_channel(target, trusted, CHANNEL_OPTIONS)


def _table(
    conversations: Sequence[Conversation],
    answers: Sequence[moderation_pb2.StreamModerateResponse],
) -> Table:
    table = Table("Action", "Severity", "Categories", "Refusal", box=box.SIMPLE_HEAD, expand=True)
    table.add_column("Judged text", ratio=1, no_wrap=True, overflow="ellipsis")
    for conversation, answer in zip(conversations, answers, strict=True):
        judged = escape(" ".join(conversation.judged.split()))
        if answer.HasField("error"):
            table.add_row("[magenta]none", "", escape(answer.error.message), "", judged)
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


def _exit_code(answers: Sequence[moderation_pb2.StreamModerateResponse]) -> int:
    if any(answer.HasField("error") for answer in answers):
        return 1
    return max((_EXIT_CODES[answer.response.action] for answer in answers), default=0)
