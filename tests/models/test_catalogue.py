"""The short names, and the published numbers behind them."""

import pytest

from openllama_cli.models.catalogue import CATALOGUE, by_repo_id, suggest


def test_catalogue_has_the_demo_and_the_five_openllama_models_with_their_published_numbers() -> None:
    found = {alias: (entry.repo_id, entry.parameters) for alias, entry in CATALOGUE.items()}
    assert found == {
        "demo": (None, None),
        "3b": ("openlm-research/open_llama_3b", 3_426_473_600),
        "7b": ("openlm-research/open_llama_7b", 6_738_415_616),
        "13b": ("openlm-research/open_llama_13b", 13_015_864_320),
        "3b-v2": ("openlm-research/open_llama_3b_v2", 3_426_473_600),
        "7b-v2": ("openlm-research/open_llama_7b_v2", 6_738_415_616),
    }
    assert all(entry.download_bytes == pytest.approx(2 * (entry.parameters or 0), rel=0.001) for entry in CATALOGUE.values())
    assert by_repo_id("openlm-research/open_llama_7b_v2") is CATALOGUE["7b-v2"]
    assert by_repo_id("org/other") is None


def test_near_misses_are_suggested_and_others_not() -> None:
    near = {
        "3B": "3b",
        "7bv2": "7b-v2",
        "3b_v2": "3b-v2",
        "open_llama_13b": "13b",
        "openllama-7b-v2": "7b-v2",
        "openlm-research/open-llama-3b": "3b",
        "deno": "demo",
        "gpt2": None,
        "mistralai/Mixtral-8x7B": None,
    }
    assert {name: suggest(name) for name in near} == near
