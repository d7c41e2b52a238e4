"""Refusals: a heuristic label for replies without one, and refusals that we wrote."""

import random
import re

from guard_tiny.data.labels import Label
from guard_tiny.data.own_sentences import PHRASES

# Refusals come in the first letters. Later, the same words are mostly quoted or part of role play.
_OPENING = 160
# A reply that refuses and then continues as another persona has complied.
_SECOND_VOICE = re.compile(r"\[[A-Z][^\]\n]{1,40}\]:?[^\[]*\[[A-Z][^\]\n]{1,40}\]", re.DOTALL)
_PHRASES = re.compile(
    r"\bI(?:['\u2019]m| am) (?:really |so |very |truly )?sorry\b.{0,60}"
    r"\b(?:can|unable|not able|won)"
    r"|\bI (?:can ?not|can['\u2019]?t|could ?n['\u2019]t|won['\u2019]t|will not|must decline"
    r"|refuse to)\b.{0,40}"
    r"\b(?:assist|help|provide|fulfil|support|offer|give|create|write|generate|answer|do that"
    r"|discuss|comply|engage|share|continue|participate|condone|encourage|promote)"
    r"|\bI(?:['\u2019]m| am) (?:unable|not able|not going|not comfortable)\b"
    r"|\bAs an? (?:AI|responsible|ethical)\b.{0,80}"
    r"\b(?:can ?not|can['\u2019]t|not able|unable|won['\u2019]t)"
    r"|(?:我|本人|作为).{0,30}(?:不能|无法|不会|拒绝|不可以)"
    r"|(?:抱歉|对不起|很遗憾).{0,30}(?:不能|无法|不会)"
    r"|\bje ne (?:peux|puis) pas|\bdésolé.{0,40}ne (?:peux|puis)|\bno puedo (?:ayudar|proporcionar)"
    r"|\bich kann (?:dir|ihnen|dabei|das) .{0,30}nicht|\bnon posso (?:aiutar|fornir)"
    r"|\bnão posso (?:ajudar|fornecer)|я не могу|не могу помочь|できません|할 수 없습니다"
    r"|لا أستطيع|لا يمكنني|tidak (?:bisa|dapat) membantu|không thể (?:giúp|cung cấp)",
    re.IGNORECASE,
)


def looks_like_refusal(response: str, response_label: str | None) -> bool:
    """Whether the reply refuses the request, by the phrases in its beginning."""
    if not _PHRASES.search(response[:_OPENING]):
        return False
    if _SECOND_VOICE.search(response):
        return False
    # A long reply that is labelled harmful has complied after the apology.
    return response_label != "unsafe" or len(response) < 240


def own_refusals(
    prompts: list[str], count: int, rng: random.Random
) -> list[tuple[str, str, Label]]:
    """Draws `count` prompts with a refusal and its label: Safe, Refusal: Yes."""
    made = []
    for _ in range(count):
        reply = rng.choice(PHRASES["refusals"]) + rng.choice(PHRASES["refusal_closings"])
        made.append((rng.choice(prompts), reply, Label("Safe", None, True)))
    return made
