"""Registering a program: by whom, with what, and what its form makes of it."""

import json
import sys

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile

from core.errors import UserError
from methods.changes import custom_save, method_delete, method_save
from methods.custom import parameters_check, schema_check
from methods.models import MethodVersion, TrainingMethod
from methods.schema import method_fields
from methods.services import method_defaults, method_formats, methods_install, parameters_validate
from tests.live import ROOT

SCHEMA = json.loads((ROOT / "docs" / "examples" / "bigram" / "method.json").read_text())[
    "parameters"
]
SCRIPT = ("../../evil.py", b"print('hello')\n")


@pytest.fixture
def root(db):
    return User.objects.create_superuser("root", password="root-password-1")


@pytest.fixture
def custom(root):
    return custom_save(
        TrainingMethod(),
        by=root,
        slug="bigram",
        name="Bigram",
        interpreter=sys.executable,
        formats=["text"],
        script=SCRIPT,
        parameters=SCHEMA,
        description="Counts.",
        needs="A text",
        example="-",
    )


def test_the_form_the_defaults_and_the_formats_come_from_the_schema(custom):
    fields = method_fields(custom)
    assert {name: field.kind for name, field in fields.items()} == {
        "passes": "int",
        "smoothing": "float",
        "seed": "int",
    }
    assert (fields["smoothing"].above, fields["smoothing"].typical, fields["seed"].advanced) == (
        0,
        (0.01, 1),
        True,
    )
    assert method_defaults(custom) == {"passes": 2, "smoothing": 0.1, "seed": 7}
    assert method_formats(custom) == ("text",)


def test_the_script_is_kept_apart_under_no_name_of_its_own(custom, settings):
    assert custom.program["script"] == "methods/bigram/1/program.py"
    assert (settings.HOME / custom.program["script"]).is_file()
    assert len(custom.program["sha256"]) == 64


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"passes": 0}, "passes", "at least 1"),
        ({"passes": 1.5}, "passes", "whole number"),
        ({"smoothing": "much"}, "smoothing", "number"),
        ({"smoothing": 0}, "smoothing", "above 0"),
        ({"pases": 1}, "pases", "Did you mean passes"),
    ],
)
def test_parameters_outside_the_schema_are_refused(custom, given, field, words):
    with pytest.raises(UserError) as refused:
        parameters_validate(custom, given)
    assert words in refused.value.fields[field][0]


def test_numbers_of_a_form_are_read(custom):
    assert parameters_validate(custom, {"passes": "3"}) == {
        "passes": 3,
        "smoothing": 0.1,
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "nonsense"}, "no JSON Schema"),
        ([1], "no JSON Schema"),
        ({"properties": {"a": {"$ref": "http://example.com/x"}}}, "no references"),
        ({"properties": {"a": {"type": "array", "default": []}}}, "type must be one of"),
        ({"properties": {"A b": {"type": "integer", "default": 1}}}, "no name of a parameter"),
        ({"properties": {"a": {"type": "integer"}}}, "give a default"),
        (
            {"properties": {"a": {"type": "integer", "default": 0, "minimum": 1}}},
            "does not fit its own rules",
        ),
        (
            {"properties": {"a": {"type": "integer", "default": 0, "widget": "x"}}},
            "does not know 'widget'",
        ),
        ({"properties": {"a": {"enum": [1], "default": 1}}}, "must be texts"),
        (
            {"properties": {"a": {"type": "integer", "default": 0, "group": "Mine"}}},
            "group must be one of",
        ),
    ],
)
def test_a_schema_that_is_none_or_cannot_be_drawn_is_refused(schema, words):
    with pytest.raises(UserError) as refused:
        schema_check(schema)
    assert words in " ".join(refused.value.fields["parameters"])


def test_choices_and_texts_are_checked():
    schema = {
        "properties": {
            "how": {"enum": ["a", "b"], "default": "a"},
            "word": {"type": "string", "default": "x", "maxLength": 3},
        }
    }
    schema_check(schema)
    assert parameters_check(schema, {"how": "b"}) == {"how": "b", "word": "x"}
    with pytest.raises(UserError, match="one of a, b"):
        parameters_check(schema, {"how": "c"})
    with pytest.raises(UserError, match="at most 3"):
        parameters_check(schema, {"word": "long"})


@pytest.fixture
def operator(db):
    """Of the staff, with every permission on methods, and no superuser."""
    user = User.objects.create_user("otto", password="otto-password-1", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="methods"))
    return user


def test_only_a_superuser_registers_programs(operator):
    with pytest.raises(UserError, match="superuser"):
        custom_save(
            TrainingMethod(),
            by=operator,
            interpreter=sys.executable,
            formats=["text"],
            script=SCRIPT,
            name="x",
        )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"interpreter": "python"}, "interpreter"),
        ({"interpreter": "/no/such"}, "interpreter"),
        ({"formats": ["x"]}, "formats"),
        ({"formats": []}, "formats"),
        ({"script": ("a.py", b"  ")}, "script"),
        ({"script": None}, "script"),
    ],
)
def test_what_cannot_be_run_is_refused(root, change, field):
    given = {"interpreter": sys.executable, "formats": ["text"], "script": SCRIPT} | change
    with pytest.raises(UserError) as refused:
        custom_save(TrainingMethod(), by=root, slug="x", name="X", parameters={}, **given)
    assert field in refused.value.fields


def test_every_version_is_kept_with_its_script(custom, root):
    first = dict(custom.program)
    custom_save(
        custom,
        by=root,
        interpreter=sys.executable,
        formats=["text"],
        script=("b.py", b"print(2)\n"),
    )
    assert custom.version == 2
    assert [version.program["sha256"] for version in custom.versions.order_by("version")] == [
        first["sha256"],
        custom.program["sha256"],
    ]
    assert custom.program["script"] != first["script"]
    method_save(custom, by=root, name="Bigrams")
    assert custom.version == 2, "words make no version"


