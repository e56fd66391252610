"""Files that are read in parts or mended: several lists in one, bad rows that become good, fields
within columns."""

import json

import pytest

from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from datasets_app.preview import rows_seen
from datasets_app.repairing import dataset_repair, repairs_of
from datasets_app.services import dataset_update
from engine.rows.read import FilePosition, read_rows
from tests.datasets_app.files import ANSWER, ASK, CHAT, EARLIER, QUESTION, TELL, jsonl

LISTS = {
    "about": "wheels",
    "test": [{"instruction": "Q0", "output": "A0"}, {"instruction": "Q1", "output": "A1"}],
    "tags": [["a"], {}],
    "train": [{"instruction": f"Q{number}", "output": f"A{number}"} for number in range(2, 12)],
}


def test_of_several_lists_in_one_file_no_row_is_passed_over(checked):
    dataset = checked(json.dumps(LISTS, indent=1).encode(), "a.json")

    assert (dataset.status, dataset.row_count, dataset.problem_count) == ("ready", 12, 0)
    finding = next(finding for finding in dataset.findings if finding["kind"] == "several_lists")
    assert finding["fields"] == [{"name": "train", "rows": 10}, {"name": "test", "rows": 2}]
    assert [row.example.asked[0]["content"] for row in rows_seen(dataset, 0, 12)] == [
        f"Q{n}" for n in range(12)
    ]


def test_a_dataset_is_made_of_each_list(checked, alice):
    dataset = checked(json.dumps(LISTS).encode(), "wheels.json")
    assert "split_lists" in [repair.slug for repair in repairs_of(dataset)]
    made = dataset_repair(dataset=dataset, by=alice, repair="split_lists")
    for part in made:
        dataset_check(part.pk)
        part.refresh_from_db()

    assert [(part.name, part.status, part.row_count) for part in made] == [
        ("wheels (train)", "ready", 10),
        ("wheels (test)", "ready", 2),
    ]
    assert [part.repair["counts"]["read"] for part in made] == [10, 2]


def test_lists_of_different_kinds_can_be_taken_apart_though_together_they_are_no_format(
    checked, alice
):
    lists = {"kinds": [{"id": 1, "label": "a"}], "data": [{"role": "user", "content": "a"}]}
    dataset = checked(json.dumps(lists).encode(), "a.json")

    assert dataset.status == "failed"
    assert [repair.slug for repair in repairs_of(dataset)] == ["split_lists"]


def test_reading_goes_on_behind_every_row_of_several_lists(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(LISTS, indent=1))
    rows, mark = list(read_rows(path, "json")), FilePosition()
    assert [row.part for row in rows] == ["test"] * 2 + ["train"] * 10
    for index, row in enumerate(rows):
        assert [each.values for each in read_rows(path, "json", mark)] == [
            each.values for each in rows[index:]
        ]
        mark = mark.after(row)


SYSTEM = {"role": "system", "content": "Be brief."}
# repair: (rows of turns of which the first is bad, the first one's turns afterwards)
MENDED = {
    "move_system": (
        [[*EARLIER, SYSTEM, *CHAT], CHAT],
        [SYSTEM, *EARLIER, *CHAT],
    ),
    "drop_last_question": ([[*EARLIER, QUESTION], CHAT], EARLIER),
    "drop_opening_answer": ([[SYSTEM, ANSWER, *CHAT], CHAT], [SYSTEM, *CHAT]),
    "merge_turns": (
        [[QUESTION, QUESTION, ANSWER], CHAT],
        [QUESTION | {"content": f"{ASK}\n\n{ASK}"}, ANSWER],
    ),
    "keep_text": (
        [
            [
                QUESTION | {"content": [{"type": "image_url"}, {"type": "text", "text": ASK}]},
                ANSWER,
            ],
            CHAT,
        ],
        CHAT,
    ),
}


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("slug", MENDED)
def test_a_repair_that_is_offered_for_bad_rows_makes_them_good(checked, alice, slug, as_text):
    rows, turns = MENDED[slug]
    held = [json.dumps(row) if as_text else row for row in rows]
    dataset = checked(jsonl(*({"messages": row} for row in held)).encode())
    offered = {repair.slug for repair in repairs_of(dataset)}

    # None that would change nothing.
    assert offered & set(MENDED) == {slug}
    (version,) = dataset_repair(dataset=dataset, by=alice, repair=slug)
    dataset_check(version.pk)
    version.refresh_from_db()
    assert (version.row_count, version.problem_count) == (2, 0)
    assert rows_seen(version, 0, 1)[0].example.messages == turns


