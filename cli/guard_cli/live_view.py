"""An answer that is typed at a rate, and how far it is cleared, held or stopped meanwhile."""

import sys
import time
from collections.abc import Iterator

from google.protobuf.json_format import MessageToJson
from rich.console import Console
from rich.live import Live
from rich.text import Text

from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard_client import Client, LiveEvent

_STEP_S = 0.05  # between two parts
_CLEARED, _HELD, _UNJUDGED = "green", "bold red", "dim"


class LiveView:
    """The answer as it stands: what is cleared, judged but held, and not judged yet."""

    def __init__(self, answer: str) -> None:
        self._answer = answer.encode()
        self._typed = 0  # bytes
        self._reply = pb.ModerateLiveResponse()

    def type(self, rate: float) -> Iterator[str]:
        """The answer in parts, at so many characters a second."""
        answer, due = self._answer.decode(), 0.0
        while answer:
            due += rate * _STEP_S
            part, answer = answer[: int(due)], answer[int(due) :]
            due -= len(part)
            if part:
                self._typed += len(part.encode())
                yield part
            time.sleep(_STEP_S)

    def take(self, event: LiveEvent) -> None:
        """What the newest reply says."""
        self._reply = event.reply

    def __rich__(self) -> Text:
        reply = self._reply
        cleared, judged = reply.cleared_bytes, max(reply.judged_bytes, reply.cleared_bytes)
        shown = Text()
        for start, end, style in (
            (0, cleared, _CLEARED),
            (cleared, judged, _HELD),
            (judged, max(self._typed, judged), _UNJUDGED),
        ):
            shown.append(self._answer[start:end].decode(errors="replace"), style)
        word = pb.LiveState.Name(reply.state).removeprefix("LIVE_STATE_").capitalize()
        if reply.state:
            counts = f"{cleared:,} of {len(self._answer):,} bytes cleared, {reply.checks} checks"
            shown.append(f"\n{word}: {counts}", "bold")
        return shown


def type_answer(
    client: Client, start: pb.LiveStart, answer: str, rate: float, *, json: bool
) -> pb.ModerateLiveResponse:
    """Shows the answer while it is judged; gives the last reply. Raises GuardError.

    `json`: prints each reply as a line instead.
    """
    view = LiveView(answer)
    events = client.live(start, view.type(rate))
    last = pb.ModerateLiveResponse()
    if json:
        for event in events:
            last = event.reply
            compact = MessageToJson(last, preserving_proto_field_name=True, indent=None)
            sys.stdout.write(compact + "\n")
            sys.stdout.flush()
        return last
    console = Console()
    # Where it is no terminal, nothing can be shown again: only the end is.
    with Live(view, console=console, refresh_per_second=10, transient=True):
        for event in events:
            last = event.reply
            view.take(event)
    console.print(view)
    return last
