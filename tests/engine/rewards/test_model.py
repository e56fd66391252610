"""Trained reward models: whole folders, other tokenizers, what cannot be used."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from engine.contract.rundir import Resource
from engine.messages.failures import TrainError
from engine.rewards.base import Answer
from engine.rewards.model import RewardModelScorer
from tests.tiny import tiny_model, tiny_tokenizer

ASKED = [{"role": "user", "content": "How many?"}]
TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] "
    "}}<|im_end|>{% endfor %}"
)


@pytest.fixture(scope="module")
def scorer_folder(tmp_path_factory):
    """A whole reward model with a chat template of its own, whose texts are not the policy's."""
    folder = tiny_model(tmp_path_factory.mktemp("reward") / "model", "qwen2")
    tiny_tokenizer(folder, chat_template=TEMPLATE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    model.save_pretrained(folder)
    return folder


def test_a_whole_folder_reads_answers_by_its_own_template(scorer_folder):
    scorer = RewardModelScorer(Resource(str(scorer_folder)))
    texts = ["Five.", "A much longer answer than the first one.", ""]
    together = scorer.score_all([Answer(ASKED, text) for text in texts])

    for text, score in zip(texts, together, strict=True):
        alone = scorer.score_all([Answer(ASKED, text)])
        assert alone == pytest.approx([score], abs=1e-5), "padding does not change a score"
    ids = scorer.tokenizer(
        "[user] How many?<|im_end|>[assistant] Five.<|im_end|>", return_tensors="pt"
    )
    with torch.no_grad():
        score = float(scorer.model(input_ids=ids["input_ids"].to(scorer.device)).logits[0, 0])
    assert score == pytest.approx(together[0], abs=1e-5)


def test_answers_over_its_context_are_cut_and_scored(scorer_folder):
    (score,) = RewardModelScorer(Resource(str(scorer_folder))).score_all(
        [Answer(ASKED, "word " * 2000)]
    )
    assert score == score


def test_a_model_without_a_head_of_scores_is_refused(tiny):
    """Transformers would make one up."""
    with pytest.raises(TrainError, match="no reward model"):
        RewardModelScorer(Resource(str(tiny)))


def test_a_folder_that_is_gone_is_refused(tmp_path):
    with pytest.raises(TrainError, match="gone"):
        RewardModelScorer(Resource(str(tmp_path / "gone"), name="Mine"))
