"""What a licence asks for is told by its id and by its text, and free licences are left in peace."""

import pytest

from engine.models.licences import licence_notes

ASKS = {
    "apache-2.0": [],
    "mit": [],
    "cc-by-4.0": [],
    "cc-by-nc-4.0": ["commercial"],
    "cc-by-nc-nd-4.0": ["derivatives", "commercial"],
    "cc-by-sa-4.0": ["same licence"],
    "agpl-3.0": ["same licence"],
    "lgpl": ["same licence"],
    "llama2": ["Llama 2 licence"],
    "llama3.2": ["Built with Llama"],
    "llama-3.1-community-license-agreement": ["Built with Llama"],
    "llama4": ["Built with Llama"],
    "gemma": ["Gemma terms"],
    "qwen-research": ["commercial"],
    "bigscience-openrail-m": ["restrictions"],
    "fair-noncommercial-research-license": ["commercial"],
    f"META LLAMA 3 COMMUNITY LICENSE AGREEMENT {'research ' * 20}": ["Built with"],
    f"Creative Commons Attribution-NonCommercial-NoDerivatives 4.0 {'works ' * 20}": [
        "derivatives",
        "commercial",
    ],
    # The GPL allows one thing for noncommercial distribution, and the rest for every other.
    f"GNU GENERAL PUBLIC LICENSE, allowed for noncommercial distribution {'free ' * 20}": [
        "same licence"
    ],
    f"MIT License. Permission is hereby granted {'S.A., N.C. and research ' * 8}": [],
    "": ["No licence is named"],
    "other": ["No licence is named"],
}


@pytest.mark.parametrize("licence", ASKS, ids=lambda text: text[:20] or "none")
def test_what_a_licence_asks_for(licence):
    notes = licence_notes(licence, commercial=True)
    assert len(notes) == len(ASKS[licence])
    assert all(words in note for words, note in zip(ASKS[licence], notes, strict=True))


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "qwen-research"])
def test_non_commercial_licences_matter_to_commercial_use_alone(licence):
    assert licence_notes(licence, commercial=False) == []
