"""What both forms of the fuzz test share: the checks, and ids of things that are there.

Made-up ids find nothing, so that half of all calls would end at a 404.
"""

from __future__ import annotations

import random
from typing import Any

from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
]


def name_what_is_there(schema: Any, there: dict[str, list[Any]], seed: int = 0) -> None:
    """Put ids and slugs that exist into two of three paths. `there`: by the first word of the
    path."""
    draw = random.Random(seed)

    @schema.hook("map_path_parameters")
    def existing(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if not path_parameters or draw.random() < 1 / 3:
            return path_parameters
        kind = context.operation.path.removeprefix("/api/v1/").partition("/")[0]
        known = there.get(kind)
        if known:
            for name in ("id", "pk", "key"):
                if name in path_parameters:
                    path_parameters[name] = draw.choice(known)
        return path_parameters
