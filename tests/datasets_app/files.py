"""Files as people have them, each one of a kind that other tools' users report; the words are our
own."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

ASK, TELL = "How many wheels has a tricycle?", "Three."
QUESTION = {"role": "user", "content": ASK}
ANSWER = {"role": "assistant", "content": TELL}
CHAT = [QUESTION, ANSWER]
EARLIER = [{"role": "user", "content": "And a bicycle?"}, {"role": "assistant", "content": "Two."}]
SCHEMA = {
    "name": "wheels",
    "description": "Wheels of a vehicle",
    "parameters": {"type": "object", "properties": {"vehicle": {"type": "string"}}},
}
TOOLS = [{"type": "function", "function": SCHEMA}]


def call(vehicle="tricycle", **more):
    return {
        "type": "function",
        "function": {"name": "wheels", "arguments": {"vehicle": vehicle}},
    } | more


def calling(*calls):
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def written(call):
    """As the OpenAI API writes it: the arguments as text."""
    function = call["function"]
    return call | {"function": function | {"arguments": json.dumps(function["arguments"])}}


def calling_as_text(*calls):
    return {"role": "assistant", "content": None, "tool_calls": [written(call) for call in calls]}


def jsonl(*rows, times=1):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows * times)


def parquet(rows):
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


PADDED = [
    {
        "messages": [
            QUESTION | {"tool_calls": None},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": name, "arguments": arguments}}],
            },
            {"role": "tool", "content": "3", "tool_calls": None},
            ANSWER | {"tool_calls": None},
        ]
    }
    for name, arguments in (
        ("wheels", {"vehicle": "tricycle", "engine": None}),
        ("engines", {"vehicle": None, "engine": "V8"}),
    )
]

PYTHON_ROW = {"question": ASK, "answer": TELL, "note": None}
OTHER_PYTHON_ROW = PYTHON_ROW | {"question": "Is it a car?", "answer": "It's not."}

# name: (file, content, the first example's messages, kinds of findings, fields that are not used)
READ = {
    "thinking": (
        "a.jsonl",
        jsonl({"messages": [QUESTION, ANSWER | {"reasoning_content": "Tri is three."}]}),
        [QUESTION, ANSWER | {"reasoning_content": "Tri is three."}],
        {"reasoning"},
        [],
    ),
    "thinking under another name": (
        "a.jsonl",
        jsonl(
            {
                "conversations": [
                    {"from": "human", "value": ASK},
                    {"from": "gpt", "value": TELL, "thinking": "Tri …"},
                ]
            }
        ),
        [QUESTION, ANSWER | {"reasoning_content": "Tri …"}],
        {"reasoning"},
        [],
    ),
    "thinking as a part of the content": (
        "a.jsonl",
        jsonl(
            {
                "messages": [
                    QUESTION,
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "thinking", "thinking": "Tri …"},
                            {"type": "text", "text": TELL},
                        ],
                    },
                ]
            }
        ),
        [QUESTION, ANSWER | {"reasoning_content": "Tri …"}],
        {"reasoning"},
        [],
    ),
    "thinking in a column": (
        "a.csv",
        f"Question,Complex_CoT,Response\n{ASK},Tri …,{TELL}\n",
        [QUESTION, ANSWER | {"reasoning_content": "Tri …"}],
        {"reasoning"},
        [],
    ),
    "history in pairs": (
        "a.jsonl",
        jsonl(
            {
                "instruction": ASK,
                "input": "",
                "output": TELL,
                "history": [["And a bicycle?", "Two."]],
            }
        ),
        [*EARLIER, QUESTION, ANSWER],
        set(),
        [],
    ),
    "query, response and history": (
        "a.csv",
        f"query,response,history\n{ASK},{TELL},\"[['And a bicycle?', 'Two.']]\"\n",
        [*EARLIER, QUESTION, ANSWER],
        {"python_text"},
        [],
    ),
    "the question stands in input": (
        "a.jsonl",
        jsonl({"instruction": "", "input": ASK, "output": TELL}),
        CHAT,
        set(),
        [],
    ),
    "text parts under value": (
        "a.jsonl",
        jsonl(
            {
                "messages": [
                    {"role": role, "content": [{"type": "text", "value": text}]}
                    for role, text in (("user", ASK), ("assistant", TELL))
                ]
            }
        ),
        CHAT,
        set(),
        [],
    ),
    "ids of calls": (
        "a.jsonl",
        jsonl(
            {
                "messages": [
                    QUESTION,
                    calling_as_text(call(id="abcDEF123")),
                    {"role": "tool", "tool_call_id": "abcDEF123", "content": "3"},
                    ANSWER,
                ],
                "tools": TOOLS,
            }
        ),
        [
            QUESTION,
            calling(call(id="abcDEF123")),
            {"role": "tool", "content": "3", "tool_call_id": "abcDEF123", "name": "wheels"},
            ANSWER,
        ],
        {"tool_calls"},
        [],
    ),
    "two calls, then two results": (
        "a.jsonl",
        jsonl(
            {
                "messages": [
                    QUESTION,
                    calling_as_text(call("car")),
                    calling_as_text(call("bus")),
                    {"role": "tool", "content": "4"},
                    {"role": "tool", "content": "6"},
                    ANSWER,
                ]
            }
        ),
        [
            QUESTION,
            calling(call("car"), call("bus")),
            {"role": "tool", "content": "4"},
            {"role": "tool", "content": "6"},
            ANSWER,
        ],
        {"tool_calls"},
        [],
    ),
    "schemas of functions without a wrapper": (
        "a.jsonl",
        jsonl(
            {
                "conversations": [
                    {"from": "human", "value": ASK},
                    {
                        "from": "function_call",
                        "value": json.dumps(
                            {"name": "wheels", "arguments": {"vehicle": "tricycle"}}
                        ),
                    },
                    {"from": "observation", "value": "3"},
                    {"from": "gpt", "value": TELL},
                ],
                "tools": json.dumps([SCHEMA]),
            }
        ),
        [QUESTION, calling(call()), {"role": "tool", "content": "3"}, ANSWER],
        {"tool_calls"},
        [],
    ),
    "arguments of other tools, null": (
        "a.parquet",
        parquet(PADDED),
        [QUESTION, calling(call()), {"role": "tool", "content": "3"}, ANSWER],
        {"tool_calls", "null_arguments"},
        [],
    ),
    "a call as OpenAI wrote it in 2023": (
        "a.jsonl",
        jsonl(
            {
                "messages": [
                    QUESTION,
                    {
                        "role": "assistant",
                        "content": None,
                        "function_call": written(call())["function"],
                    },
                    {"role": "function", "name": "wheels", "content": "3"},
                    ANSWER,
                ],
                "functions": [SCHEMA],
            }
        ),
        [QUESTION, calling(call()), {"role": "tool", "content": "3", "name": "wheels"}, ANSWER],
        {"tool_calls"},
        [],
    ),
    "lines that are lists of turns": (
        "a.jsonl",
        jsonl(CHAT, times=2),
        CHAT,
        {"list_row", "duplicate"},
        [],
    ),
    "a list of lists of turns": (
        "a.json",
        json.dumps([CHAT, CHAT]),
        CHAT,
        {"list_row", "duplicate"},
        [],
    ),
    "a comma behind each line": (
        "a.jsonl",
        jsonl({"question": ASK, "answer": TELL}, {"question": "A bicycle?", "answer": "2"}).replace(
            "}\n", "},\n"
        ),
        CHAT,
        {"trailing_comma"},
        [],
    ),
    "carriage returns alone": (
        "a.csv",
        f"instruction,output\r{ASK},{TELL}\r",
        CHAT,
        {"carriage_return"},
        [],
    ),
    "lines of JSON with carriage returns alone": (
        "a.jsonl",
        jsonl({"question": ASK, "answer": TELL}, times=2).replace("\n", "\r"),
        CHAT,
        {"carriage_return", "duplicate"},
        [],
    ),
    "Excel's separator line": (
        "a.csv",
        f"sep=;\r\ninstruction;output\r\n{ASK};{TELL}\r\n",
        CHAT,
        {"separator_line"},
        [],
    ),
    "Python's text in a cell": ("a.csv", f'messages\n"{CHAT!s}"\n', CHAT, {"python_text"}, []),
    "numpy's text in a cell": (
        "a.csv",
        'messages\n"[' + "\n ".join(map(str, CHAT)) + ']"\n',
        CHAT,
        {"python_text"},
        [],
    ),
    "NaN in a column that is not used": (
        "a.jsonl",
        jsonl({"question": ASK, "answer": TELL, "score": float("nan")}),
        CHAT,
        {"not_a_number"},
        [],
    ),
    "weight and loss": (
        "a.jsonl",
        jsonl(
            {
                "messages": [
                    *EARLIER[:1],
                    EARLIER[1] | {"weight": 0},
                    QUESTION,
                    ANSWER | {"weight": 1},
                ]
            }
        ),
        [EARLIER[0], EARLIER[1] | {"learned": False}, *CHAT],
        {"not_learned"},
        [],
    ),
    "input, messages and references of verl": (
        "a.parquet",
        parquet(
            [
                {
                    "data_source": "sums",
                    "prompt": [QUESTION],
                    "reward_model": {"style": "rule", "ground_truth": TELL},
                }
            ]
        ),
        CHAT,
        set(),
        ["data_source", "reward_model.style"],
    ),
    "keys of other names": (
        "a.jsonl",
        jsonl(
            {
                "conversation": [
                    {"speaker": "human", "text": ASK, "time": 3},
                    {"speaker": "AI", "text": TELL},
                ]
            }
        ),
        CHAT,
        set(),
        ["conversation[].time"],
    ),
    "questions and answers as one item": (
        "a.json",
        json.dumps([{"conversation": [{"human": ASK, "assistant": TELL}]}]),
        CHAT,
        set(),
        [],
    ),
    "a context to the question": (
        "a.jsonl",
        jsonl(
            {
                "context": "Tri is three.",
                "question": ASK,
                "answers": {"text": [TELL], "answer_start": [0]},
            }
        ),
        [{"role": "user", "content": f"Tri is three.\n\n{ASK}"}, ANSWER],
        set(),
        ["answers.answer_start"],
    ),
    "a system prompt beside the turns": (
        "a.jsonl",
        jsonl(
            {"system": "Be brief.", "messages": [{"role": "system", "content": "Be kind."}, *CHAT]}
        ),
        [{"role": "system", "content": "Be brief.\n\nBe kind."}, *CHAT],
        set(),
        [],
    ),
    "a prompt beside a text that is its answer": (
        "a.csv",
        f"prompt,text\n{ASK},{TELL}\n",
        CHAT,
        set(),
        [],
    ),
    "separators of OpenAI's older files": (
        "a.jsonl",
        jsonl({"prompt": f"{ASK}\n\n###\n\n", "completion": TELL}),
        [{"role": "user", "content": f"{ASK}\n\n###\n\n"}, ANSWER],
        {"separators"},
        [],
    ),
    "an object to be learned as an answer": (
        "a.jsonl",
        jsonl({"instruction": ASK, "output": {"wheels": 3, "spare": None}}),
        [QUESTION, {"role": "assistant", "content": '{"wheels": 3, "spare": null}'}],
        {"object_text"},
        [],
    ),
    "objects over several lines": (
        "a.jsonl",
        json.dumps({"question": ASK, "answer": TELL}, indent=2),
        CHAT,
        set(),
        [],
    ),
    "Gemini's contents": (
        "a.jsonl",
        jsonl(
            {
                "contents": [
                    {"role": "user", "parts": [{"text": ASK}]},
                    {"role": "model", "parts": [{"text": TELL}]},
                ]
            }
        ),
        CHAT,
        set(),
        [],
    ),
    "system prompts under another name": (
        "a.jsonl",
        jsonl({"system_message": "Be brief.", "prompt": ASK, "response": TELL}),
        [{"role": "system", "content": "Be brief."}, *CHAT],
        set(),
        [],
    ),
    "Cohere's names": (
        "a.jsonl",
        jsonl(
            {"messages": [{"role": "User", "content": ASK}, {"role": "Chatbot", "content": TELL}]}
        ),
        CHAT,
        set(),
        [],
    ),
    "lines as Python prints them": (
        "a.jsonl",
        f"{PYTHON_ROW}\n{OTHER_PYTHON_ROW}\n",
        CHAT,
        {"python_text"},
        [],
    ),
    "a list as Python prints it": (
        "a.json",
        str([{"messages": CHAT}, {"messages": [QUESTION, ANSWER | {"content": "It's three."}]}]),
        CHAT,
        {"python_text", "other_answer"},
        [],
    ),
    "a conversation as one text": (
        "a.jsonl",
        jsonl({"conversation": f"Human: {ASK}\n\nAssistant: {TELL}"}),
        CHAT,
        {"transcript"},
        [],
    ),
    "columns that nobody reads": (
        "a.jsonl",
        jsonl(
            {
                "question": ASK,
                "answer": TELL,
                "source": "book",
                "empty": "",
                "none": None,
                "more": {"a": [None]},
            }
        ),
        CHAT,
        set(),
        ["source"],
    ),
}
