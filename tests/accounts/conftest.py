import pytest


@pytest.fixture(autouse=True)
def plain_memory_of_proxies(monkeypatch):
    """Each test sees the warning about an undeclared proxy anew."""
    monkeypatch.setattr("core.addresses._warned_of_proxy", False)
