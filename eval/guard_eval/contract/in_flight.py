"""Requests that are in flight together, and `stop`."""

from collections.abc import Iterator, Sequence

from guard_core.engine.tensors import Generation
from guard_eval.contract.asking import RawAnswer
from guard_eval.contract.finding import Finding, equal, holds
from guard_eval.contract.subject import Subject

_TOGETHER = 8
_NO_END = -1  # no token ends the answer, so that it goes on to its limit
_TRIES = 3  # on a busy machine an answer may be whole before its stop arrives


def together(subject: Subject) -> Iterator[Finding]:
    """They differ in their length only."""
    written = subject.written
    lengths = [1 + number % len(written) for number in range(_TOGETHER)]
    asked = [Generation(subject.prompt, subject.end, length) for length in lengths]
    found = [answer.ids for answer in subject.engine.ask_together(asked)]
    wanted = [written[:length] for length in lengths]
    yield equal("requests in flight together get their own answers", found, wanted)


def drafts_together(subject: Subject) -> Iterator[Finding]:
    """The gateway's usual traffic: wrong drafts, and right ones for the rest of an answer."""
    written, end = subject.written, subject.end
    if len(written) + 1 > subject.limits.max_draft_tokens:
        return
    asked, wanted = [], []
    for number in range(_TOGETHER):
        at = number % len(written)
        if number % 2:
            prompt, draft = [*subject.prompt, *written[:at]], [*written[at:], end]
            wanted.append(written[at:])
        else:
            prompt, draft = subject.prompt, subject.wrong_at(at)
            wanted.append(written[: at + 1])
        asked.append(Generation(prompt, end, len(draft) + 1, draft))
    found = [answer.ids for answer in subject.engine.ask_together(asked)]
    yield equal("drafts in flight together get their own answers", found, wanted)


def stopping(subject: Subject) -> Iterator[Finding]:
    """The gateway stops what its caller no longer waits for."""
    most = subject.limits.max_output_tokens
    endless = Generation(subject.prompt, _NO_END, most)
    for _ in range(_TRIES):
        came = subject.engine.ask_and_stop(endless)
        if passed := _acknowledged(came, 2) and any(_is_stopped(subject, each) for each in came):
            break
    yield holds(
        "a request and its stop",
        passed=passed,
        wanted="2 answers: one without outputs, which acknowledges the stop; and an error, or what "
        f"the model writes, but fewer than {most} tokens",
        found=[answer.ids for answer in came],
    )
    came = subject.engine.stop_unknown()
    yield holds(
        "the stop of an unknown request",
        passed=_acknowledged(came, 1),
        wanted="1 answer, without outputs, which acknowledges the stop",
        found=[answer.ids for answer in came],
    )


def _acknowledged(answers: Sequence[RawAnswer], count: int) -> bool:
    empty = sum(not answer.error and not answer.outputs for answer in answers)
    return (len(answers), empty) == (count, 1)


def _is_stopped(subject: Subject, answer: RawAnswer) -> bool:
    if answer.generated is None:
        return bool(answer.error)
    ids, written = answer.generated.ids, subject.written
    agreed = min(len(ids), len(written))  # what the model writes after its end is not known
    return len(ids) < subject.limits.max_output_tokens and ids[:agreed] == written[:agreed]
