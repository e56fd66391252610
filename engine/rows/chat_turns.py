"""Turns of a conversation, read strictly: what can be understood is, all else is a problem of the
row.

Standard library only. A turn is {"role", "content"}, and only where they carry something:

reasoning_content: what an assistant thought before it answered, given apart from the answer.
tool_calls: calls that an assistant makes, see engine.rows.tool_calls; content may then be "".
tool_call_id, name: on a turn of a tool, the call that it answers and the tool.
learned: False on an answer that is not to be learned.
"""

from __future__ import annotations

from typing import Any

from engine.rows.content_blocks import split_tool_parts
from engine.rows.row_reader import PYTHON_TEXT, RowReader
from engine.rows.tool_calls import calls_of
from engine.rows.values import (
    RowProblem,
    as_json,
    is_blank,
    is_text_part,
    parsed,
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
    if prompts and turns and turns[0]["role"] == "system":
        texts = dict.fromkeys([prompts[0]["content"], turns[0]["content"]])
        return [{"role": "system", "content": "\n\n".join(texts)}, *turns[1:]]

    return prompts + turns


def text_turn(role: str, value: Any, where: str) -> Turn:
    return {"role": role, "content": required_text(value, where)}


def turns_of(value: Any, column: str, row: RowReader) -> Turns:
    """Turns with role and content (or from and value), also where a table holds them as JSON
    text."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "array(")):
        value, was_python = parsed(
            value, column, "Begins like a list of turns, but is not valid JSON."
        )
        if was_python:
            row.note(PYTHON_TEXT)

    if not isinstance(value, list):
        kind = "Is one text and not" if isinstance(value, str) else "Is not"
        raise RowProblem(column, value, f"{kind} a list of turns.")

    if not value:
        raise RowProblem(column, value, "Has no turns.")

    turns: Turns = []
    plain = True
    for index, item in enumerate(value, 1):
        # What most files have is looked at first, for there are millions of them.
        if type(item) is dict and len(item) == 2:
            role, content = item.get("role"), item.get("content")
            if (
                (role == "user" or role == "assistant")
                and type(content) is str
                and not is_blank(content)
            ):
                turns.append({"role": role, "content": content})
                continue

        plain = False
        turns += _turns_of_item(item, column, index, row)

    return turns if plain else _joined(turns)


def _turns_of_item(item: Any, column: str, index: int, row: RowReader) -> Turns:
    where = f"{column}[{index}]"
    if not isinstance(item, dict):
        raise RowProblem(where, item, "Is not a turn with role and content.")

    role_key = next((key for key in ROLE_KEYS if item.get(key) is not None), "")
    if role_key:
        turns = []
        for part in split_tool_parts(item, _content_key(item, role_key)):
            turn = _turn(part, role_key if role_key in part else "role", where, column, row)
            # A blank system prompt counts as none.
            if turn["role"] != "system" or not is_blank(turn["content"]):
                turns.append(turn)

        return turns

    asked = next((key for key in ASKED_KEYS if key in item), "")
    answered = next((key for key in ANSWERED_KEYS if key in item), "")
    if not (asked and answered):
        raise RowProblem(where, item, "Has no role: each turn says who speaks.")

    _leave_keys(item, {asked, answered, "system"}, column, row)
    system = item.get("system")
    before = (
        [text_turn("system", system, f"{where}.system")]
        if isinstance(system, str) and not is_blank(system)
        else []
    )

    question = text_turn("user", item[asked], f"{where}.{asked}")

    return [*before, question, text_turn("assistant", item[answered], f"{where}.{answered}")]


def _turn(item: Turn, role_key: str, where: str, column: str, row: RowReader) -> Turn:
    named = str(item[role_key]).strip().lower()
    role = ROLES.get(named)
    if role is None:
        raise RowProblem(
            f"{where}.{role_key}",
            item[role_key],
            "Unknown role; system, user, assistant and tool are known.",
        )

    content_key = _content_key(item, role_key)
    used = {role_key, content_key}
    content, place = item.get(content_key), f"{where}.{content_key}"

    match role:
        case "system":
            turn = {"role": role, "content": "" if content is None else text_of(content, place)}
        case "assistant":
            turn = _assistant_turn(item, named, content, where, place, used, row)
        case "tool":
            turn = _tool_turn(item, content, place, used)
        case _:
            turn = text_turn(role, content, place)

    if len(item) > len(used):
        _learned(item, turn, used)
        _leave_keys(item, used, column, row)

    return turn


def _content_key(item: Turn, role_key: str) -> str:
    filled_keys = (key for key in CONTENT_KEYS if item.get(key) is not None)
    named_keys = (key for key in CONTENT_KEYS if key in item)
    usual = "content" if role_key == "role" else "value"
    return next(filled_keys, next(named_keys, usual))


def _assistant_turn(
    item: Turn, named: str, content: Any, where: str, place: str, used: set[str], row: RowReader
) -> Turn:
    turn: Turn = {"role": "assistant", "content": ""}
    reasoning_key = next((key for key in REASONING_KEYS if _holds_text(item.get(key))), "")
    content, thoughts = _thoughts_apart(content)

    if reasoning_key:
        used.add(reasoning_key)
        turn["reasoning_content"] = text_of(item[reasoning_key], f"{where}.{reasoning_key}")
    elif thoughts:
        turn["reasoning_content"] = "\n\n".join(thoughts)

    call_key = next((key for key in CALL_KEYS if item.get(key)), "")
    if named in CALL_ROLES:
        return turn | {"tool_calls": calls_of(content, place, row)}

    if call_key:
        used.add(call_key)
        turn["tool_calls"] = calls_of(item[call_key], f"{where}.{call_key}", row)

    if call_key or "reasoning_content" in turn:
        turn["content"] = "" if content is None or content == [] else text_of(content, place)
        return turn

    return turn | {"content": required_text(content, place)}


def _holds_text(value: Any) -> bool:
    """Whether thinking that stands here says anything; what is no text is then refused where it is
    read."""
    return not is_blank(value) if isinstance(value, str) else bool(value)


def _thoughts_apart(content: Any) -> tuple[Any, list[str]]:
    """(the content without its parts of thinking, those parts), where it is a list of parts."""
    if not isinstance(content, list):
        return content, []

    thoughts, rest = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else ""
        texts = (
            [part[key] for key in (*REASONING_KEYS, "text") if _is_text(part.get(key))]
            if kind
            else []
        )

        if kind in REASONING_KEYS and texts:
            thoughts.append(texts[0])
        else:
            rest.append(part)

    return (rest, thoughts) if thoughts else (content, [])


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not is_blank(value)


def _tool_turn(item: Turn, content: Any, place: str, used: set[str]) -> Turn:
    # What a tool gave back may be an object, and may be nothing.
    parts = content if isinstance(content, list) else [content]
    is_text = bool(parts) and all(
        isinstance(part, dict) and "type" in part and is_text_part(part) for part in parts
    )
    if content is None or (isinstance(content, dict | list | bool) and not is_text):
        content = as_json(content)

    turn = {"role": "tool", "content": text_of(content, place)}
    for key in ("name", "tool_call_id"):
        if isinstance(item.get(key), str) and item[key]:
            turn[key] = item[key]
            used.add(key)

    return turn


def _learned(item: Turn, turn: Turn, used: set[str]) -> None:
    """Whether the file says that an answer is not to be learned.

    A weight between 0 and 1, and that a question is to be learned, cannot be followed: those keys
    stay unused.
    """
    for key in LEARNED_KEYS:
        said_so = str(item.get(key)).strip().lower()
        if said_so in NOT_LEARNED:
            used.add(key)
            if turn["role"] == "assistant":
                turn["learned"] = False
        elif said_so in LEARNED and (turn["role"] == "assistant" or key == "weight"):
            used.add(key)


def _leave_keys(item: Turn, used: set[str], column: str, row: RowReader) -> None:
    for key, value in item.items():
        if key not in used:
            row.leave(f"{column}[].{key}", value)


def _joined(turns: Turns) -> Turns:
    """Turns in which one answer makes all calls up to the next results, and results bear the names
    of their calls.

    Files write several calls at once as several turns, and the words before a call as a turn of its
    own.
    """
    if not any("tool_calls" in turn for turn in turns):
        return turns

    joined: Turns = []
    names: dict[str, str] = {}
    for turn in turns:
        last = joined[-1] if joined else {}
        if (
            "tool_calls" in turn
            and last.get("role") == "assistant"
            and turn.get("learned") == last.get("learned")
        ):
            joined[-1] = turn = _one_answer(last, turn)
        elif turn["role"] == "tool" and "name" not in turn and turn.get("tool_call_id") in names:
            joined.append(turn | {"name": names[turn["tool_call_id"]]})
        else:
            joined.append(turn)

        names |= {
            call["id"]: call["function"]["name"]
            for call in turn.get("tool_calls", ())
            if "id" in call
        }

    return joined


def _one_answer(first: Turn, second: Turn) -> Turn:
    answer = first | second
    for key in ("content", "reasoning_content"):
        texts = [turn[key] for turn in (first, second) if turn.get(key)]
        if texts:
            answer[key] = "\n\n".join(texts)

    return answer | {"tool_calls": [*first.get("tool_calls", ()), *second["tool_calls"]]}


def prompt_check(turns: Turns, column: str) -> Turns:
    """The turns, where they lead up to an answer: [system,] user[, assistant, user, …]."""
    _order(turns, column)

    if turns[-1]["role"] not in ("user", "tool"):
        raise RowProblem(
            column,
            turns[-1]["content"],
            "The prompt ends with an answer; it must end with the user.",
        )

    return turns


def conversation_check(turns: Turns, column: str) -> Turns:
    """The turns, where they are in an order that chat templates take: [system,] user, assistant,
    user, …

    Behind an answer that calls tools stands what they gave back, and then the next answer.
    """
    _order(turns, column)

    if turns[-1]["role"] != "assistant":
        kind = "ends_with_user" if turns[-1]["role"] == "user" else ""
        reason = "The conversation ends without an answer of the assistant."
        raise RowProblem(column, turns[-1]["content"], reason, kind)

    return turns


def learned_check(turns: Turns, column: str) -> None:
    """Raises RowProblem where every answer is marked as one that is not to be learned."""
    for turn in turns:
        if turn["role"] == "assistant" and turn.get("learned", True):
            return

    raise RowProblem(
        column,
        "",
        "Every answer is marked as not to be learned (weight 0), so there is nothing to learn.",
    )


def _order(turns: Turns, column: str) -> None:
    start = bool(turns) and turns[0]["role"] == "system"
    wanted: tuple[str, ...] = ("user",)
    before: Turn = {"role": ""}

    for turn in turns[start:]:
        if turn["role"] not in wanted:
            raise RowProblem(column, turn["content"], *_disorder(turn["role"], before))

        wanted, before = _followers(turn), turn

    if not turns[start:]:
        raise RowProblem(column, "", "Has no turns of user and assistant.")


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
        return (
            "The user speaks right behind what a tool gave back; the assistant answers that first.",
            "",
        )

    if not before["role"]:
        return (
            "The conversation begins with the assistant; the user comes first.",
            "begins_with_assistant",
        )

    return f"Two {role} turns in a row.", "two_turns"
