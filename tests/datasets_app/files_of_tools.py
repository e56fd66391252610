"""Conversations that call tools, and their system prompts, as the APIs of others than OpenAI have
them; the words are our own."""

from tests.datasets_app.files import ANSWER, ASK, QUESTION, TELL, call, calling

SAID = {"role": "assistant", "content": TELL}
RESULT = {"role": "tool", "content": "3", "name": "wheels"}

ANTHROPIC = [
    QUESTION,
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "I count."},
            {"type": "tool_use", "id": "one", "name": "wheels", "input": {"vehicle": "tricycle"}},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "one", "content": "3"}]},
    SAID,
]
GEMINI = [
    {"role": "user", "parts": [{"text": ASK}]},
    {
        "role": "model",
        "parts": [{"functionCall": {"name": "wheels", "args": {"vehicle": "tricycle"}}}],
    },
    {
        "role": "function",
        "parts": [{"functionResponse": {"name": "wheels", "response": {"count": 3}}}],
    },
    {"role": "model", "parts": [{"text": TELL}]},
]
BEDROCK = [
    {"role": "user", "content": [{"text": ASK}]},
    {
        "role": "assistant",
        "content": [
            {"toolUse": {"toolUseId": "one", "name": "wheels", "input": {"vehicle": "tricycle"}}}
        ],
    },
    {"role": "user", "content": [{"toolResult": {"toolUseId": "one", "content": [{"text": "3"}]}}]},
    {"role": "assistant", "content": [{"text": TELL}]},
]
TWO_AT_ONCE = [
    QUESTION,
    {
        "role": "assistant",
        "content": [
            {"type": "tool_use", "id": number, "name": "wheels", "input": {"vehicle": vehicle}}
            for number, vehicle in (("one", "car"), ("two", "bus"))
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "two",
                "content": [{"type": "text", "text": "6"}],
                "is_error": False,
            },
            {"type": "tool_result", "tool_use_id": "one", "content": "4"},
        ],
    },
    SAID,
]

# name: (row, the example's messages, fields that are not used)
READ = {
    "Anthropic's parts": (
        {"system": "Be brief.", "messages": ANTHROPIC},
        [
            {"role": "system", "content": "Be brief."},
            QUESTION,
            calling(call(id="one")) | {"content": "I count."},
            RESULT | {"tool_call_id": "one"},
            ANSWER,
        ],
        [],
    ),
    "Anthropic's parts, two calls at once": (
        {"messages": TWO_AT_ONCE},
        [
            QUESTION,
            calling(call("car", id="one"), call("bus", id="two")),
            RESULT | {"content": "6", "tool_call_id": "two"},
            RESULT | {"content": "4", "tool_call_id": "one"},
            ANSWER,
        ],
        ["messages[].is_error"],
    ),
    "Gemini's parts": (
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
            "contents": GEMINI,
        },
        [
            {"role": "system", "content": "Be brief."},
            QUESTION,
            calling(call()),
            RESULT | {"content": '{"count": 3}'},
            ANSWER,
        ],
        [],
    ),
    "Bedrock's parts": (
        {"system": [{"text": "Be brief."}], "messages": BEDROCK},
        [
            {"role": "system", "content": "Be brief."},
            QUESTION,
            calling(call(id="one")),
            RESULT | {"tool_call_id": "one"},
            ANSWER,
        ],
        [],
    ),
}
