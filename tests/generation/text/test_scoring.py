"""A text's score by token, word and line: every character is somebody's, every token counts once, sums are sums."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.request import Scored
from openllama_cli.generation.text.scoring import Part, Score, cut, plan, prepare
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models.sentencepiece_models import VARIANTS, trained, write

TEXTS = [
    "the largest animal is the blue whale",
    "  two  spaces,\tand\n\n  a line \n",
    "\n",
    "   ",
    "hello     world  ",
    "é ½ ﬁ ② x\u00a0y ＦＵＬＬ",
    "🐋🐋 👨‍👩‍👧 e\u0301 \u200bz",
    "日本\u3000語 \u2028 सबसे",
    "a\x00b\x1b[31m <s></s> <sep>",
    "x",
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """SentencePiece with every normalizer, one with added tokens, and a byte-level one."""
    found = {name: open_tokenizer(write(tmp_path_factory.mktemp(name), trained(name))) for name in VARIANTS}
    added = {"420": {"content": "<sep>", "lstrip": True, "special": False}}
    folder = write(tmp_path_factory.mktemp("added"), trained("bpe-nmt_nfkc"), tokenizer_config={"added_tokens_decoder": added})
    (folder / "config.json").write_text('{"vocab_size": 430}')
    found["added"] = open_tokenizer(folder)
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    library = Library(models.BPE(vocab=letters | {"Ġb": 256, "¥æ": 257}, merges=[("Ġ", "b"), ("¥", "æ")]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("byte-level")
    library.save(str(folder / "tokenizer.json"))
    found["byte-level"] = open_tokenizer(folder)
    return found


def score(tokenizer: Tokenizer, text: str, context: str = "") -> Score:
    """With log-probabilities that are different sums for different tokens."""
    prepared = prepare(tokenizer, text, context, positions=10_000)
    scored = [Scored(token, -(2.0**-place), rank=1) for place, token in enumerate(prepared.tokens)]
    return Score.of(tokenizer, text, prepared, scored)


@pytest.mark.parametrize("context", ["", "Q: what ", "日"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_character_and_every_token_is_in_one_part(tokenizers: dict[str, Tokenizer], text: str, context: str) -> None:
    for name, tokenizer in tokenizers.items():
        if not text.strip() and tokenizer.encode(context + text) == tokenizer.encode(context):
            continue  # Nothing but spaces that a normalizer removes.
        found = score(tokenizer, text, context)
        for unit in ("token", "word", "line"):
            parts = found.by(unit)
            assert "".join(part.text for part in parts) == text, name
            assert [part.start for part in parts] == [len("".join(p.text for p in parts[:n])) for n in range(len(parts))]
            assert sum(part.tokens for part in parts) == len(found.tokens)
            assert math.fsum(part.logprob or 0.0 for part in parts) == found.total, "each token counts once"
        assert [part.id for part in found.by("token")] == found.tokens
        assert all(len(part.text.split()) <= 1 for part in found.by("word"))
        assert all(part.text.rstrip("\n").count("\n") == 0 for part in found.by("line"))


@given(text=st.text(alphabet=st.one_of(st.sampled_from(" \n\taé日🐋½<sep>"), st.characters(exclude_categories=["Cs"]))))
def test_any_text_is_cut_into_its_tokens(tokenizers: dict[str, Tokenizer], text: str) -> None:
    for tokenizer in tokenizers.values():
        spans = tokenizer.spans(text)
        assert len(spans) == len(tokenizer.encode(text))
        assert sorted(spans) == spans
        assert all(0 <= start <= end <= len(text) for start, end in spans)


def test_a_normalized_text_is_cut_where_its_tokens_are(tokenizers: dict[str, Tokenizer]) -> None:
    texts = [part.text for part in score(tokenizers["bpe-nmt_nfkc"], "ＦＵ  ② é").by("token")]
    assert texts == ["Ｆ", "Ｕ", "  ", "②", " ", "", "é"]
    level = score(tokenizers["byte-level"], " b日本")
    assert [part.text for part in level.by("token")] == [" b", "", "", "日", "", "本"]


def test_words_and_lines_of_a_text() -> None:
    pieces = [" The", " bl", "ue", "\n", "\n ", " whale", ".", "  ", "x y", "\n"]
    starts = [len("".join(pieces[:n])) for n in range(len(pieces))]
    found = Score([*range(10)], [-float(n) for n in range(10)], "".join(pieces), starts, [], [None] * 10)
    words = [(part.text, part.logprob, part.tokens) for part in found.by("word")]
    assert words == [
        (" The", 0.0, 1),
        (" blue", -3.0, 2),
        ("\n\n  whale.", -3.0 - 4.0 - 5.0 - 6.0, 4),
        ("  x", -7.0 - 8.0, 2),
        (" y\n", -9.0, 1),
    ]
    lines = [(part.text, part.logprob, part.tokens) for part in found.by("line")]
    # The token of two spaces stands in the line of the whale, and so does the one that begins with it.
    assert lines == [(" The blue\n", -6.0, 4), ("\n", -4.0, 1), ("  whale.  x y\n", -35.0, 5)]
    assert (found.words, found.scored, found.bytes) == (5, 10, len(found.text))


def test_totals_are_what_their_names_say() -> None:
    found = Score(
        [5, 6, 7], [None, -math.log(8), -math.log(2)], "é ab", [0, 1, 3], [None, 4, 1], [None, {" x": -0.5}, {"b": 0}]
    )
    totals = found.totals()
    assert totals == {
        "logprob": pytest.approx(-math.log(16)),
        "bits": pytest.approx(4),
        "tokens": 2,
        "words": 1,
        "bytes": 3,
        "perplexity": pytest.approx(4),
        "perplexity_per_word": pytest.approx(16),
        "bits_per_byte": pytest.approx(4 / 3),
    }
    assert [part.logprob for part in found.by("word")] == [None, pytest.approx(-math.log(16))]
    assert [part.expected for part in found.by("token")] == [None, (" x", -0.5), None]
    nothing = Score([5], [None], "the", [0], [None], [None])
    assert nothing.totals() == {
        **dict.fromkeys(("logprob", "bits", "tokens", "words", "bytes"), 0),
        **dict.fromkeys(("perplexity", "perplexity_per_word", "bits_per_byte")),
    }
    huge = Score([5], [-2000.0], "日", [0], [1], [{}])
    assert (huge.perplexity, huge.totals()["perplexity"]) == (math.inf, None)


def test_without_ranks_the_expected_token_is_a_likelier_one() -> None:
    assert Part("a", 0, -1.0, 1, top_logprobs={"b": -0.5, "a": -1.0}).expected == ("b", -0.5)
    assert Part("a", 0, -0.5, 1, top_logprobs={"a": -0.5, "b": -1.0}).expected is None


@pytest.mark.parametrize(("context", "text"), [("the ", "whale"), ("the", " whale"), ("un", "believable"), ("日", "本")])
def test_a_token_of_both_counts_to_the_text(tokenizers: dict[str, Tokenizer], context: str, text: str) -> None:
    for name in ("bpe-openllama-v2", "byte-level"):
        tokenizer = tokenizers[name]
        prepared = prepare(tokenizer, text, context, positions=100)
        spans = tokenizer.spans(context + text)
        assert prepared.tokens == tokenizer.encode(context + text)
        assert all(end <= len(context) for _, end in spans[: prepared.first]), "left out tokens have no part in the text"
        assert spans[prepared.first][1] > len(context) or spans[prepared.first][0] == len(context)
        assert prepared.starts[0] == 0


def test_what_cannot_be_scored_is_refused(tokenizers: dict[str, Tokenizer]) -> None:
    calls = {
        "empty_prompt": lambda: prepare(tokenizers["bpe-nmt_nfkc"], "  ", "the", positions=100),
        "stride_out_of_range": lambda: prepare(tokenizers["bpe-nmt_nfkc"], "the", positions=100, stride=99),
        "invalid_unicode": lambda: prepare(tokenizers["bpe-nmt_nfkc"], "\ud800", positions=100),
    }
    for code, call in calls.items():
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.code == code


def test_windows_that_only_the_context_needs_do_not_run() -> None:
    tokens = [random.Random(1).randrange(9) for _ in range(100)]
    prepared = plan(tokens, 90, [], 1, positions=20, stride=None)
    assert prepared.stride == 10
    assert prepared.windows[0].end > 90
    assert prepared.windows[-1].end == 100
    assert cut([(0, 0), (0, 1), (1, 2)], 0, 1) == (1, [0, 1])
