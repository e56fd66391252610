"""The base models' tokenizers, for those who count tokens."""

from __future__ import annotations

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from core.tokenizers import Tokenizer
from models_app.models import BaseModel


def tokenizers_of_models(user: AbstractBaseUser | AnonymousUser) -> list[Tokenizer]:
    """Those that are shared with everyone first, the oldest before the newest."""
    rows = BaseModel.objects.visible_to(user).offered().exclude(tokenizer_sha256="")
    return [
        Tokenizer(
            slug=model.slug, name=model.title, sha256=model.tokenizer_sha256, path=str(model.path)
        )
        for model in rows.order_by("-shared", "id")
    ]
