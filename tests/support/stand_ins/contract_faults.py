"""Engines that break the contract, each in one way: for faulty_engine.py.

They go by the limits of the native stand-in's slot.
"""

from tests.support.stand_ins.faulty_engine import Exchange, Tensors, inputs

OUTPUT, DRAFT, INPUT = 64, 16, 8192  # tokens at most
LONG = 8000  # of a prompt
GARBAGE = [7]


# ---- plain answers


def ends_after_one_token(exchange: Exchange) -> None:
    if exchange.ids:
        exchange.answer(exchange.ids[:1])


def says_nothing_to_prompts(exchange: Exchange) -> None:
    """Without a draft; the conversation with a response makes a longer prompt."""
    if exchange.ids and not exchange.draft and exchange.inputs["input_lengths"][0] < 60:
        exchange.answer([])


def counts_the_prompt(exchange: Exchange) -> None:
    if exchange.ids is not None:
        length = exchange.outputs["sequence_length"][0]
        exchange.outputs["sequence_length"] = [length + exchange.inputs["input_lengths"][0]]


def writes_an_undeclared_output(exchange: Exchange) -> None:
    exchange.fail("unexpected inference output 'arrival_time_ns' for model")


def returns_the_end(exchange: Exchange) -> None:
    ids = exchange.ids
    if ids is not None and not exchange.draft and len(ids) < _most(exchange):
        exchange.answer([*ids, exchange.inputs["end_id"][0]])


def lacks_an_output(exchange: Exchange) -> None:
    if "first_token_time_ns" in exchange.outputs:
        exchange.outputs.remove("first_token_time_ns")


def has_another_type(exchange: Exchange) -> None:
    if "acceptance_rate" in exchange.outputs:
        exchange.outputs.retype("acceptance_rate", "INT32")


def changes_its_mind(exchange: Exchange) -> None:
    if exchange.repeated and _most(exchange) == OUTPUT and exchange.ids:
        exchange.answer([*exchange.ids[:-1], *GARBAGE])


def reuses_nothing(exchange: Exchange) -> None:
    if "kv_cache_reused_blocks" in exchange.outputs:
        exchange.outputs["kv_cache_reused_blocks"] = [0]


def counts_reused_tokens(exchange: Exchange) -> None:
    if "kv_cache_reused_blocks" in exchange.outputs:
        exchange.outputs["kv_cache_reused_blocks"] = exchange.inputs["input_lengths"]


# ---- drafts


def rejects_the_end(exchange: Exchange) -> None:
    if exchange.draft and exchange.draft[:-1] == exchange.ids:
        exchange.answer(exchange.draft[:-2])


def misses_the_end_after_a_draft(exchange: Exchange) -> None:
    if exchange.draft and exchange.draft == exchange.ids:
        exchange.answer([*exchange.draft, *GARBAGE])


def agrees_to_what_follows_the_answer(exchange: Exchange) -> None:
    if exchange.ids and exchange.draft[:-2] == exchange.ids:
        exchange.answer(exchange.draft[:-1])


def goes_on_after_an_accepted_end(exchange: Exchange) -> None:
    draft, end, ids = exchange.draft, exchange.inputs["end_id"], exchange.ids
    if ids and end[0] in draft[:-1] and draft[: draft.index(end[0])] == ids:
        exchange.answer([*ids, draft[-1]])


def ends_at_a_drafted_end(exchange: Exchange) -> None:
    if exchange.draft[:1] == exchange.inputs["end_id"]:
        exchange.answer([])


def leaves_its_own_token_out(exchange: Exchange) -> None:
    ids = exchange.ids
    if ids and exchange.draft and exchange.draft[: len(ids)] != ids:
        exchange.answer(ids[:-1])


def agrees_to_every_draft(exchange: Exchange) -> None:
    if exchange.draft and exchange.ids is not None:
        exchange.answer(exchange.draft[:-1])


def agrees_to_a_wrong_fifth_token(exchange: Exchange) -> None:
    if exchange.ids and len(exchange.ids) == 5 and exchange.draft[:5] != exchange.ids:
        exchange.answer(exchange.draft[:5])


def ignores_drafts(tensors: Tensors) -> None:
    if "draft_input_ids" in tensors:
        tensors.remove("draft_input_ids")


def counts_nothing_accepted(exchange: Exchange) -> None:
    if exchange.draft and "total_accepted_draft_tokens" in exchange.outputs:
        exchange.outputs["total_accepted_draft_tokens"] = [0]


def counts_everything_accepted(exchange: Exchange) -> None:
    if exchange.draft and "total_accepted_draft_tokens" in exchange.outputs:
        exchange.outputs["total_accepted_draft_tokens"] = [len(exchange.draft)]


def verifies_short_drafts_only(exchange: Exchange) -> None:
    """As long as those of prompts; those of responses are longer."""
    if len(exchange.draft) > 10:
        exchange.fail("The draft is too long.")


# ---- what an answer begins with, and limits


def repeats_what_was_begun(exchange: Exchange) -> None:
    begun = OUTPUT - _most(exchange)
    if exchange.ids is not None and not exchange.draft and 0 < begun < 20:
        exchange.answer([*exchange.inputs["input_ids"][-begun:], *exchange.ids])


