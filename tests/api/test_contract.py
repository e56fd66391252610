"""The API against its own document, in this process: no call, however odd, ends in a server error,
answers outside the document, or is taken where the document says that it is wrong. `make fuzz`
makes many more."""

from __future__ import annotations

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given, settings
from knox.models import get_token_model
from schemathesis.specs.openapi.checks import ignored_auth

from chains.models import Chain, Stage
from playground.models import Answer, Conversation, Turn
from sweeps.models import Sweep, Trial
from tests.fuzz.calls import CHECKS, name_what_is_there
from tests.training.conftest import make_train  # noqa: F401 - a fixture

pytestmark = pytest.mark.long

EXAMPLES = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
# Who is asked for a token does not depend on what else is in the call, and this check calls twice
# more: it is made for the first calls of each operation.
CALLS_WITHOUT_A_TOKEN = 3
SIGNED_IN = [check for check in CHECKS if check is not ignored_auth]


@pytest.fixture
def api(alice, make_train, django_capture_on_commit_callbacks):  # noqa: F811
    runs = [
        make_train(status=status, attempt=1, step=3, total_steps=10)
        for status in ("running", "stopped")
    ]
    chains = [
        chain_make(run, status) for run, status in zip(runs, ("draft", "stopped"), strict=True)
    ]
    sweeps = [
        sweep_make(run, state) for run, state in zip(runs, ("running", "stopped"), strict=True)
    ]
    _, token = get_token_model().objects.create(user=alice)
    schema = schemathesis.openapi.from_wsgi(
        "/api/v1/schema/",
        WSGIHandler(),
        headers={"Authorization": f"Token {token}", "Accept": "application/vnd.oai.openapi+json"},
    )
    schema.config.update(headers={"Authorization": f"Token {token}"})
    name_what_is_there(
        schema,
        {
            "trains": [run.pk for run in runs],
            "jobs": [run.number for run in runs],
            "chains": [chain.pk for chain in chains],
            "sweeps": [sweep.pk for sweep in sweeps],
            "conversations": [conversation_make(alice).pk],
            "datasets": ["toys"],
            "models": ["tiny"],
            "methods": ["lora-test"],
        },
    )
    return schema


def chain_make(run, status: str) -> Chain:
    """A chain whose first stage is that train."""
    chain = Chain.objects.create(owner=run.owner, name="Support", status=status)
    asked = {"chain": chain, "method": run.method, "dataset": run.dataset}
    begun = {"run": run, "began_at": timezone.now()} if status == "stopped" else {}
    Stage.objects.create(position=1, base_model=run.base_model, **asked, **begun)
    Stage.objects.create(position=2, **asked)
    return chain


def sweep_make(run, status: str) -> Sweep:
    """A sweep whose first train is that one."""
    sweep = Sweep.objects.create(
        owner=run.owner,
        name="Rates",
        status=status,
        method=run.method,
        base_model=run.base_model,
        dataset=run.dataset,
        space={"learning_rate": {"values": [1e-4, 2e-4]}},
        metric="eval_loss",
        search="grid",
        budget_trains=2,
    )
    values = {"learning_rate": 1e-4}
    Trial.objects.create(sweep=sweep, number=1, values=values, run=run, began_at=timezone.now())
    return sweep


def conversation_make(owner) -> Conversation:
    """A prompt that a model has answered which is gone."""
    pane = {"id": 0, "target": "model-999", "title": "Tiny", "base_title": "", "sampling": {}}
    conversation = Conversation.objects.create(owner=owner, name="Support", panes=[pane])
    turn = Turn.objects.create(conversation=conversation, position=1, text="Reset my PIN")
    told = {"target": "model-999", "title": "Tiny", "state": "done", "text": "Open Settings"}
    Answer.objects.create(turn=turn, place=0, pane=0, **told)
    return conversation


def test_it_answers_as_its_document_says(api):
    """Made-up calls of every operation, right and wrong ones."""
    failures = []
    for operation in (result.ok() for result in api.get_all_operations()):
        failures += [f"{operation.label}: {error}" for error in errors_of(operation)]
    assert failures == []


def errors_of(operation) -> list[BaseException]:
    checks = iter([CHECKS] * CALLS_WITHOUT_A_TOKEN)

    @EXAMPLES
    @given(case=operation.as_strategy())
    def call(case):
        case.call_and_validate(checks=next(checks, SIGNED_IN))

    try:
        call()
    except (Exception, BaseExceptionGroup) as error:
        return [error]
    return []


def test_the_document_names_every_operation_of_the_issue(api):
    paths = {path.removeprefix("/api/v1/") for path in api.raw_schema["paths"]}
    wanted = {
        "auth/token/",
        "datasets/",
        "datasets/{key}/",
        "datasets/{key}/rows/",
        "datasets/{key}/problems/",
        "models/",
        "models/{key}/",
        "methods/",
        "methods/{key}/",
        "trains/",
        "trains/plan/",
        "trains/compare/",
        "trains/{id}/",
        "trains/{id}/metrics/",
        "trains/{id}/log/",
        "trains/{id}/samples/",
        "trains/{id}/checkpoints/",
        "trains/{id}/stop/",
        "trains/{id}/copy/",
        "trains/{id}/model/",
        "chains/",
        "chains/{id}/",
        "chains/{id}/cancel/",
        "chains/{id}/go-on/",
        "chains/{id}/copy/",
        "sweeps/",
        "sweeps/plan/",
        "sweeps/{id}/",
        "sweeps/{id}/pause/",
        "sweeps/{id}/stop/",
        "sweeps/{id}/continue/",
    }
    assert wanted <= paths
