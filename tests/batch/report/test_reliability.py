"""The reliability diagram: an SVG that loads nothing, with a bar where a bin has rows."""

import xml.etree.ElementTree as ElementTree

from openllama_cli.batch.report.measures import Report
from openllama_cli.batch.report.reliability import svg
from openllama_cli.batch.report.rows import Outcome

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_stand_where_rows_are_and_as_high_as_they_were_right() -> None:
    outcomes = [Outcome("a" if place % 4 else "b", "a", {"a": 0.55, "b": 0.45}) for place in range(8)]
    outcomes += [Outcome("a", "a", {"a": 1.0, "b": 0.0})]
    document = Report.of(outcomes).document()["calibration"]
    picture = svg(document, title="a <b> & c")
    root = ElementTree.fromstring(picture)
    assert root.findtext(f"{SVG}title") == "a <b> & c"
    bars = root.findall(f"{SVG}g")
    assert [bar.findtext(f"{SVG}title") for bar in bars] == [
        "0.5 to 0.6: 8 rows, confidence 0.550, accuracy 0.750",
        "0.9 to 1: 1 row, confidence 1.000, accuracy 1.000",
    ]
    accuracy, gap, rows = bars[0].findall(f"{SVG}rect")
    assert float(accuracy.attrib["height"]) == 0.75 * 320
    assert float(gap.attrib["height"]) == round(0.2 * 320, 1)
    assert float(accuracy.attrib["y"]) == float(gap.attrib["y"]), "it was right more often than it was sure"
    assert float(rows.attrib["height"]) == 40
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")
