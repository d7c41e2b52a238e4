"""A model before the tiny guard's tokenizer that judges as a test says."""

from collections.abc import Callable

from tokenizers import Tokenizer

from guard_core.verdict.grammar import Verdict, write
from guard_core.verdict.prompt import Prompt
from tests.support.slots import tiny_files
from tests.support.stand_ins.fake_engine import Answer, Asked, writes


class Script:
    """An engine's `answer`: `judge` says what the model writes of a conversation as rendered.

    A text instead of a verdict is the engine's error. `judged` has the conversations in order.
    """

    def __init__(self, prompt: Prompt, judge: Callable[[str], Verdict | str]) -> None:
        self._prompt = prompt
        self._tokenizer = Tokenizer.from_str(tiny_files()[1])
        self._end = prompt.added_tokens["<|im_end|>"]
        self._judge = judge
        self.judged: list[str] = []

    def __call__(self, asked: Asked) -> Answer:
        # Prompt's own decoding keeps no character that several tokens make.
        text = self._tokenizer.decode(asked.prompt, skip_special_tokens=False)
        rendered = text.partition("?\n\n")[2].partition("\n\n<END>")[0]
        if asked.draft:
            self.judged.append(rendered)
        found = self._judge(rendered)
        if isinstance(found, str):
            return found
        if "LAST ASSISTANT" in text:
            found = Verdict(found.severity, found.categories, refusal=False)
        return writes([*self._prompt.encode(write(found)), self._end], end_id=self._end)(asked)
