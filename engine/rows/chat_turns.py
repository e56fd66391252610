"""Turns of a conversation, read strictly: whatever cannot be understood is a problem of the row.

Standard library only. A turn is {"role", "content"}, and more keys only where they have content:

reasoning_content: what an assistant thought before it answered, kept apart from the answer.
tool_calls: calls that an assistant makes, see engine.rows.tool_calls; content may then be "".
tool_call_id, name: on a turn of a tool, the call that it answers and the tool.
learned: False on an answer that is not to be learned.
"""

from __future__ import annotations

from typing import Any

from engine.rows.content_blocks import split_tool_parts
from engine.rows.row_reader import RowReader
from engine.rows.tool_calls import calls_of
from engine.rows.values import (
    RowProblem,
    as_json,
    first_key,
    is_blank,
    is_text_part,
    required_text,
    text_of,
)

# ShareGPT files have a role of its own for a call.
CALL = "function_call"
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "chatbot": "assistant",
    CALL: "assistant",
    "tool_call": "assistant",
    "tool_calls": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "tool_output": "tool",
    "function_response": "tool",
}
CALL_ROLES = frozenset({CALL, "tool_call", "tool_calls"})
ROLE_KEYS = ("role", "from", "speaker", "author")
CONTENT_KEYS = ("content", "value", "text", "message", "parts")
# The keys under which nearly all files have them.
USUAL_KEYS = (("role", "content"), ("from", "value"))

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")
# OpenAI's weight, ms-swift's loss, axolotl's train and training, and others' names for the same.
LEARNED_KEYS = ("weight", "loss", "loss_weight", "train", "training", "trainable", "learned")
NOT_LEARNED, LEARNED = ("0", "0.0", "false", "no"), ("1", "1.0", "true", "yes")
CALL_KEYS = ("tool_calls", "function_call")
# Keys of a turn that change what is learned of it, and that a plain turn does not have.
MEANINGFUL_KEYS = frozenset(
    {*ROLE_KEYS, *CONTENT_KEYS, *REASONING_KEYS, *LEARNED_KEYS, *CALL_KEYS, "tool_call_id"}
)

# Question and answer as two fields of one item, as in older files of ms-swift and XTuner.
ASKED_KEYS = ("human", "user", "input", "query", "question", "instruction")
ANSWERED_KEYS = ("assistant", "gpt", "bot", "output", "response", "answer")

# {"role", "content"} of texts, and what the module names.
Turn = dict[str, Any]
Turns = list[Turn]


def system_turns(row: RowReader) -> Turns:
    """The row's own system prompt; a blank one counts as none."""
    value = row.get("system")
    if value is None:
        return []

    if isinstance(value, dict):
        # A turn in place of its words, as Gemini's systemInstruction.
        value = value.get(_content_key(value, "role"), value)

    text = text_of(value, row.column("system"))
    return [] if is_blank(text) else [{"role": "system", "content": text}]


def with_system_of_row(row: RowReader, turns: Turns) -> Turns:
    """Turns behind the row's own system prompt, which is put in front of one that they begin
    with."""
    prompts = system_turns(row)
    if not prompts:
        return turns
    if not turns or turns[0]["role"] != "system":
        return prompts + turns

    texts = dict.fromkeys([prompts[0]["content"], turns[0]["content"]])
    return [{"role": "system", "content": "\n\n".join(texts)}, *turns[1:]]


def text_turn(role: str, value: Any, where: str) -> Turn:
    """A turn whose content must be a text that is not blank. Raises RowProblem."""
    return {"role": role, "content": required_text(value, where)}


