import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
sys.path.append(str(_TESTS / "evaluation"))  # toy_traces
sys.path.append(str(_TESTS.parent / "tools"))  # plant_bad_edits


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    from scripted_api import SECRET

    monkeypatch.setenv("TEST_KEY", SECRET)


@pytest.fixture(params=["openai", "anthropic"])
def kind(request):
    return request.param
