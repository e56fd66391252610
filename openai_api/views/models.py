"""/v1/models."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import UserError
from models_app.models import BaseModel
from models_app.services import model_delete
from openai_api.errors import ApiProblem, problem_of
from openai_api.identifiers import (
    MODEL_NOT_FOUND,
    model_missing,
    models_listed,
    models_named,
    target_of,
)
from openai_api.pages import list_body
from openai_api.views.base import OpenAIView
from serving.targets import Target, target_find
from training.models import TrainRun
from training.train.services import train_delete


class ModelsView(OpenAIView):
    def get(self, request: Request) -> Response:
        return self.answer(list_body([model.body() for model in models_listed(self.reader)]))


class ModelView(OpenAIView):
    def get(self, request: Request, name: str) -> Response:
        target = target_of(name, self.reader)
        named = models_named([target]).get(target.key)
        try:
            target_find(target.key, self.reader)
        except UserError as error:
            # One that cannot answer is no model to a program.
            raise ApiProblem(
                error.message, status=404, param="model", code=MODEL_NOT_FOUND
            ) from error

        if named is None:
            raise model_missing(name, self.reader)

        return self.answer(named.body())

    def delete(self, request: Request, name: str) -> Response:
        """Delete a model that was trained here, by the rules of the pages: with a train goes all
        that it has left."""
        target = target_of(name, self.reader)
        try:
            self._delete(target)
        except UserError as error:
            raise problem_of(error) from error

        return self.answer({"id": name, "object": "model", "deleted": True})

    def _delete(self, target: Target) -> None:
        if target.kind == "train" and target.step is None:
            train_delete(run=TrainRun.objects.get(pk=target.pk), by=self.reader)
            return

        model = BaseModel.objects.get(pk=target.pk) if target.kind == "model" else None
        if model is None or not model.is_trained:
            what = "base models" if target.kind == "model" else "checkpoints and exports"
            text = f"Only trained models can be deleted here, and {what} on the pages alone."
            raise ApiProblem(text, status=403, param="model", code="forbidden")

        model_delete(model=model, by=self.reader)
