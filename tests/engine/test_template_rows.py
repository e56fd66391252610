"""Rows that a chat template or the token limit costs: left out, counted, named, and never a whole
train."""

import json
from types import SimpleNamespace

import pytest

from engine.chat.lengths import count
from engine.chat.render import Renderer
from engine.chat.row_notes import HOPELESS_ROWS, RowNotes
from engine.contract.arithmetic import holdout_draw
from engine.contract.rundir import held_out_read
from engine.data.cache import Rows
from engine.data.pairs import pair_add
from engine.data.split import split
from engine.distributed.ranks import ALONE
from engine.messages.failures import TrainError
from engine.rows.examples import Example
from engine.run.samples import greedy
from tests.engine.runs import toy_rows, train
from tests.tiny import CHAT_TEMPLATE, tiny_model, tiny_tokenizer

# Refuses a row in which somebody says "Ball 3?", as others refuse two calls at once.
PICKY = (
    "{% for m in messages %}{% if m.content == 'Ball 3?' %}{{ raise_exception('One ball too many') "
    "}}{% endif %}"
    "{% endfor %}" + CHAT_TEMPLATE
)
TRIMMING = CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")


@pytest.fixture(scope="module")
def picky(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("picky") / "llama", chat_template=PICKY)


def warnings(run):
    return {event["code"]: event["message"] for event in run.of("warning")}


@pytest.mark.parametrize(
    ("recipe", "format", "rows", "more"),
    [
        ("sft", "messages", toy_rows(8), {}),
        (
            "dpo",
            "preference",
            [{"prompt": f"Ball {n}?", "chosen": "Red", "rejected": "Blue"} for n in range(8)],
            {},
        ),
        (
            "grpo",
            "prompt-only",
            [{"prompt": f"Ball {n}?"} for n in range(8)],
            {
                "rewards": [{"function": "contains", "parameters": {"forbidden": "x"}}],
                "num_generations": 2,
                "max_completion_tokens": 4,
            },
        ),
    ],
)
def test_a_row_that_the_template_refuses_is_left_out_and_named(
    picky, tmp_path, recipe, format, rows, more
):
    run = train(
        tmp_path / "run",
        picky,
        rows,
        recipe=recipe,
        format=format,
        max_steps=1,
        batch_size=2,
        evaluation_split=0.3,
        seed=11,
        **more,
    )
    assert run.code == 0, run.last
    assert (run.of("started")[0]["train_rows"], run.of("started")[0]["left_out_rows"]) == (5, 1)
    # Which rows of the file are held out is written down: those behind the refused one, too.
    good = [0, 1, 2, 4, 5, 6, 7]
    assert held_out_read(run.directory) == [good[index] for index in holdout_draw(7, 2, 11)]
    said = warnings(run)["rows_refused"]
    assert said.startswith("1 of 8 rows is left out")
    assert "Line 4: " in said
    assert "One ball too many" in said


def test_where_every_row_is_refused_the_train_fails_with_the_templates_words(picky, tmp_path):
    run = train(tmp_path / "run", picky, [toy_rows(4)[3]] * 4)
    assert (run.code, run.last["code"]) == (1, "template_fails")
    assert "One ball too many" in run.last["message"]


def test_rows_that_are_refused_are_named_again_when_kept_tokens_are_used(picky, tmp_path):
    held_out = []
    more = {"max_steps": 1, "evaluation_split": 0.5, "cache": str(tmp_path / "cache")}
    for name in ("first", "second"):
        run = train(tmp_path / name, picky, toy_rows(8), **more)
        assert "Line 4" in warnings(run)["rows_refused"]
        assert run.of("started")[0]["left_out_rows"] == 1
        held_out.append(held_out_read(run.directory))

    assert held_out[0] == held_out[1]
    assert len(held_out[0]) == 4


