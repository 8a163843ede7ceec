"""Charts: lines and names lie inside the image."""

from xml.etree import ElementTree

import pytest

from refseg.report.charts import learning_curves


def test_names_of_learning_curves_fit_beside_the_lines():
    """Rows may have fewer validations than others: a last stage begins later."""
    series = {"cris": [[(1, 0.5), (4, 0.75)], [(1, 0.25), (4, 0.5)]], "risclip-from-clip": [[(3, 0.5), (4, 0.625)]]}
    chart = ElementTree.fromstring(learning_curves(series))
    names = [mark for mark in chart.iter("text") if mark.text in series]
    assert {mark.text for mark in names} == set(series)
    assert all(float(mark.get("x")) + 7 * len(mark.text) < 440 for mark in names)
    first, second = (line.get("points").split() for line in chart.iter("polyline"))
    assert second[-1].split(",")[0] == first[-1].split(",")[0]
    start, end = (float(point.split(",")[0]) for point in first)
    assert float(second[0].split(",")[0]) == pytest.approx(start + (end - start) * 2 / 3, abs=0.1)
