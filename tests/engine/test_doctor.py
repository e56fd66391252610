"""What the doctor finds, and that each repair mends what it is for and loses count of no row."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.doctor.examine import Doctor, concealed
from engine.doctor.repair_kinds import EVALUATION_PART, REPAIRS, SPLIT, TRAIN_PART, offered
from engine.doctor.repairs import RepairReport, repaired
from engine.doctor.row_repairs import with_right_encoding
from engine.rows.examples import RowProblem, to_example
from engine.rows.format_detection import detect_format
from engine.rows.formats import FORMATS
from tests.engine.test_formats import ROWS


def seen(rows, format, column_map=None):
    doctor, bad = Doctor(), 0
    for line, row in enumerate(rows, 1):
        try:
            doctor.see(line, to_example(row, format, column_map or {}))
        except RowProblem:
            bad += 1
    return {finding["kind"]: finding for finding in doctor.findings()} | (
        {"problems": {"count": bad}} if bad else {}
    )


def asked(question, answer="Yes."):
    return {"question": question, "answer": answer}


CASES = {
    "duplicate": ([asked("A"), asked("B"), asked("A")], [3]),
    "other_answer": ([asked("A"), asked("A", "No.")], [2]),
    "template_tokens": (
        [asked("A"), asked("<|im_start|>user B"), asked("[INST] C [/INST]")],
        [2, 3],
    ),
    "secret": ([asked("My key is sk-" + "a1B2" * 8), asked("hf_" + "aB3x" * 9)], [1, 2]),
    "email": ([asked("Write to ann.lee@example.org"), asked("B")], [1]),
    "damaged": ([asked("A"), asked("CafÃ© 今天"), asked("itâ€™s")], [2, 3]),
    "lost": ([asked("A"), asked("a\ufffdb")], [2]),
}


@pytest.mark.parametrize("kind", CASES)
def test_it_is_found_with_its_lines(kind):
    rows, lines = CASES[kind]
    finding = seen(rows, "question-answer")[kind]
    assert (finding["count"], [example["line"] for example in finding["examples"]]) == (
        len(lines),
        lines,
    )


def test_clean_rows_have_no_findings():
    assert (
        seen(
            [asked("How many?"), asked("1 < 2?"), asked("Is a@b an address?"), asked("[x]")],
            "question-answer",
        )
        == {}
    )


KEY, ADDRESS = "sk-" + "a1B2" * 8, "ann.lee@example.org"


@pytest.mark.parametrize(
    "rows",
    [
        [asked(KEY)],
        [asked(ADDRESS)],
        [asked(f"{KEY} {ADDRESS}")] * 2,
        [asked(f"{KEY} {ADDRESS}"), asked(f"{KEY} {ADDRESS}", "No.")],
        [asked(f"{KEY}<|im_start|>{ADDRESS} Ã©\ufffd")],
    ],
)
def test_secrets_are_never_shown_whole(rows):
    shown = json.dumps(seen(rows, "question-answer"))
    for slug in REPAIRS:
        shown += json.dumps(mend(rows, slug, "question-answer")[1].examples)
    assert KEY[:20] not in shown
    assert ADDRESS not in shown


def test_enough_is_shown_to_find_it_again():
    assert concealed(f"my {KEY}!") == "my sk-a…B2!"


@pytest.mark.parametrize(
    ("labels", "kind"),
    [([True] * 5, "one_label"), ([True] * 40 + [False], "imbalance"), ([True, False] * 5, None)],
)
def test_ratings_are_weighed(labels, kind):
    rows = [
        {"prompt": f"P{n}", "completion": f"C{n}", "label": label} for n, label in enumerate(labels)
    ]
    assert list(seen(rows, "kto")) == ([kind] if kind else [])


def test_several_scripts_are_told():
    rows = [asked(f"How are you {n}?") for n in range(8)] + [
        asked("今天天气怎么样", "很好") for _ in range(1)
    ]
    assert (
        "8 Latin, 1 Chinese"
        in seen(rows, "question-answer")["mixed_scripts"]["examples"][0]["text"]
    )


def mend(rows, slug, format, column_map=None, fits=None):
    done = RepairReport()
    numbered = [(line, row) for line, row in enumerate(rows, 1)]
    return list(repaired(numbered, slug, format, column_map or {}, done, fits)), done


@pytest.mark.parametrize(
    ("slug", "kind"),
    [
        ("drop_duplicates", "duplicate"),
        ("strip_template", "template_tokens"),
        ("mask_secrets", "secret"),
        ("mask_addresses", "email"),
        ("mend_encoding", "damaged"),
        ("drop_lost", "lost"),
    ],
)
def test_a_repair_mends_what_it_is_for(slug, kind):
    rows, lines = CASES[kind]
    assert kind in REPAIRS[slug].mends
    new, done = mend(rows, slug, "question-answer")
    assert kind not in seen(new, *detect_format(list(new[0]), new))
    assert done.counts["read"] == len(rows)
    assert done.counts["changed"] + done.counts["left_out"] == len(lines)
    assert [example["line"] for example in done.examples] == lines


def test_bad_rows_are_left_out_and_others_stay():
    rows = [asked("A"), asked(None), {"x": 1}, asked("B")]
    new, done = mend(rows, "drop_bad", "question-answer")
    assert new == [rows[0], rows[3]]
    assert done.counts == {"read": 4, "written": 2, "changed": 0, "left_out": 2}


def test_turns_of_one_speaker_are_merged():
    turns = [("user", "A"), ("user", "B"), ("assistant", "C"), ("assistant", "D")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]}]
    assert "problems" in seen(rows, "messages")
    new, done = mend(rows, "merge_turns", "messages")
    assert [turn["content"] for turn in new[0]["messages"]] == ["A\n\nB", "C\n\nD"]
    assert done.counts["changed"] == 1


PAIRS = [{"prompt": f"P{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(3)]


@pytest.mark.parametrize(
    ("slug", "format", "count"),
    [
        ("pairs_to_examples", "messages", 3),
        ("pairs_to_ratings", "kto", 6),
        ("answers_to_prompts", "prompt-only", 3),
    ],
)
def test_pairs_become_other_formats(slug, format, count):
    new, done = mend(PAIRS, slug, "preference")
    assert detect_format(list(new[0]), new)[0] == format == REPAIRS[slug].makes
    assert len(new) == done.counts["written"] == count
    assert all(to_example(row, format, {}) for row in new)


def test_what_is_offered_fits_the_format_and_the_findings():
    assert [repair.slug for repair in offered("text", set())] == ["split"]
    assert [repair.slug for repair in offered("text", {"duplicate", "email"})] == [
        "drop_duplicates",
        "mask_addresses",
        "split",
    ]
    assert "pairs_to_ratings" in [repair.slug for repair in offered("preference", set())]
    assert "merge_turns" not in [repair.slug for repair in offered("messages", {"problems"})]
    assert "merge_turns" in [
        repair.slug for repair in offered("messages", {"problems", "two_turns"})
    ]


def test_both_parts_of_a_split_are_all_rows():
    rows = [asked(f"Q{n}") for n in range(25)]
    parts = [mend(rows, slug, "question-answer")[0] for slug in (TRAIN_PART, EVALUATION_PART)]
    assert [len(part) for part in parts] == [23, 2]
    assert len({json.dumps(row) for part in parts for row in part}) == 25


def test_text_in_the_right_encoding_stays():
    assert with_right_encoding("Café, naïve, 今天") == "Café, naïve, 今天"
    assert with_right_encoding("CafÃ©") == "Café"


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(ROWS, max_size=5), format=st.sampled_from(list(FORMATS)))
def test_the_doctor_stands_every_row(rows, format):
    found = seen(rows, format)
    json.dumps(found)


CALLS = [
    {"role": "user", "content": "How warm is it in Oslo?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "function": {"name": "warmth", "arguments": '{"place": "Oslo"}'}}
        ],
    },
    {"role": "tool", "name": "warmth", "content": {"celsius": 4}},
    {"role": "assistant", "content": "4 degrees."},
]


@pytest.mark.parametrize(
    "slug",
    [slug for slug, repair in REPAIRS.items() if not repair.makes and slug != SPLIT] + [TRAIN_PART],
)
def test_what_a_repair_is_not_for_stays_as_it_was(slug):
    rows = [
        {
            "id": 7,
            "messages": CALLS,
            "tools": [{"type": "function", "function": {"name": "warmth"}}],
            "more": {"source": "x"},
        }
    ]
    new, done = mend(rows, slug, "messages")
    assert new == rows
    assert done.counts == {"read": 1, "written": 1, "changed": 0, "left_out": 0}


def test_other_columns_stay_beside_a_new_format():
    rows = [pair | {"source": "x"} for pair in PAIRS]
    assert {
        row["source"]
        for slug in ("pairs_to_ratings", "answers_to_prompts")
        for row in mend(rows, slug, "preference")[0]
    } == {"x"}


def test_a_row_that_cannot_be_read_stays_where_the_repair_is_for_something_else():
    assert mend([asked(None), None], "mask_secrets", "question-answer")[0] == [asked(None)]


def test_columns_get_the_names_of_the_format():
    rows = [{"Frage": "U", "Antwort": "A", "answer": "other", "n": 1}]
    new, _ = mend(
        rows, "rename_columns", "question-answer", {"question": "Frage", "answer": "Antwort"}
    )
    assert new == [{"question": "U", "answer": "A", "answer_before": "other", "n": 1}]


def words(example):
    return sum(
        len(text.split())
        for text in [example.text or "", *(turn["content"] for turn in example.messages or [])]
    )


def test_long_rows_are_left_out():
    rows = [asked("a b c"), asked("a b c d"), asked(None)]
    assert mend(rows, "drop_long", "question-answer", fits=lambda example: words(example) <= 4)[
        0
    ] == [rows[0], rows[2]]


@pytest.mark.parametrize(
    ("limit", "turns"), [(9, 8), (8, 8), (7, 6), (5, 4), (4, 4), (3, 2), (2, 2), (1, 0)]
)
def test_a_long_conversation_loses_its_last_exchanges(limit, turns):
    talk = [{"from": ("human", "gpt")[n % 2], "value": f"word{n}"} for n in range(8)]
    new, done = mend(
        [{"conversations": talk}],
        "cut_long",
        "conversations",
        fits=lambda example: words(example) <= limit,
    )
    assert new == ([{"conversations": talk[:turns]}] if turns else [])
    assert done.counts["changed"] == (0 < turns < 8)


def test_a_conversation_is_not_cut_between_a_call_and_what_came_of_it():
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, *CALLS]
    new, _ = mend(
        [{"messages": turns}],
        "cut_long",
        "messages",
        fits=lambda example: len(example.messages) < 6,
    )
    assert new == [{"messages": turns[:2]}]


def test_a_long_text_loses_its_end():
    new, _ = mend(
        [{"text": "a b c d"}, {"text": "a"}],
        "cut_long",
        "text",
        fits=lambda example: words(example) <= 2,
    )
    assert [row["text"].strip() for row in new] == ["a b", "a"]


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(ROWS | st.none(), max_size=5),
    format=st.sampled_from(list(FORMATS)),
    slug=st.sampled_from([*REPAIRS, TRAIN_PART, EVALUATION_PART]),
    most=st.integers(0, 6),
)
def test_a_repair_loses_count_of_no_row_and_makes_none_worse(rows, format, slug, most):
    def good(row, format):
        try:
            return bool(to_example(row, format, {}))
        except RowProblem:
            return False

    new, done = mend(rows, slug, format, fits=lambda example: words(example) <= most)
    counts = done.counts
    each = 2 if slug == "pairs_to_ratings" else 1
    assert counts["read"] == len(rows) == counts["left_out"] + len(new) // each
    assert counts["written"] == len(new)
    bad_before = sum(not good(row, format) for row in rows if row is not None)
    made = REPAIRS[slug].makes if slug in REPAIRS else ""
    assert sum(not good(row, made or format) for row in new) <= (0 if made else bad_before)
