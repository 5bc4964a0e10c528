"""Finding and loading a pipeline, and what is reported if there is none."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from openllama_cli.annotation.documents import KINDS, parse_kinds
from openllama_cli.annotation.pipeline import Choice, find_pipeline, open_pipeline
from openllama_cli.errors import OlcError, UsageError
from tests.support.pipelines import trained

__all__ = ["trained"]


def test_kinds_come_once_and_in_order_and_unknown_ones_are_usage_errors() -> None:
    assert parse_kinds("vectors, pos,pos", flag="--only") == ("pos", "vectors")
    assert parse_kinds(",".join(KINDS), flag="--only") == KINDS

    for text in ("", "pos,", "Pos", "entitys", "all"):
        with pytest.raises(UsageError, match="--only") as raised:
            parse_kinds(text, flag="--only")
        assert "entities" in raised.value.remedy


def test_a_folder_is_found_as_given_and_inside_a_package_and_no_name_is_a_blank_pipeline(trained: Path) -> None:
    assert find_pipeline(str(trained)) == find_pipeline(str(trained.parent)) == Choice(trained)
    assert find_pipeline(None) == Choice(language="en")
    assert find_pipeline(None, "hi") == Choice(language="hi")


def test_languages_that_spacy_does_not_have_are_usage_errors() -> None:
    for language in ("qq", "", "../en", "EN", "english", "lex_attrs"):
        with pytest.raises(UsageError, match="--lang"):
            find_pipeline(None, language)
    with pytest.raises(UsageError, match="both choose a pipeline"):
        find_pipeline("en_core_web_sm", "en")


@pytest.mark.parametrize(
    ("name", "cause", "remedy"),
    [
        ("en_core_web_md", "no spaCy pipeline of that name", "python -m spacy download en_core_web_md"),
        ("de_core_news_lg", "no spaCy pipeline of that name", "python -m spacy download de_core_news_lg"),
        ("my_pipeline", "no spaCy pipeline of that name", "the folder of one"),
        ("numpy", "not a spaCy pipeline", "python -m spacy download"),
        ("./not_there", "the folder ./not_there", "the folder of one"),
        ("/no/such/place", "the folder /no/such/place", "the folder of one"),
        ("", "no spaCy pipeline", "the folder of one"),
        ("os.path", "no spaCy pipeline", "the folder of one"),
    ],
)
def test_what_is_not_there_is_named_with_what_to_type(name: str, cause: str, remedy: str) -> None:
    with pytest.raises(OlcError) as raised:
        find_pipeline(name)
    assert cause in raised.value.cause
    assert remedy in raised.value.remedy
    assert raised.value.code == "pipeline_missing"


def test_a_folder_without_a_pipeline_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OlcError, match=r"config\.cfg"):
        find_pipeline(str(tmp_path))
    (tmp_path / "en_core_web_sm.whl").write_bytes(b"PK")
    with pytest.raises(OlcError, match="is a file"):
        find_pipeline(str(tmp_path / "en_core_web_sm.whl"))


@pytest.mark.parametrize("damage", ["config", "meta", "weights", "factory"])
def test_a_damaged_pipeline_is_an_expected_error(trained: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(trained, folder)
    if damage == "config":
        (folder / "config.cfg").write_text("[nlp]\nlang = ")
    elif damage == "meta":
        (folder / "meta.json").write_text("{}")
    elif damage == "weights":
        file = folder / "ner" / "model"
        file.write_bytes(file.read_bytes()[:1000])
    else:
        config = folder / "config.cfg"
        config.write_text(config.read_text().replace('factory = "ner"', 'factory = "no_such_factory"'))
    with pytest.raises(OlcError) as raised:
        open_pipeline(find_pipeline(str(folder)))
    assert str(folder) in raised.value.cause
    assert "\n" not in raised.value.cause
    assert raised.value.code == "pipeline"


# -- other Python environments --------------------------------------------------------------------------------------


def install(trained: Path, site: Path) -> None:
    """Install the pipeline as `spacy package` and pip would."""
    package = site / "en_tiny_test"
    shutil.copytree(trained, package / "en_tiny_test-1.2.3")
    shutil.copy(trained / "meta.json", package)
    (package / "__init__.py").write_text(
        "from spacy.util import load_model_from_init_py\n\n\n"
        "def load(**overrides):\n    return load_model_from_init_py(__file__, **overrides)\n"
    )
    info = site / "en_tiny_test-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: en_tiny_test\nVersion: 1.2.3\n")
    (info / "entry_points.txt").write_text("[spacy_models]\nen_tiny_test = en_tiny_test\n")


def test_an_installed_pipeline_is_found_by_its_name_and_by_its_language(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(trained, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    by_language = find_pipeline(None, "en")
    assert by_language.source == "en_tiny_test"
    assert find_pipeline("en_tiny_test") == Choice("en_tiny_test")
    assert find_pipeline(None, "de").source is None
    pipeline = open_pipeline(by_language)
    assert (pipeline.name, pipeline.trained, pipeline.notes) == ("en_tiny_test 1.2.3", True, [])
    assert pipeline.folder == tmp_path / "en_tiny_test" / "en_tiny_test-1.2.3"
    with pytest.raises(OlcError) as raised:
        find_pipeline("no_such_thing")
    assert "en_tiny_test" in raised.value.remedy


WITHOUT_SPACY = """
import sys
sys.modules["spacy"] = None
from openllama_cli.cli import main
main()
"""


@pytest.mark.parametrize(
    "arguments", [["annotate", "x", "--pipeline", "en_core_web_sm"], ["complete", "x", "-n", "1", "--annotate"]], ids=" ".join
)
def test_without_spacy_two_lines_name_the_extra_that_installs_it(arguments: list[str]) -> None:
    project = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text())["project"]
    (requirement,) = project["optional-dependencies"]["spacy"]
    command = [sys.executable, "-c", WITHOUT_SPACY, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert run.returncode == 1
    assert run.stdout == ""
    lines = [line for line in run.stderr.splitlines() if not line.startswith("olc: no model chosen")]
    assert lines == [
        "error: spaCy is not installed in this Python environment",
        f'  fix: pip install "{requirement}" (the extra openllama-cli[spacy])',
    ]


def test_a_tokenizer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sudachipy", None)
    with pytest.raises(OlcError) as raised:
        open_pipeline(Choice(language="ja"))
    assert raised.value.cause == "spaCy's Japanese tokenizer needs a package that is not installed"
    assert raised.value.remedy == 'pip install "spacy[ja]"'


def test_without_tables_there_are_no_lemmas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy_lookups_data", None)
    pipeline = open_pipeline(Choice())
    assert pipeline.nlp.pipe_names == ["sentencizer"]
    assert "finds tokens and sentences." in pipeline.notes[0]