def test_a_row_of_which_one_half_is_trained_on_is_not_held_out():
    """A pair becomes two rated answers, which the draw may part."""
    parameters = SimpleNamespace(seed=42, evaluation_split=0.5)
    job = SimpleNamespace(parameters=parameters, ranks=ALONE)
    numbers = [number for number in range(10) for _ in range(2)]
    written = []

    def write(directory, rows):
        written.extend(rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.data.split.held_out_write", write)
        job.directory = None
        parts = split(job, numbers, None)

    trained = {numbers[index] for index in parts.kept}
    assert written
    assert not trained & {*written}
    assert trained | {*written} == {*range(10)}


def test_nobody_waits_for_rows_that_all_fail_or_all_take_too_long():
    refused = TrainError("template_fails", "No.", "")
    notes = RowNotes()
    for line in range(1, HOPELESS_ROWS):
        notes.refuse(line, refused)
    with pytest.raises(TrainError, match="No"):
        notes.refuse(HOPELESS_ROWS, refused)

    slow, notes = TrainError("template_loops", "Too long.", ""), RowNotes()
    notes.see(1, ())
    notes.refuse(2, slow)
    notes.refuse(3, slow)
    with pytest.raises(TrainError, match="Too long"):
        notes.refuse(4, slow)


def test_counting_names_refused_rows_and_what_the_template_does_to_others(picky):
    from engine.chat.render import tokenizer_load

    renderer = Renderer(tokenizer_load(picky), warn=lambda code, message: None)
    thinking = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "Two and two."},
    ]
    rows = [*(Example(messages=row["messages"]) for row in toy_rows(5)), Example(messages=thinking)]
    counted = count(renderer, enumerate(rows, 1))
    assert sum(counted["rows"].values()) == 5
    notes = RowNotes.read(json.loads(json.dumps(counted["notes"])))
    assert (notes.refused, notes.refusals[0][0]) == (1, 4)
    assert notes.findings == {"thinking_no_place": {"rows": 1, "lines": [6]}}
    texts = dict(notes.messages())
    assert texts["thinking_no_place"].startswith("In 1 of 6 rows the thinking is left out")
    assert dict(notes.without("thinking_no_place").messages()).keys() == {"rows_refused"}


def test_rows_whose_answers_are_all_not_to_be_learned_are_left_out_and_said(tiny, tmp_path):
    from engine.chat.render import tokenizer_load

    turns = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "5", "learned": False},
    ]
    renderer = Renderer(tokenizer_load(tiny), warn=lambda code, message: None)
    tokens = renderer.tokens(Example(messages=turns))
    assert tokens.findings == {"nothing_learned"}
    assert not any(tokens.learned)
    counted = count(
        renderer, [(1, Example(messages=turns)), (2, Example(messages=toy_rows(1)[0]["messages"]))]
    )
    notes = RowNotes.read(counted["notes"])
    assert notes.left_out == 1
    assert dict(notes.messages())["nothing_learned"].startswith(
        "In 1 of 2 rows all answers are marked"
    )


def test_a_train_says_how_many_rows_are_too_long(tiny, tmp_path):
    long = {
        "messages": [
            {"role": "user", "content": "word " * 60},
            {"role": "assistant", "content": "Yes."},
        ]
    }
    cut = {
        "messages": [
            {"role": "user", "content": "Go."},
            {"role": "assistant", "content": "word " * 60},
        ]
    }
    run = train(
        tmp_path / "run", tiny, [*toy_rows(4), *[long] * 4, *[cut] * 2], max_tokens=64, max_steps=1
    )
    assert run.code == 0, run.last
    assert warnings(run)["rows_left_out"].startswith("4 of 10 rows are left out: at 64 tokens")
    assert warnings(run)["rows_cut"].startswith("2 of 10 rows are cut at 64 tokens")


