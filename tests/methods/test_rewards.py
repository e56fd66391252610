"""Reward functions of one's own: who may register them, what is refused, and what a train gets."""

import json

import pytest
from django.contrib.auth.models import Permission
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import QueryDict
from rest_framework.test import APIClient

from core.errors import UserError
from engine.rewards.base import Answer
from engine.rewards.panel import Panel
from engine.rewards.parameters import RewardChoice
from methods.models import RewardFunction, TrainingMethod
from methods.rewards import reward_function_retire, reward_function_save
from methods.schema import rewards_text
from methods.services import methods_install, parameters_validate
from tests.live import ROOT
from training.form.controls import reward_templates, rewards_read
from training.train.reward_resources import resources_of

SOURCE = (ROOT / "docs" / "examples" / "polite.py").read_bytes()
SCHEMA = {
    "type": "object",
    "properties": {"enough": {"type": "integer", "title": "Enough", "default": 2, "minimum": 1}},
}
CHOICE = {"function": "custom:polite", "weight": 2.0, "parameters": {}}


@pytest.fixture
def polite(olga) -> RewardFunction:
    return reward_function_save(
        RewardFunction(),
        by=olga,
        name="Polite",
        slug="polite",
        description="Kind words.",
        source=SOURCE,
        parameters=SCHEMA,
    )


@pytest.fixture
def grpo(db) -> TrainingMethod:
    methods_install()
    return TrainingMethod.objects.get(slug="grpo")


def test_a_train_scores_with_the_file_and_all_of_its_parameters(polite, grpo, alice):
    resolved = parameters_validate(grpo, {"rewards": [CHOICE], "max_steps": 1})
    assert resolved["rewards"] == [CHOICE | {"parameters": {"enough": 2}}]
    resources = resources_of(resolved, alice)

    panel = Panel.of(
        [RewardChoice.model_validate(choice) for choice in resolved["rewards"]], resources
    )
    answers = [
        Answer(prompt=[], text=text, reference="", row={})
        for text in ("Please, and thank you", "Sorry", "No")
    ]

    assert panel.score(answers).totals == [2.0, 1.0, 0.0]


def test_a_new_file_leaves_the_old_one_to_trains_that_name_it(polite, olga, alice):
    before = resources_of({"rewards": [CHOICE]}, alice)
    other = (
        b"def reward(prompts, completions, references, rows, **parameters):\n    return [7.0] "
        b"* len(rows)\n"
    )
    reward_function_save(polite, by=olga, name="Polite", source=other)
    after = resources_of({"rewards": [CHOICE]}, alice)

    panels = [
        Panel.of([RewardChoice(function="custom:polite")], found) for found in (before, after)
    ]
    assert [panel.score([Answer([], "please", "", {})]).totals for panel in panels] == [
        [0.5],
        [7.0],
    ]
    assert before["reward_function:polite"].sha256 != after["reward_function:polite"].sha256


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"slug": "regex"}, "slug", "comes with the platform"),
        ({"slug": "Not A Slug"}, "slug", "Small letters"),
        ({"name": " "}, "name", "Give it a name"),
        ({"source": None}, "source", "Upload the file"),
        ({"source": b"\xff"}, "source", "not UTF-8"),
        ({"source": b"def rewards(): pass"}, "source", "no function named reward"),
        ({"source": b"def reward(prompts, rows, **p): pass"}, "source", "in this order"),
        ({"source": b"def reward(:"}, "source", "no Python, line 1"),
        (
            {"parameters": {"properties": {"x": {"type": "integer"}}}},
            "parameters",
            "give a default",
        ),
        ({"parameters": {"type": 7}}, "parameters", "no JSON Schema"),
    ],
)
def test_what_cannot_be_registered(olga, given, field, words):
    values = {"name": "Polite", "slug": "polite", "source": SOURCE, "parameters": SCHEMA} | given
    with pytest.raises(UserError) as refused:
        reward_function_save(RewardFunction(), by=olga, **values)
    assert words in " ".join(refused.value.fields[field])
    assert not RewardFunction.objects.exists()


