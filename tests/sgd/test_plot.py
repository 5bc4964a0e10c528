"""The picture: valid XML that refers to nothing elsewhere, with every epoch and every neuron in it."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from openllama_cli.sgd.plot import svg
from openllama_cli.sgd.training import Epoch

SVG = "{http://www.w3.org/2000/svg}"


def epochs(count: int) -> list[Epoch]:
    return [Epoch(number, 1 / number, 90 + number % 10, 100, 0.01) for number in range(1, count + 1)]


def weights(neurons: int, pixels: int = 12) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((neurons, pixels))


def test_it_holds_both_curves_and_a_picture_of_each_neuron_and_refers_to_nothing_outside() -> None:
    text = svg(epochs(7), weights(30), 3, 4, "a < b & c")
    assert not re.search(r"href|url\(|@import|@font-face|<script|<!ENTITY", text)
    assert re.findall(r"\w+://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    root = ElementTree.fromstring(text)
    assert root.findtext(f"{SVG}title") == "a < b & c"
    lines = root.findall(f"{SVG}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [7, 7]
    heights = [float(point.split(",")[1]) for point in lines[0].attrib["points"].split()]
    # Down the picture is a larger y: the cost falls.
    assert heights == sorted(heights)
    pictures = root.findall(f"{SVG}g")
    assert len(pictures) == 30
    for picture in pictures:
        drawn = "".join(path.attrib["d"] for path in picture.findall(f"{SVG}path"))
        assert len(set(re.findall(r"M(\d+ \d+)", drawn))) <= 12


def test_a_positive_weight_is_red_and_a_negative_one_blue() -> None:
    text = svg(epochs(1), np.array([[1.0, -1.0, 0.0, 0.0]]), 2, 2, "x")
    picture = ElementTree.fromstring(text).find(f"{SVG}g")
    assert picture is not None
    drawn = {path.attrib["d"]: path.attrib["fill"] for path in picture.findall(f"{SVG}path")}
    assert drawn == {"M0 0h1v1h-1z": "#b2182b", "M1 0h1v1h-1z": "#2166ac"}


def test_one_epoch_no_cost_and_no_weights_still_make_a_picture() -> None:
    ElementTree.fromstring(svg([Epoch(1, 0.0, 0, 10, 0.0)], np.zeros((2, 4)), 2, 2, "x"))
    ElementTree.fromstring(svg([Epoch(n, 1e300, 0, 10, 0.0) for n in range(1, 1001)], weights(1), 3, 4, "x"))


def test_of_very_many_neurons_the_first_hundred_are_drawn() -> None:
    root = ElementTree.fromstring(svg(epochs(2), weights(150), 3, 4, "x"))
    assert len(root.findall(f"{SVG}g")) == 100
    assert "first 100 of 150" in "".join(root.itertext())
