"""All safe repairs in one pass: nothing good gets worse, and nothing is lost without being
counted."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.doctor.combined_repairs import RowChanges, SafeRepairer
from engine.doctor.finding_kinds import (
    EXPLANATIONS,
    NOTICES,
    SEVERITY_HELP,
    SEVERITY_WORDS,
    TITLES,
    severity_of,
)
from engine.doctor.repair_kinds import MEND_SAFE, REPAIRS, SAFE
from engine.doctor.repairs import RepairReport, changes_applied, repaired
from engine.rows.examples import RowProblem, to_example


def chat(*turns):
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def is_good(row):
    try:
        to_example(row, "messages", {})
    except RowProblem:
        return False
    return True


def mended(rows):
    done = RepairReport()
    numbered = list(enumerate(rows, 1))
    return list(repaired(numbered, MEND_SAFE, "messages", {}, done)), done


GOOD = chat(("user", "Q"), ("assistant", "A"))
TWICE = chat(("user", "Q"), ("user", "Hello?"), ("assistant", "A"))
OPEN_END = chat(("user", "Q2"), ("assistant", "A"), ("user", "And then?"))
LATE_SYSTEM = chat(("user", "Q3"), ("system", "Be kind."), ("assistant", "A"))
BOTH = chat(("user", "Q"), ("user", "Hello?"), ("assistant", "A"), ("user", "And then?"))
SECRET = chat(("user", "password: hunter2"), ("assistant", "A"))
DAMAGED = chat(("user", "CafÃ©?"), ("assistant", "Yes."))
BEYOND_REPAIR = chat(("user", "Q"), ("assistant", ""))
ONLY_A_MARK = chat(("user", "Q"), ("assistant", "<|im_end|>"))


def test_one_pass_mends_all_that_is_safe_and_counts_every_step():
    rows = [GOOD, TWICE, OPEN_END, LATE_SYSTEM, SECRET, DAMAGED, BEYOND_REPAIR, GOOD]
    new, done = mended(rows)

    assert done.steps == {
        "merge_turns": 1,
        "drop_last_question": 1,
        "move_system": 1,
        "mask_secrets": 1,
        "mend_encoding": 1,
        "drop_duplicates": 1,
    }
    assert done.counts == {"read": 8, "written": 7, "changed": 5, "left_out": 1}
    assert new[0] == GOOD
    assert new[1]["messages"][0]["content"] == "Q\n\nHello?"
    assert new[-1] == BEYOND_REPAIR
    assert "hunter2" not in json.dumps(new)


def test_a_row_with_two_faults_is_mended_of_both():
    (row,), done = mended([BOTH])

    assert [turn["content"] for turn in row["messages"]] == ["Q\n\nHello?", "A"]
    assert done.steps == {"merge_turns": 1, "drop_last_question": 1}


TWO_FAULTS_ONE_BEYOND = chat(("user", "Q"), ("user", "Hello?"), ("assistant", ""))


def test_a_repair_that_would_spoil_a_row_does_not_keep_others_from_it():
    (row,), done = mended([chat(("user", "password: hunter2"), ("assistant", "<|im_end|>"))])

    assert [turn["content"] for turn in row["messages"]] == ["password: [password]", "<|im_end|>"]
    assert done.steps == {"mask_secrets": 1}


@pytest.mark.parametrize(
    "row",
    [BEYOND_REPAIR, TWO_FAULTS_ONE_BEYOND, ONLY_A_MARK, GOOD],
    ids=["beyond repair", "half of it beyond repair", "only a mark", "good"],
)
def test_what_cannot_be_mended_safely_stays_as_it_was(row):
    new, done = mended([row])

    assert new == [row]
    assert done.steps == {}


TEXTS = st.sampled_from(["A", "", "<|im_end|>", "CafÃ©", "password: hunter2", "B\n\nC", "\ufffd"])
TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=5)


@settings(deadline=None, max_examples=150)
@given(st.lists(TURNS.map(lambda turns: chat(*turns)), max_size=6))
def test_no_good_row_gets_worse_and_every_row_is_accounted_for(rows):
    new, done = mended(rows)
    good_before, good_after = sum(map(is_good, rows)), sum(map(is_good, new))

    assert done.counts["read"] == len(rows)
    assert done.counts["written"] + done.counts["left_out"] == len(rows)
    assert done.counts["left_out"] == done.steps.get("drop_duplicates", 0)
    assert good_after >= good_before - done.counts["left_out"]
    # What was mended once has nothing left to mend.
    assert mended(new)[0] == new


def test_safe_repairs_are_offered_one_by_one_too():
    assert set(SAFE) <= set(REPAIRS)
    assert SafeRepairer("text", {}).rows({"text": "CafÃ©"}) == [{"text": "Café"}]


def test_changed_rows_are_edited_left_out_and_put_back(tmp_path):
    path = tmp_path / "changes.json"
    RowChanges({2: {"text": "new"}}, {3}, [{"text": "again"}]).write(path)
    rows = [(1, {"text": "a"}), (2, {"text": "b"}), (3, {"text": "c"}), (5, None)]
    done = RepairReport()

    new = list(changes_applied(rows, RowChanges.read(path), done))
    assert new == [{"text": "a"}, {"text": "new"}, {"text": "again"}]
    assert done.counts["written"] == 3
    assert done.counts["left_out"] == 2


@pytest.mark.parametrize("kind", TITLES)
def test_every_kind_of_finding_says_how_much_it_matters_and_why(kind):
    severity = severity_of(kind)

    assert SEVERITY_WORDS[severity]
    assert SEVERITY_HELP[severity]
    assert kind in NOTICES or EXPLANATIONS[kind].endswith(".")