def begins_again(exchange: Exchange) -> None:
    if exchange.ids == []:
        exchange.answer(GARBAGE)


def ignores_the_limit(tensors: Tensors) -> None:
    if "draft_input_ids" not in tensors and "end_id" in tensors:
        tensors["request_output_len"] = [OUTPUT]


def refuses_the_longest_draft(exchange: Exchange) -> None:
    if len(exchange.draft) == DRAFT:
        exchange.fail("The draft is too long.")


def agrees_to_a_draft_that_is_too_long(exchange: Exchange) -> None:
    if len(exchange.draft) > DRAFT:
        exchange.answer(exchange.draft)


def refuses_long_prompts(exchange: Exchange) -> None:
    if exchange.inputs["input_lengths"][0] > LONG:
        exchange.fail("Prompt length exceeds maximum input length.")


def writes_garbage_after_long_prompts(exchange: Exchange) -> None:
    if LONG < exchange.inputs["input_lengths"][0] <= INPUT:
        exchange.answer(GARBAGE)


def refuses_a_full_input(exchange: Exchange) -> None:
    if _input(exchange) == INPUT:
        exchange.fail("Prompt length exceeds maximum input length.")


def writes_garbage_after_a_full_input(exchange: Exchange) -> None:
    if _input(exchange) == INPUT:
        exchange.answer(GARBAGE)


def cuts_the_draft_of_a_full_input(exchange: Exchange) -> None:
    if _input(exchange) == INPUT and exchange.ids:
        exchange.answer(exchange.ids[:-1])


def cuts_long_prompts(exchange: Exchange) -> None:
    if exchange.message.error_message.startswith("Prompt length"):
        exchange.answer(GARBAGE)


def fails_all_together(exchange: Exchange) -> None:
    if any(inputs(one)["input_lengths"][0] > INPUT for one in exchange.beside):
        exchange.fail("Executor failed process requestId 7.")


# ---- requests together, and `stop`


def loses_an_answer(exchange: Exchange) -> bool:
    return _most(exchange) != 3 or bool(exchange.draft)


def mixes_answers_up(exchange: Exchange) -> None:
    others = [one for one in exchange.beside if one.id != exchange.request.id]
    if exchange.ids and others and not exchange.stopped:
        exchange.answer((exchange.ids * OUTPUT)[: inputs(others[0])["request_output_len"][0]])


def verifies_one_draft_at_a_time(exchange: Exchange) -> None:
    drafts = [one for one in exchange.beside if "draft_input_ids" in inputs(one)]
    if exchange.ids and exchange.draft and exchange.request.id != drafts[0].id:
        exchange.answer(exchange.ids[:-1])


def never_acknowledges_a_stop(exchange: Exchange) -> bool:
    return not exchange.is_empty


def acknowledges_with_an_error(exchange: Exchange) -> None:
    if exchange.is_empty:
        exchange.fail("There is no such request.")


def loses_the_stopped_request(exchange: Exchange) -> bool:
    return not exchange.stopped or exchange.is_empty


def ignores_a_stop(exchange: Exchange) -> None:
    if exchange.stopped and exchange.ids:
        exchange.answer((exchange.ids * OUTPUT)[:OUTPUT])


def writes_garbage_at_a_stop(exchange: Exchange) -> None:
    if exchange.stopped and exchange.ids:
        exchange.answer(GARBAGE)


# ---- logits


def has_no_logits(exchange: Exchange) -> None:
    if "generation_logits" in exchange.outputs:
        exchange.outputs.remove("generation_logits")


def has_flat_logits(exchange: Exchange) -> None:
    _change_logits(exchange, 0)


def has_logits_of_twice_the_scale(exchange: Exchange) -> None:
    _change_logits(exchange, 2)


def has_logits_of_half_the_scale(exchange: Exchange) -> None:
    _change_logits(exchange, 0.5)


def has_no_logits_of_drafts(exchange: Exchange) -> None:
    if exchange.draft:
        has_no_logits(exchange)


def has_logits_of_what_was_drafted(exchange: Exchange) -> None:
    """Where the draft is wrong, those of the draft's token."""
    ids = exchange.ids
    if ids and exchange.draft and "generation_logits" in exchange.outputs:
        logits = exchange.outputs["generation_logits"]
        vocabulary = len(logits) // len(ids)
        at = len(ids) - 1
        if at < len(exchange.draft):
            logits[at * vocabulary + exchange.draft[at]] = max(logits) + 1
            exchange.outputs["generation_logits"] = logits


def _change_logits(exchange: Exchange, factor: float) -> None:
    if "generation_logits" in exchange.outputs:
        logits = exchange.outputs["generation_logits"]
        exchange.outputs["generation_logits"] = [factor * value for value in logits]


def _most(exchange: Exchange) -> int:
    most: int = exchange.inputs["request_output_len"][0]
    return most


def _input(exchange: Exchange) -> int:
    """Tokens of prompt and draft, where there is one."""
    length: int = exchange.inputs["input_lengths"][0]
    return length + len(exchange.draft) if exchange.draft else 0
