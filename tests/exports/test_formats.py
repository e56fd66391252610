"""What is offered is what the engine can make."""

import pytest

from engine.exporting.formats import FORMATS
from engine.exporting.quantization import QUANTIZATIONS as MADE
from engine.proof.exported import PROVERS
from exports.formats import OF_ADAPTERS, QUANTIZATIONS, QUANTIZED, size_estimate
from exports.models import CONTENTS, Export


def test_every_format_is_made_and_compared():
    written = set(Export.Format.values) - {"hub"}
    assert written == set(FORMATS) == set(PROVERS)
    assert set(CONTENTS) <= written
    assert {name for name, made in FORMATS.items() if made.needs_adapter} == set(OF_ADAPTERS)
    assert {name for name, made in FORMATS.items() if made.is_quantized} == set(QUANTIZED)


def test_every_quantization_is_made():
    assert set(QUANTIZATIONS) == set(MADE)


@pytest.mark.parametrize("format", Export.Format.values)
def test_every_size_can_be_told_before(model, format):
    assert size_estimate(model, format, "q8_0", "safetensors") > 0
