"""The API against its own document: no call, however odd, ends in a server error or answers outside the document."""

from __future__ import annotations

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.live import Platform


@pytest.fixture(scope="module")
def api(platform: Platform) -> schemathesis.schemas.BaseSchema:
    headers = {"Authorization": f"Token {platform.token('alice')}"}
    document = requests.get(
        f"{platform.url}/api/v1/schema/", headers=headers | {"Accept": "application/json"}, timeout=30
    )
    assert document.status_code == 200, document.text
    schema = schemathesis.openapi.from_dict(document.json())
    schema.config.update(base_url=platform.url, headers=headers)
    # Guessing passwords locks the account out, as it should.
    return schema.exclude(path="/api/v1/auth/token/")


EXAMPLES = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


def test_it_answers_as_its_document_says(api):
    """Made-up calls of every operation, right and wrong ones."""
    failures = []
    for operation in (result.ok() for result in api.get_all_operations()):

        @EXAMPLES
        @given(case=operation.as_strategy())
        def call(case):
            case.call_and_validate(checks=CHECKS, timeout=60)

        try:
            call()
        except (Exception, BaseExceptionGroup) as error:
            failures.append(f"{operation.label}: {error}")
    assert failures == []


def test_the_document_names_every_operation_of_the_issue(api):
    paths = {path.removeprefix("/api/v1/") for path in api.raw_schema["paths"]}
    wanted = {
        "auth/token/", "datasets/", "datasets/{key}/", "datasets/{key}/rows/", "datasets/{key}/problems/",
        "models/", "models/{key}/", "methods/", "methods/{key}/", "trains/", "trains/plan/", "trains/compare/",
        "trains/{id}/", "trains/{id}/metrics/", "trains/{id}/log/", "trains/{id}/samples/",
        "trains/{id}/checkpoints/", "trains/{id}/stop/", "trains/{id}/copy/", "trains/{id}/model/",
    }  # fmt: skip
    assert wanted <= paths
