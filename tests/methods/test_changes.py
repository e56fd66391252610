"""What operators may choose for a method, in the admin and by the services."""

import pytest

from core.errors import UserError
from methods.changes import method_restore, method_retire, method_save
from methods.models import TrainingMethod
from methods.overrides import overrides_check
from methods.services import method_defaults, methods_install, parameters_validate


def problems(overrides: object) -> str:
    with pytest.raises(UserError) as caught:
        overrides_check("sft", overrides)
    return " ".join(caught.value.fields["overrides"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "object"),
        ({"learning_rate": 1e-4}, "object"),
        ({"learning_rat": {"default": 1}}, "Did you mean learning_rate?"),
        ({"learning_rate": {"defalt": 1}}, "Did you mean default?"),
        ({"more": {"default": {}}}, "no such field"),
        ({"learning_rate": {"default": 0}}, "above 0"),
        ({"learning_rate": {"default": "x"}}, "must be a number"),
        ({"learning_rate": {"maximum": 2}}, "may only narrow"),
        ({"batch_size": {"minimum": 0}}, "may only narrow"),
        ({"batch_size": {"minimum": True}}, "must be a number"),
        (
            {"batch_size": {"minimum": 8, "maximum": 4, "default": 8}},
            "minimum is above the maximum",
        ),
        ({"batch_size": {"minimum": 8}}, "Give it a default"),
        ({"packing": {"maximum": 1}}, "numbers only"),
        ({"scheduler": {"default": "sine"}}, "must be one of"),
        ({"packing": {"hidden": "yes"}}, "hidden must be true or false"),
        ({"seed": {"fixed": 1, "default": 2}}, "exclude each other"),
        ({"epochs": {"fixed": 3}, "max_steps": {"fixed": 5}}, "not both"),
        ({"batch_size": {"default_on_cpu": 0}}, "at least 1"),
        ({"quantization": {"default": "4-bit"}}, "needs a GPU"),
    ],
)
def test_it_says_what_is_wrong_with_overrides(overrides, words):
    assert words in problems(overrides)


def test_good_overrides_narrow_and_choose(lora):
    overrides = {
        "batch_size": {"maximum": 8, "default": 4, "default_on_cpu": 2},
        "seed": {"fixed": 7, "hidden": True},
    }
    method_save(lora, overrides=overrides)
    assert (
        method_defaults(lora)["batch_size"],
        method_defaults(lora, device="cuda")["batch_size"],
    ) == (2, 4)
    assert parameters_validate(lora, {})["seed"] == 7
    with pytest.raises(UserError, match="at most 8"):
        parameters_validate(lora, {"batch_size": 16})


def test_the_version_goes_up_with_what_trains_get(lora):
    method_save(lora, description="Other words", order=3)
    assert lora.version == 1
    method_save(lora, overrides=lora.overrides | {"seed": {"default": 7}})
    assert lora.version == 2
    method_save(lora, overrides=dict(lora.overrides))
    assert lora.version == 2


def test_set_up_leaves_what_operators_edited(lora):
    method_save(lora, name="Our LoRA")
    methods_install()
    assert TrainingMethod.objects.get(slug="lora").name == "Our LoRA"
    assert TrainingMethod.objects.count() == 7


def test_a_retired_method_is_not_offered(lora):
    method_retire(lora)
    assert not TrainingMethod.objects.offered().filter(slug="lora").exists()
    method_restore(lora)
    assert TrainingMethod.objects.offered().filter(slug="lora").exists()


FORM = {
    "name": "LoRA",
    "slug": "lora",
    "tagline": "t",
    "description": "d",
    "needs": "n",
    "example": "{}",
    "cost": "c",
    "example_rows": "[]",
    "recipe": "sft",
    "order": "10",
}


def test_an_operator_changes_defaults_in_the_admin(client, olga, lora):
    client.force_login(olga)
    page = f"/admin/methods/trainingmethod/{lora.pk}/change/"
    assert client.get(page).status_code == 200
    answer = client.post(
        page, FORM | {"overrides": '{"adapter": {"fixed": "lora"}, "seed": {"default": 5}}'}
    )
    assert answer.status_code == 302
    lora.refresh_from_db()
    assert (lora.version, method_defaults(lora)["seed"]) == (2, 5)


def test_the_admin_refuses_bad_overrides_beside_the_field(client, olga, lora):
    client.force_login(olga)
    answer = client.post(
        f"/admin/methods/trainingmethod/{lora.pk}/change/",
        FORM | {"overrides": '{"seed": {"default": -1}}'},
    )
    assert answer.status_code == 200
    assert "at least 0" in " ".join(answer.context["adminform"].form.errors["overrides"])
    lora.refresh_from_db()
    assert lora.version == 1


def test_an_operator_adds_a_method_of_his_own(client, olga, lora):
    client.force_login(olga)
    values = FORM | {
        "slug": "lora-64",
        "name": "LoRA 64",
        "overrides": '{"lora_rank": {"default": 64}}',
    }
    assert client.post("/admin/methods/trainingmethod/add/", values).status_code == 302
    made = TrainingMethod.objects.get(slug="lora-64")
    assert (made.version, method_defaults(made)["lora_rank"]) == (1, 64)


def test_methods_are_retired_by_an_action(client, olga, lora):
    client.force_login(olga)
    page = "/admin/methods/trainingmethod/"
    client.post(page, {"action": "retire", "_selected_action": [lora.pk]})
    lora.refresh_from_db()
    assert lora.retired_at is not None
    client.post(page, {"action": "restore", "_selected_action": [lora.pk]})
    lora.refresh_from_db()
    assert lora.retired_at is None


@pytest.mark.parametrize("recipe", ["grpo", "ppo"])
def test_a_method_that_learns_from_rewards_can_be_narrowed_too(recipe):
    """Its trains choose the rewards; the check took their absence for a mistake of the method."""
    overrides_check(recipe, {"learning_rate": {"maximum": 1e-4}})
    with pytest.raises(UserError, match="may only narrow"):
        overrides_check(recipe, {"learning_rate": {"maximum": 5}})
