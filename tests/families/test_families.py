"""A few families of each kind, as `make families` walks all of them; and that docs/families.md has
all of them."""

import re
from pathlib import Path

import pytest

from tests.families import maker
from tests.families.walk import REFUSED, family_walk

TABLE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
# A mixture of experts with a routers' loss, one that is a hybrid, a state-space model, an encoder's
# decoder with an output layer of its own, and one that is refused.
FEW = ("qwen3_moe", "qwen3_next", "mamba", "bert")
# Sizes of real configs would show in the count of weights at once.
MOST_WEIGHTS = 400_000


@pytest.mark.long
@pytest.mark.parametrize("family", FEW)
def test_a_family_learns_what_plain_libraries_learn(family, tmp_path):
    verdict = family_walk(family, tmp_path)
    assert verdict.verdict.startswith("trains"), verdict.words


def test_a_family_that_cannot_learn_is_refused_at_the_import(tmp_path):
    verdict = family_walk("xlnet", tmp_path)
    assert verdict.verdict == REFUSED
    assert "both directions" in verdict.words


def rows_of_the_table():
    _header, *rows = re.findall(
        r"^\| (\S+) \| ([a-zA-Z ]+?) \| (.*) \|$", TABLE.read_text(), re.MULTILINE
    )
    return rows


def test_the_table_has_every_family_of_the_pinned_version():
    assert [family for family, *_ in rows_of_the_table()] == maker.families()


def test_nine_in_ten_train_and_no_other_is_left_without_words():
    rows = rows_of_the_table()
    trained = [family for family, verdict, _ in rows if verdict.startswith("trains")]
    assert len(trained) >= 0.9 * len(rows)
    rest = [(verdict, words) for _, verdict, words in rows if not verdict.startswith("trains")]
    assert {verdict for verdict, _ in rest} <= {REFUSED}
    assert all(len(words) > 40 for _, words in rest)


def test_the_shapes_that_people_start_from_train():
    verdicts = {family: verdict for family, verdict, _ in rows_of_the_table()}
    for family in (
        "qwen3",
        "gemma3_text",
        "gemma3",
        "llama",
        "mistral",
        "phi3",
        "qwen3_moe",
        "gpt_oss",
        "qwen3_5_text",
    ):
        assert verdicts[family].startswith("trains"), family


def test_a_config_is_shrunk_by_its_names_and_keeps_a_layer_of_each_kind(tmp_path):
    from transformers import AutoConfig

    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer(tmp_path)
    whole = AutoConfig.for_model("qwen3_next")
    small = maker.family_config("qwen3_next", tokenizer)
    assert set(small.layer_types) == set(whole.layer_types)
    assert small.num_hidden_layers == len(small.layer_types) == 2
    assert (small.hidden_size, small.num_experts, small.head_dim) == (32, 4, 8)
    assert small.rope_parameters == whole.rope_parameters
