import pytest

from methods.models import TrainingMethod
from methods.services import methods_install


@pytest.fixture
def lora(db) -> TrainingMethod:
    methods_install()
    return TrainingMethod.objects.get(slug="lora")


@pytest.fixture
def sft(db) -> TrainingMethod:
    methods_install()
    return TrainingMethod.objects.get(slug="sft")
