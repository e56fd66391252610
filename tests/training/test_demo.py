"""The demo dataset: what `make demo` trains on, and how it judges the answers."""

import json

from engine.rows.examples import to_example
from engine.rows.format_detection import detect_format
from training.train.demo_rows import CASES, FRAMES, demo_jsonl, follows_format


def test_every_row_can_be_learned_from_and_its_answer_is_in_the_house_format():
    rows = [json.loads(line) for line in demo_jsonl().splitlines()]
    name, columns = detect_format(list(rows[0]), rows)

    assert len(rows) == len(CASES) * len(FRAMES) == 90
    assert len({row["prompt"] for row in rows}) == 90
    for row in rows:
        question, answer = to_example(row, name, columns).messages
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert follows_format(answer["content"])


def test_other_answers_are_not_taken_for_the_house_format():
    good = "Topic: Repair\nAnswer: Yes.\nNext step: Call."
    assert follows_format(good)
    assert not follows_format("I am sorry to hear that.")
    assert not follows_format(good + "\nMore.")
    assert not follows_format(good.replace("Next step: ", "Then "))