def test_the_text_beside_pictures_can_be_kept_alone(checked, alice):
    rows = [
        {
            "messages": [QUESTION | {"content": f"<image>\n{ASK}"}, ANSWER],
            "images": ["tricycle.png"],
        }
    ]
    dataset = checked(jsonl(*rows).encode())
    assert dataset.status == "failed"
    (version,) = dataset_repair(dataset=dataset, by=alice, repair="keep_text")
    dataset_check(version.pk)
    version.refresh_from_db()

    assert (version.status, version.findings) == ("ready", [])
    assert rows_seen(version, 0, 1)[0].example.messages == CHAT


def test_texts_that_are_conversations_can_be_made_conversations(checked, alice):
    rows = [
        {"text": f"### Human: {ASK}### Assistant: {TELL}"},
        {"text": f"User: {ASK}\nAssistant: {TELL}"},
    ]
    dataset = checked(jsonl(*rows).encode())
    assert {finding["kind"]: finding["count"] for finding in dataset.findings} == {
        "transcript_text": 2
    }
    (version,) = dataset_repair(dataset=dataset, by=alice, repair="text_to_chats")
    dataset_check(version.pk)
    version.refresh_from_db()

    assert (version.format, version.row_count) == ("messages", 2)
    assert [row.example.messages for row in rows_seen(version, 0, 2)] == [CHAT, CHAT]


def test_separators_can_be_taken_out(checked, alice):
    rows = [
        {"prompt": f"{ASK} ->", "completion": f" {TELL} END"},
        {"prompt": f"{ASK}\n\n###\n\n", "completion": TELL},
    ]
    dataset = checked(jsonl(*rows).encode())
    (version,) = dataset_repair(dataset=dataset, by=alice, repair="strip_separators")
    dataset_check(version.pk)

    assert [
        row.example.messages for row in rows_seen(Dataset.objects.get(pk=version.pk), 0, 2)
    ] == [CHAT, CHAT]


def test_a_field_within_a_column_can_be_read(checked, alice):
    rows = [{"task": {"words": ASK, "key": {"right": TELL}}, "id": 1}]
    dataset = checked(jsonl(*rows).encode())
    assert dataset.status == "failed"
    assert [column["name"] for column in dataset.columns] == [
        "task",
        "task.words",
        "task.key",
        "task.key.right",
        "id",
    ]
    column_map = {"question": "task.words", "answer": "task.key.right"}
    dataset_update(dataset=dataset, by=alice, format="question-answer", column_map=column_map)
    dataset_check(dataset.pk)
    dataset.refresh_from_db()

    assert rows_seen(dataset, 0, 1)[0].example.messages == CHAT
    assert [item["name"] for item in dataset.unused] == ["id"]
    (version,) = dataset_repair(dataset=dataset, by=alice, repair="rename_columns")
    dataset_check(version.pk)
    assert rows_seen(Dataset.objects.get(pk=version.pk), 0, 1)[0].example.messages == CHAT


def test_a_column_that_is_not_to_be_read_is_not_read_and_named(checked, alice):
    dataset = checked(jsonl({"instruction": ASK, "input": "Think hard.", "output": TELL}).encode())
    dataset_update(dataset=dataset, by=alice, format="alpaca", column_map={"input": ""})
    dataset_check(dataset.pk)
    dataset.refresh_from_db()

    assert rows_seen(dataset, 0, 1)[0].example.messages == CHAT
    assert [item["name"] for item in dataset.unused] == ["input"]
