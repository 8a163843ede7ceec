"""Whatever is sent, within OpenAPI's description or outside of it, is answered as the description says."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance


@pytest.mark.parametrize("examples", [15, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_description_holds(serve, monkeypatch, mode, examples):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    schema = schemathesis.openapi.from_url(f"{serve().address}/openapi.json")

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=schema.as_strategy(generation_mode=mode))
    def check(case):
        # Random bytes and handles fit the description, and are no images.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()