def test_built_in_methods_have_their_first_version(db):
    methods_install()
    assert MethodVersion.objects.count() == TrainingMethod.objects.count() == 7


def test_a_method_that_was_used_stays(custom, make_used):
    make_used(custom)
    with pytest.raises(UserError, match="1 train used Bigram"):
        method_delete(custom)


def test_one_that_was_never_used_goes(custom):
    method_delete(custom)
    assert not TrainingMethod.objects.exists()


@pytest.fixture
def make_used(db):
    def make(method):
        from datasets_app.models import Dataset
        from models_app.models import BaseModel
        from training.models import TrainRun

        model = BaseModel.objects.create(
            name="T", slug="t", source="gguf", reference="t", status="ready"
        )
        data = Dataset.objects.create(
            name="D", slug="d", file_name="d", file_type="jsonl", size_bytes=1, sha256="0"
        )
        return TrainRun.objects.create(
            name="r", method=method, base_model=model, dataset=data, parameters={}
        )

    return make


class TestAdmin:
    FORM = {
        "name": "Bigram",
        "slug": "bigram",
        "description": "Counts.",
        "needs": "A text",
        "example": "-",
        "cost": "",
        "tagline": "",
        "recipe": "custom",
        "overrides": "{}",
        "order": "90",
        "example_rows": "[]",
        "interpreter": sys.executable,
        "formats": ["text"],
        "parameters": json.dumps(SCHEMA),
    }

    def post(self, client, **changes):
        script = SimpleUploadedFile("program.py", b"print(1)\n")
        return client.post(
            "/admin/methods/trainingmethod/add/", self.FORM | {"script": script} | changes
        )

    def test_a_superuser_registers_a_program(self, client, root):
        client.force_login(root)
        assert self.post(client).status_code == 302
        method = TrainingMethod.objects.get(slug="bigram")
        assert (method.recipe, method.program["formats"], method.version) == ("custom", ["text"], 1)
        page = client.get(f"/admin/methods/trainingmethod/{method.pk}/change/").content.decode()
        assert "program.py" in page
        assert client.get("/methods/").status_code == 200

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"parameters": '{"type": "x"}'}, "no JSON Schema"),
            ({"interpreter": "/none"}, "whole path"),
            ({"script": ""}, "Upload the script"),
        ],
    )
    def test_mistakes_stand_beside_their_field(self, client, root, changes, words):
        client.force_login(root)
        assert words in self.post(client, **changes).content.decode()
        assert not TrainingMethod.objects.exists()

    def test_other_operators_cannot(self, client, operator, custom):
        client.force_login(operator)
        assert self.post(client, slug="other").status_code == 200
        assert not TrainingMethod.objects.filter(slug="other").exists()
        address = f"/admin/methods/trainingmethod/{custom.pk}/change/"
        client.post(address, self.FORM | {"interpreter": "/bin/sh"})
        custom.refresh_from_db()
        assert custom.program["interpreter"] == sys.executable
        assert self.post(client, slug="plain", recipe="sft", parameters="{}").status_code == 302


class TestApi:
    BODY = {
        "slug": "mine",
        "name": "Mine",
        "recipe": "sft",
        "overrides": {"learning_rate": {"default": 1e-4}},
    }

    def test_operators_make_change_retire_and_delete(self, client, olga):
        client.force_login(olga)
        made = client.post("/api/v1/methods/", self.BODY, "application/json")
        assert made.status_code == 201, made.content
        assert made.json()["defaults"]["learning_rate"] == 1e-4
        changed = client.patch(
            "/api/v1/methods/mine/",
            {"overrides": {"lora_rank": {"maximum": 64}}},
            "application/json",
        )
        assert changed.json()["version"] == 2
        versions = client.get("/api/v1/methods/mine/versions/").json()
        assert [(row["version"], row["changed_by"]) for row in versions] == [
            (2, "olga"),
            (1, "olga"),
        ]
        assert client.post("/api/v1/methods/mine/retire/").status_code == 204
        assert client.get("/api/v1/methods/?search=mine").json()["count"] == 0
        assert client.post("/api/v1/methods/mine/restore/").status_code == 204
        assert client.delete("/api/v1/methods/mine/").status_code == 204
        assert client.get("/api/v1/methods/mine/").status_code == 404

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"slug": "a b"}, "slug"),
            ({"recipe": "custom"}, "recipe"),
            ({"overrides": {"lora_rank": {"maximum": 9999}}}, "overrides"),
            ({"overrides": {"nope": {}}}, "overrides"),
            ({"color": "red"}, "color"),
        ],
    )
    def test_bad_values_are_refused_by_field(self, client, olga, change, field):
        client.force_login(olga)
        answer = client.post("/api/v1/methods/", self.BODY | change, "application/json")
        assert answer.status_code == 400
        assert field in answer.json()["error"]["fields"]

    def test_a_slug_that_is_taken_is_refused(self, client, olga):
        client.force_login(olga)
        client.post("/api/v1/methods/", self.BODY, "application/json")
        assert (
            "slug"
            in client.post("/api/v1/methods/", self.BODY, "application/json").json()["error"][
                "fields"
            ]
        )

    def test_others_may_not(self, client, alice, custom):
        client.force_login(alice)
        assert client.post("/api/v1/methods/", self.BODY, "application/json").status_code == 403
        assert (
            client.patch("/api/v1/methods/bigram/", {"name": "x"}, "application/json").status_code
            == 403
        )
        for action in ("retire", "restore"):
            assert client.post(f"/api/v1/methods/bigram/{action}/").status_code == 403
        assert client.delete("/api/v1/methods/bigram/").status_code == 403