def turns_of(value: Any, column: str, row: RowReader) -> Turns:
    """Turns with role and content (or from and value), also where a table holds them as JSON
    text. Raises RowProblem."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "array(")):
        reason = "Begins like a list of turns, but is not valid JSON."
        value = row.parse(value, column, reason)

    if not isinstance(value, list):
        kind = "Is one text and not" if isinstance(value, str) else "Is not"
        raise RowProblem(column, value, f"{kind} a list of turns.")

    if not value:
        raise RowProblem(column, value, "Has no turns.")

    turns: Turns = []
    all_plain = True
    for index, item in enumerate(value, 1):
        if _is_plain(item):
            turns.append({"role": item["role"], "content": item["content"]})
        else:
            all_plain = False
            turns += _turns_of_item(item, column, index, row)

    return turns if all_plain else _joined(turns)


def _is_plain(item: Any) -> bool:
    """Whether this is what most files have, and needs no further look: there are millions."""
    if type(item) is not dict or len(item) != 2:
        return False

    role = item.get("role")
    if role != "user" and role != "assistant":
        return False

    content = item.get("content")
    return type(content) is str and not is_blank(content)


def _turns_of_item(item: Any, column: str, index: int, row: RowReader) -> Turns:
    where = f"{column}[{index}]"
    if not isinstance(item, dict):
        raise RowProblem(where, item, "Is not a turn with role and content.")

    role_key = first_key(item, ROLE_KEYS)
    if not role_key:
        return _exchange_of_item(item, where, column, row)

    turns = []
    for part in split_tool_parts(item, _content_key(item, role_key)):
        part_role_key = role_key if role_key in part else "role"
        turn = _turn(part, part_role_key, where, column, row)
        # A blank system prompt counts as none.
        if turn["role"] != "system" or not is_blank(turn["content"]):
            turns.append(turn)

    return turns


def _exchange_of_item(item: Turn, where: str, column: str, row: RowReader) -> Turns:
    """The turns of an item that holds a question and its answer as two fields."""
    asked = next((key for key in ASKED_KEYS if key in item), "")
    answered = next((key for key in ANSWERED_KEYS if key in item), "")
    if not (asked and answered):
        raise RowProblem(where, item, "Has no role: each turn says who speaks.")

    _unused_add(item, {asked, answered, "system"}, column, row)

    turns = []
    system = item.get("system")
    if isinstance(system, str) and not is_blank(system):
        turns.append(text_turn("system", system, f"{where}.system"))

    turns.append(text_turn("user", item[asked], f"{where}.{asked}"))
    turns.append(text_turn("assistant", item[answered], f"{where}.{answered}"))

    return turns


def _turn(item: Turn, role_key: str, where: str, column: str, row: RowReader) -> Turn:
    name = str(item[role_key]).strip().lower()
    role = ROLES.get(name)
    if role is None:
        reason = "Unknown role; system, user, assistant and tool are known."
        raise RowProblem(f"{where}.{role_key}", item[role_key], reason)

    content_key = _content_key(item, role_key)
    content = item.get(content_key)
    content_where = f"{where}.{content_key}"
    used = {role_key, content_key}

    match role:
        case "system":
            text = "" if content is None else text_of(content, content_where)
            turn = {"role": role, "content": text}
        case "assistant":
            turn = _assistant_turn(item, name, content, where, content_where, used, row)
        case "tool":
            turn = _tool_turn(item, content, content_where, used)
        case _:
            turn = text_turn(role, content, content_where)

    if len(item) > len(used):
        _learned(item, turn, used)
        _unused_add(item, used, column, row)

    return turn


def _content_key(item: Turn, role_key: str) -> str:
    if key := first_key(item, CONTENT_KEYS):
        return key

    usual = "content" if role_key == "role" else "value"
    return next((key for key in CONTENT_KEYS if key in item), usual)


def _assistant_turn(
    item: Turn,
    name: str,
    content: Any,
    where: str,
    content_where: str,
    used: set[str],
    row: RowReader,
) -> Turn:
    """name: of the role, as the file has it. The keys that are read are added to `used`."""
    turn: Turn = {"role": "assistant", "content": ""}
    reasoning_key = next((key for key in REASONING_KEYS if _has_reasoning(item.get(key))), "")
    content, thoughts = _split_thoughts(content)

    if reasoning_key:
        used.add(reasoning_key)
        turn["reasoning_content"] = text_of(item[reasoning_key], f"{where}.{reasoning_key}")
    elif thoughts:
        turn["reasoning_content"] = "\n\n".join(thoughts)

    if name in CALL_ROLES:
        turn["tool_calls"] = calls_of(content, content_where, row)
        return turn

    call_key = next((key for key in CALL_KEYS if item.get(key)), "")
    if call_key:
        used.add(call_key)
        turn["tool_calls"] = calls_of(item[call_key], f"{where}.{call_key}", row)

    may_be_empty = bool(call_key) or "reasoning_content" in turn
    if not may_be_empty:
        turn["content"] = required_text(content, content_where)
    elif content is not None and content != []:
        turn["content"] = text_of(content, content_where)

    return turn


def _has_reasoning(value: Any) -> bool:
    """Whether thinking that stands here says anything; what is no text is then refused where it is
    read."""
    return not is_blank(value) if isinstance(value, str) else bool(value)


def _split_thoughts(content: Any) -> tuple[Any, list[str]]:
    """(the content without its parts of thinking, those parts), where it is a list of parts."""
    if not isinstance(content, list):
        return content, []

    thoughts = []
    rest = []
    for part in content:
        thought = _thought_of_part(part)
        if thought:
            thoughts.append(thought)
        else:
            rest.append(part)

    return (rest, thoughts) if thoughts else (content, [])


def _thought_of_part(part: Any) -> str:
    """The text of a part such as {"type": "thinking", "thinking": …}; "" for any other."""
    if not isinstance(part, dict) or part.get("type") not in REASONING_KEYS:
        return ""

    for key in (*REASONING_KEYS, "text"):
        text = part.get(key)
        if isinstance(text, str) and not is_blank(text):
            return text

    return ""


def _tool_turn(item: Turn, content: Any, where: str, used: set[str]) -> Turn:
    # What a tool gave back may be an object, and may be nothing.
    is_structure = isinstance(content, dict | list | bool) and not _is_text_parts(content)
    if content is None or is_structure:
        content = as_json(content)

    turn = {"role": "tool", "content": text_of(content, where)}
    for key in ("name", "tool_call_id"):
        if isinstance(item.get(key), str) and item[key]:
            turn[key] = item[key]
            used.add(key)

    return turn


def _is_text_parts(content: Any) -> bool:
    """Whether this is {"type": "text", "text": …}, or a list of such parts."""
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        if not isinstance(part, dict) or "type" not in part or not is_text_part(part):
            return False

    return bool(parts)


def _learned(item: Turn, turn: Turn, used: set[str]) -> None:
    """Whether the file says that an answer is not to be learned.

    A weight between 0 and 1, and that a question is to be learned, cannot be followed: those keys
    stay unused.
    """
    is_answer = turn["role"] == "assistant"
    for key in LEARNED_KEYS:
        value = str(item.get(key)).strip().lower()
        if value in NOT_LEARNED:
            used.add(key)
            if is_answer:
                turn["learned"] = False
        elif value in LEARNED and (is_answer or key == "weight"):
            used.add(key)


def _unused_add(item: Turn, used: set[str], column: str, row: RowReader) -> None:
    for key, value in item.items():
        if key not in used:
            row.unused_add(f"{column}[].{key}", value)


def _joined(turns: Turns) -> Turns:
    """Turns in which one answer makes all calls up to the next results, and results bear the names
    of their calls.

    Files write several calls at once as several turns, and the text before a call as a turn of its
    own.
    """
    if not any("tool_calls" in turn for turn in turns):
        return turns

    joined: Turns = []
    names: dict[str, str] = {}
    for turn in turns:
        last = joined[-1] if joined else {}
        if _continues(last, turn):
            turn = _one_answer(last, turn)
            joined[-1] = turn
        elif turn["role"] == "tool" and "name" not in turn and turn.get("tool_call_id") in names:
            joined.append(turn | {"name": names[turn["tool_call_id"]]})
        else:
            joined.append(turn)

        for call in turn.get("tool_calls", ()):
            if "id" in call:
                names[call["id"]] = call["function"]["name"]

    return joined


def _continues(last: Turn, turn: Turn) -> bool:
    """Whether a turn of calls belongs to the answer before it."""
    if "tool_calls" not in turn or last.get("role") != "assistant":
        return False

    return bool(turn.get("learned") == last.get("learned"))


def _one_answer(first: Turn, second: Turn) -> Turn:
    answer = first | second
    for key in ("content", "reasoning_content"):
        texts = [turn[key] for turn in (first, second) if turn.get(key)]
        if texts:
            answer[key] = "\n\n".join(texts)

    answer["tool_calls"] = [*first.get("tool_calls", ()), *second["tool_calls"]]
    return answer


def prompt_check(turns: Turns, column: str) -> Turns:
    """The turns, where they lead up to an answer: [system,] user[, assistant, user, …]. Raises
    RowProblem."""
    _order_check(turns, column)

    last = turns[-1]
    if last["role"] not in ("user", "tool"):
        reason = "The prompt ends with an answer; it must end with the user."
        raise RowProblem(column, last["content"], reason)

    return turns


def conversation_check(turns: Turns, column: str) -> Turns:
    """The turns, where they are in an order that chat templates take: [system,] user, assistant,
    user, … Raises RowProblem.

    Behind an answer that calls tools stands what they gave back, and then the next answer.
    """
    _order_check(turns, column)

    last = turns[-1]
    if last["role"] != "assistant":
        kind = "ends_with_user" if last["role"] == "user" else ""
        reason = "The conversation ends without an answer of the assistant."
        raise RowProblem(column, last["content"], reason, kind)

    return turns


def learned_check(turns: Turns, column: str) -> None:
    """Raises RowProblem where every answer is marked as one that is not to be learned."""
    for turn in turns:
        if turn["role"] == "assistant" and turn.get("learned", True):
            return

    reason = "Every answer is marked as not to be learned (weight 0), so there is nothing to learn."
    raise RowProblem(column, "", reason)


def _order_check(turns: Turns, column: str) -> None:
    has_system = bool(turns) and turns[0]["role"] == "system"
    spoken = turns[1:] if has_system else turns
    if not spoken:
        raise RowProblem(column, "", "Has no turns of user and assistant.")

    allowed: tuple[str, ...] = ("user",)
    before: Turn = {"role": ""}

    for turn in spoken:
        if turn["role"] not in allowed:
            raise RowProblem(column, turn["content"], *_disorder(turn["role"], before))

        allowed = _followers(turn)
        before = turn


def _followers(turn: Turn) -> tuple[str, ...]:
    match turn["role"]:
        case "user":
            return ("assistant",)
        case "tool":
            return ("tool", "assistant")
        case _:
            return ("tool",) if turn.get("tool_calls") else ("user",)


def _disorder(role: str, before: Turn) -> tuple[str, str]:
    """(why a turn of this role does not stand behind that one, the kind of problem where a repair
    mends it)."""
    if role == "system":
        return "A system turn stands behind the first turn.", "system_later"
    if role == "tool":
        return "A tool answers, and none was called just before.", ""
    if before.get("tool_calls"):
        return "A tool was called, and what it gave back is missing.", ""

    if before["role"] == "tool":
        reason = (
            "The user speaks right behind what a tool gave back; the assistant answers that first."
        )
        return reason, ""

    if not before["role"]:
        reason = "The conversation begins with the assistant; the user comes first."
        return reason, "begins_with_assistant"

    return f"Two {role} turns in a row.", "two_turns"
