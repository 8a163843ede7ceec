"""Whatever is sent, within OpenAPI's description or outside of it, is answered as the description says."""

from __future__ import annotations

import logging

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance


@pytest.mark.parametrize(
    ("mode", "methods", "examples"),
    [
        (GenerationMode.POSITIVE, ["GET", "POST"], 15),
        (GenerationMode.NEGATIVE, ["GET", "POST"], 15),
        pytest.param(GenerationMode.POSITIVE, ["GET", "POST"], 150, marks=pytest.mark.slow),
        pytest.param(GenerationMode.NEGATIVE, ["POST"], 1000, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_the_description_holds(serve, http, grey, caplog, monkeypatch, mode, methods, examples):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    address = serve().address
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json").include(method=methods)

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=schema.as_strategy(generation_mode=mode))
    def check(case):
        # Random bytes and handles fit the description, and are no images; in a form, null is a text.
        forms = [negative_data_rejection] if case.media_type == "multipart/form-data" else []
        case.call_and_validate(excluded_checks=[positive_data_acceptance, *forms])

    check()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    answer = http.post(f"{address}/v1/segment", files={"image": grey(200)}, data={"expression": "level"}).json()
    # At the edges of the image the scores are interpolated.
    assert answer["predictions"][0]["confidence"] == pytest.approx(205 / 255, abs=0.01)