def test_a_train_whose_answers_never_end_is_warned_and_texts_are_none(tiny, tmp_path):
    cut = {
        "messages": [
            {"role": "user", "content": "Go."},
            {"role": "assistant", "content": "word " * 60},
        ]
    }
    run = train(tmp_path / "run", tiny, [cut] * 4, max_tokens=64, max_steps=1)
    assert "does not learn when to stop" in warnings(run)["no_end_learned"]
    text = train(
        tmp_path / "text",
        tiny,
        [{"text": "word " * 60}] * 4,
        format="text",
        max_tokens=64,
        max_steps=1,
    )
    assert "no_end_learned" not in warnings(text)


def test_pairs_that_differ_in_white_space_are_the_same_to_a_template_that_trims(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path, chat_template=TRIMMING)
    renderer, rows = Renderer(tokenizer, warn=lambda code, message: None), Rows()
    sides = [[{"role": "assistant", "content": words}] for words in ("same", "same ")]
    asked = [{"role": "user", "content": "Q"}]
    pair_add(rows, Example(messages=asked, chosen=sides[0], rejected=sides[1]), renderer, 100)
    assert (rows.alike, rows.left_out, len(rows)) == (1, 0, 0)

    model = tiny_model(tmp_path / "model", chat_template=TRIMMING)
    pairs = [{"prompt": f"Q{n}", "chosen": "same", "rejected": "same "} for n in range(6)]
    for recipe in ("dpo", "reward"):
        run = train(tmp_path / recipe, model, pairs, recipe=recipe, format="preference")
        assert (run.code, run.last["code"]) == (1, "no_rows")
        assert "6 pairs" in run.last["message"]
        assert "the same" in run.last["message"]
        assert "token limit" not in run.last["advice"]

    run = train(
        tmp_path / "some",
        model,
        [*pairs, {"prompt": "Q", "chosen": "yes", "rejected": "no"}],
        recipe="dpo",
        format="preference",
        max_steps=1,
        batch_size=1,
    )
    assert "the same" in warnings(run)["pairs_alike"]


# Samples.


def test_samples_are_greedy_whatever_the_base_model_brings_and_say_whether_they_stopped(
    tiny, tmp_path
):
    import shutil

    bringing = tmp_path / "bringing"
    shutil.copytree(tiny, bringing)
    path = bringing / "generation_config.json"
    config = json.loads(path.read_text()) | {
        "num_beams": 3,
        "repetition_penalty": 1.9,
        "no_repeat_ngram_size": 2,
    }
    path.write_text(json.dumps(config))

    options = {
        "sample_prompts": 2,
        "evaluation_split": 0.25,
        "sample_max_tokens": 12,
        "max_steps": 1,
    }
    runs = [
        train(tmp_path / name, model, **options)
        for name, model in (("plain", tiny), ("other", bringing))
    ]
    plain, other = [
        [(row["text"], row["tokens"], row["stopped"]) for row in run.of("sample")] for run in runs
    ]
    assert plain == other
    assert all(stopped == (tokens < 12) for _, tokens, stopped in plain if tokens < 12)
    assert any(not stopped for _, _, stopped in plain), "untrained, it writes on"
    # What is saved brings it still.
    saved = json.loads((tmp_path / "other" / "model" / "generation_config.json").read_text())
    assert saved["repetition_penalty"] == 1.9


WITHOUT_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, WITHOUT_END])
def test_a_trained_model_stops_by_itself_also_where_the_template_writes_no_end(tmp_path, template):
    model = tiny_model(tmp_path / "model", chat_template=template)
    run = train(
        tmp_path / "run",
        model,
        toy_rows(8),
        sample_prompts=2,
        sample_max_tokens=40,
        max_steps=120,
        batch_size=8,
        learning_rate=0.02,
        adapter="none",
        max_tokens=64,
    )
    after = [row for row in run.of("sample") if row["stage"] == "after"]
    assert [row["stopped"] for row in after] == [True, True]
    assert all(row["text"] == row["reference"] for row in after)


def test_greedy_leaves_the_settings_as_they_were(tiny):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.generation_config.repetition_penalty = 1.5
    with greedy(model):
        assert model.generation_config.repetition_penalty in (None, 1)
    assert model.generation_config.repetition_penalty == 1.5
