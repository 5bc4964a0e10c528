"""The short names, and the published numbers behind them."""

import pytest

from openllama_cli.models.catalogue import CATALOGUE, by_repo_id, suggest


def test_catalogue_has_the_five_openllama_models_and_the_demo() -> None:
    assert {alias: entry.repo_id for alias, entry in CATALOGUE.items()} == {
        "demo": None,
        "3b": "openlm-research/open_llama_3b",
        "7b": "openlm-research/open_llama_7b",
        "13b": "openlm-research/open_llama_13b",
        "3b-v2": "openlm-research/open_llama_3b_v2",
        "7b-v2": "openlm-research/open_llama_7b_v2",
    }


@pytest.mark.parametrize(
    ("alias", "parameters"),
    [("3b", 3_426_473_600), ("3b-v2", 3_426_473_600), ("7b", 6_738_415_616), ("7b-v2", 6_738_415_616), ("13b", 13_015_864_320)],
)
def test_parameter_counts_are_the_published_ones(alias: str, parameters: int) -> None:
    entry = CATALOGUE[alias]
    assert entry.parameters == parameters
    assert entry.download_bytes == pytest.approx(2 * parameters, rel=0.001)


def test_entries_are_found_by_hub_id() -> None:
    assert by_repo_id("openlm-research/open_llama_7b_v2") is CATALOGUE["7b-v2"]
    assert by_repo_id("org/other") is None


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("3B", "3b"),
        ("7bv2", "7b-v2"),
        ("3b_v2", "3b-v2"),
        ("open_llama_13b", "13b"),
        ("openllama-7b-v2", "7b-v2"),
        ("openlm-research/open-llama-3b", "3b"),
        ("deno", "demo"),
        ("gpt2", None),
        ("mistralai/Mixtral-8x7B", None),
    ],
)
def test_near_misses_are_suggested_and_others_not(name: str, alias: str | None) -> None:
    assert suggest(name) == alias
