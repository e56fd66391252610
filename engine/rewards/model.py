"""A reward model that was trained here before, as a reward function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from engine.rewards.base import Answer, Reward
from engine.schema.fields import parameter

if TYPE_CHECKING:
    from engine.contract.rundir import Resource

BATCH = 8
ADAPTER = "adapter_model.safetensors"


class RewardModel(Reward):
    """The score of a trained reward model. It has no fixed range; weigh it accordingly."""

    slug: ClassVar[str] = "reward_model"
    title: ClassVar[str] = "Reward model"
    help: ClassVar[str] = "The score of a reward model that was trained here from pairs."
    low: ClassVar[float | None] = None
    high: ClassVar[float | None] = None

    model: int = parameter(
        ...,
        "Model",
        "A finished train of the method Reward model.",
        group="Method",
        ge=1,
        control="reward_model",
    )

    @property
    def resource(self) -> str:
        """Its key in the spec's resources."""
        return f"reward_model:{self.model}"


class RewardModelScorer:
    """Scores conversations with the reward model's own chat template and tokenizer, whatever the
    policy's are."""

    def __init__(self, resource: Resource, max_tokens: int = 2048) -> None:
        """Raises TrainError where the model is gone or cannot be used."""
        import torch

        from engine.chat.render import Renderer, tokenizer_load
        from engine.messages.failures import TrainError

        folder = Path(resource.path)
        if not folder.is_dir() or (resource.base_path and not Path(resource.base_path).is_dir()):
            raise TrainError(
                "reward_model_gone",
                f"The reward model {resource.name} is gone.",
                "Choose another reward, or train the reward model again.",
            )

        base = Path(resource.base_path) if resource.base_path else None
        self.tokenizer = tokenizer_load(folder, config_folder=base)
        self.renderer = Renderer(self.tokenizer, warn=lambda code, message: None)
        self.model = scorer_load(folder, base)
        # The model finds the end of each text by its padding.
        self.model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device).eval()
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.max_tokens = min(max_tokens, context or max_tokens)

    def score_all(self, answers: Sequence[Answer]) -> list[float]:
        """One score an answer, (len(answers),)."""
        import torch

        ids = [self._ids(answer) for answer in answers]
        scores: list[float] = []

        with torch.no_grad():
            for start in range(0, len(ids), BATCH):
                batch = ids[start : start + BATCH]
                width = max(len(row) for row in batch)
                pad = self.tokenizer.pad_token_id
                tokens = torch.tensor(
                    [row + [pad] * (width - len(row)) for row in batch], device=self.device
                )
                mask = torch.tensor(
                    [[1] * len(row) + [0] * (width - len(row)) for row in batch], device=self.device
                )
                logits = self.model(input_ids=tokens, attention_mask=mask).logits
                scores += logits[:, 0].float().tolist()

        return scores

    def _ids(self, answer: Answer) -> list[int]:
        """Prompt and answer. The model scores the end, so a text that is too long loses its
        beginning."""
        turn = {"role": "assistant", "content": answer.text or " "}
        prompt, reply = self.renderer.answered(answer.prompt, [turn])
        return [*prompt, *reply][-self.max_tokens :]


def scorer_load(folder: Path, base: Path | None) -> Any:
    """A sequence classification model with one score, from a folder of its own or an adapter on
    `base`. Safetensors only. Raises ModelProblem where it holds none, TrainError where no score was
    ever learned."""
    from peft import PeftModel

    from engine.loading.pretrained import pretrained_load_with_report
    from engine.messages.failures import TrainError
    from engine.models.inspect import ModelProblem, config_read, safetensors_read, weight_files

    source = base or folder
    config_read(source)
    weight_files(source)

    if base is not None and not (folder / ADAPTER).is_file():
        raise ModelProblem(f"The reward model's folder holds no {ADAPTER}.")

    model, loading = pretrained_load_with_report(source, scores=True, num_labels=1)

    in_adapter = set()
    if base is not None:
        in_adapter = {name for name, _, _ in safetensors_read(folder / ADAPTER)}

    # Weights that no file holds were initialised at random.
    for name in sorted(loading["missing_keys"]):
        if f"base_model.model.{name}" not in in_adapter:
            raise TrainError(
                "no_reward_model",
                f"This is no reward model: its files lack {name}, with which it would score.",
                "Choose a train of the method Reward model.",
            )

    return model if base is None else PeftModel.from_pretrained(model, folder)