def test_only_a_superuser_registers(alice, client, polite):
    with pytest.raises(UserError):
        reward_function_save(RewardFunction(), by=alice, name="Mine", slug="mine", source=SOURCE)
    alice.is_staff = True
    alice.save()
    alice.user_permissions.set(Permission.objects.filter(content_type__app_label="methods"))
    client.force_login(alice)
    assert client.get("/admin/methods/rewardfunction/add/").status_code == 403
    assert (
        client.post(
            f"/admin/methods/rewardfunction/{polite.pk}/change/", {"name": "Rude"}
        ).status_code
        == 403
    )
    assert (
        "Kind words."
        in client.get(f"/admin/methods/rewardfunction/{polite.pk}/change/").content.decode()
    )


def test_the_administration_registers_changes_and_retires(client, olga):
    client.force_login(olga)
    body = {
        "name": "Polite",
        "slug": "polite",
        "description": "Kind words.",
        "parameters": json.dumps(SCHEMA),
    }
    refused = client.post(
        "/admin/methods/rewardfunction/add/",
        body | {"source": SimpleUploadedFile("a.py", b"x = 1")},
    )
    assert "no function named reward" in refused.content.decode()
    client.post(
        "/admin/methods/rewardfunction/add/", body | {"source": SimpleUploadedFile("a.py", SOURCE)}
    )
    function = RewardFunction.objects.get()
    assert (function.slug, function.registered_by, function.parameters) == ("polite", olga, SCHEMA)
    page = f"/admin/methods/rewardfunction/{function.pk}/change/"
    assert "you are welcome" in client.get(page).content.decode()

    client.post(page, body | {"name": "Courteous"})
    kept, function = function.sha256, RewardFunction.objects.get()
    assert (function.name, function.sha256) == ("Courteous", kept)

    client.post(
        "/admin/methods/rewardfunction/", {"action": "retire", "_selected_action": [function.pk]}
    )
    assert RewardFunction.objects.get().retired_at is not None


def test_what_a_train_is_refused(polite, grpo):
    def refusal(choice) -> str:
        with pytest.raises(UserError) as refused:
            parameters_validate(grpo, {"rewards": [choice], "max_steps": 1})
        return refused.value.fields["rewards"][0]

    assert (
        refusal(CHOICE | {"function": "custom:rude"})
        == "Reward 1: there is no function 'custom:rude' here."
    )
    assert (
        refusal(CHOICE | {"parameters": {"enough": 0}})
        == "Polite: Enough must be at least 1; 0 is not."
    )
    assert refusal(CHOICE | {"parameters": {"many": 1}}) == "Polite: Unknown parameter 'many'."
    reward_function_retire(polite)
    assert refusal(CHOICE) == "Polite is no longer offered as a reward."


def test_the_form_and_the_api_offer_it(polite, grpo, alice):
    row = reward_templates()[-1]
    assert (row.function, row.title, row.help) == ("custom:polite", "Polite", "Kind words.")
    assert [(field.title, value) for field, value in row.fields] == [("Enough", "2")]
    typed = QueryDict("r-key=0&r-0-function=custom:polite&r-0-weight=0.5&r-0-p-enough=3")
    read = rewards_read("r", typed)
    assert read == [{"function": "custom:polite", "weight": 0.5, "parameters": {"enough": 3}}]
    assert rewards_text(read) == "0.5 × Polite (enough 3)"

    api = APIClient()
    api.force_authenticate(alice)
    offered = api.get("/api/v1/methods/grpo/").json()["parameters_schema"]["properties"]["rewards"][
        "items"
    ]["oneOf"]
    assert offered[-1]["properties"]["function"] == {"const": "custom:polite"}
    reward_function_retire(polite)
    assert "custom:polite" not in [row.function for row in reward_templates()]
