"""Names on the Hugging Face hub, and the surroundings of the programs that download from it
(engine.programs.hub)."""

from __future__ import annotations

import re
from pathlib import Path

from core.errors import UserError
from core.processes import proxy_environment

# What the hub takes for a name: no path, no URL, no scheme. The branch is where it keeps datasets
# made from scripts.
_PART = r"[A-Za-z0-9_](?:[.-]?[A-Za-z0-9_])*"
_REFERENCE = re.compile(rf"{_PART}/{_PART}(?:@(?:{_PART}|refs/convert/parquet))?", re.ASCII)
_ADDRESS = re.compile(r"https://(?:huggingface\.co|hf\.co)/(?:datasets/)?")
_LONGEST = 200


def reference_clean(text: str, kind: str, example: str) -> str:
    """org/name[@revision] out of what somebody typed or copied. Raises UserError {"reference":
    …}."""
    reference = _ADDRESS.sub("", text.strip()).rstrip("/")
    if len(reference) > _LONGEST or not _REFERENCE.fullmatch(reference):
        raise UserError(
            {
                "reference": [
                    f"Write the {kind}'s name as on Hugging Face, such as {example} or "
                    f"{example}@main."
                ]
            }
        )

    return reference


def hub_environment(home: Path, token: str) -> dict[str, str]:
    """For a program that downloads. A home of its own: no token and no cache that a person of this
    machine left.

    `token`: that of the person whom the download is for, see accounts.services.hub_token_for; ""
    for none."""
    environment = proxy_environment() | {
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    return environment | ({"HF_TOKEN": token} if token else {})
