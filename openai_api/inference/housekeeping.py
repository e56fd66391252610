"""What `manage.py watch` does every few seconds about asking models."""

from __future__ import annotations

from openai_api.inference.batch_ends import batch_folders_prune, batches_settle
from openai_api.inference.calls import calls_prune
from openai_api.inference.responses import responses_prune


def inference_prune() -> None:
    """Forget calls older than an hour, responses that have expired, and leftovers of batches; end
    batches whose jobs have ended."""
    calls_prune()
    responses_prune()
    batches_settle()
    batch_folders_prune()
