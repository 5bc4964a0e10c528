"""Whole logs: which of several errors is the root cause, what surrounds messages, and logs of any size cut anywhere."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.explain.lines import is_exception, is_quoted_code, message, without_secrets
from openllama_cli.explain.search import Diagnosis, Unknown, explain
from tests.support.raising import codes

NCCL = """\
Traceback (most recent call last):
  File "/home/jc/llama/generation.py", line 62, in build
    torch.distributed.init_process_group("nccl")
  File "/home/jc/torch/distributed/distributed_c10d.py", line 907, in init_process_group
    raise RuntimeError("Distributed package doesn't have NCCL " "built in")
RuntimeError: Distributed package doesn't have NCCL built in
ERROR:torch.distributed.elastic.multiprocessing.api:failed (exitcode: 1) local_rank: 0 (pid: 51512) of binary: python
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""


CHAIN = (
    "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory\n\n"
    "During handling of the above exception, another exception occurred:\n\n"
    "Traceback (most recent call last):\n"
    "ValueError: Asking to pad but the tokenizer does not have a padding token.\n\n"
    "The above exception was the direct cause of the following exception:\n\n"
    "RuntimeError: could not start\n"
)
TOO_LONG = "Token indices sequence length is longer than the specified maximum sequence length for this model (2409 > 2048).\n"
NAN = (
    "../aten/src/ATen/native/cuda/TensorCompare.cu:106: _assert_async_cuda_kernel: block: [0,0,0], thread: [0,0,0] "
    "Assertion `probability tensor contains either `inf`, `nan` or element < 0` failed.\n"
    "RuntimeError: CUDA error: device-side assert triggered\n"
    "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`\n"
)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (NCCL, ["nccl_missing", "torchrun_child_failed"]),
        # What torchrun reports comes last, wherever it stands.
        ("".join([*NCCL.splitlines(True)[6:], *NCCL.splitlines(True)[:6]]), ["nccl_missing", "torchrun_child_failed"]),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\nretrying on the CPU\nKilled\n",
            ["cuda_out_of_memory", "killed"],
        ),
        # The first of a chain of exceptions is the root.
        (CHAIN, ["cuda_library_missing", "pad_token_missing"]),
        # A warning that leads to the failure comes first; next to a failure of another kind it stays behind.
        (f"{TOO_LONG}IndexError: index out of range in self\n", ["context_too_long", "index_out_of_range"]),
        (
            f"{TOO_LONG}ImportError: FlashAttention2 has been toggled on, but it cannot be used\n",
            ["flash_attention_missing", "context_too_long"],
        ),
        (NAN, ["nan_probabilities", "device_side_assert", "cublas_failed"]),
    ],
)
def test_the_root_cause_comes_first(log: str, expected: list[str]) -> None:
    assert codes(log) == expected
    assert explain([log]).unknown is None


def test_a_vaguer_entry_of_the_same_failure_is_hidden_but_not_that_of_another() -> None:
    refused = "requests.exceptions.HTTPError: 403 Client Error: Forbidden for url: https://huggingface.co/x/y\n"
    gated = "GatedRepoError: 403 Client Error\n"
    assert codes(f"{refused}During handling\n{gated}") == ["hub_gated"]
    assert codes(refused + "work\n" * 1000 + gated) == ["hub_refused", "hub_gated"]


def test_warnings_alone_do_not_explain_an_exception() -> None:
    warning = "`torch_dtype` is deprecated! Use `dtype` instead!\n"
    assert explain([warning]).unknown is None
    diagnosis = explain([warning, "Traceback (most recent call last):\n", "ZeroDivisionError: division by zero\n", "bye\n"])
    assert [one.error.code for one in diagnosis.explanations] == ["dtype_renamed"]
    assert diagnosis.unknown == Unknown("ZeroDivisionError: division by zero", 3, None)


def test_an_unknown_error_is_its_last_exception_and_whose_code_raised_it() -> None:
    log = (
        "loading\n"
        "Traceback (most recent call last):\n"
        '  File "/venv/lib/python3.11/site-packages/transformers/generation/utils.py", line 1, in generate\n'
        "    raise ValueError(x)\n"
        "ValueError: an odd thing\n"
        "\n"
        "During handling of the above exception, another exception occurred:\n"
        "\n"
        'some.module.OddError: "quoted" and more\n'
        "cleaning up\n"
    )
    assert explain([log]) == Diagnosis((), Unknown('some.module.OddError: "quoted" and more', 9, "transformers"))
    # Without any exception it is the last line.
    assert explain(["started\nall is well\n\n  \n"]) == Diagnosis((), Unknown("all is well", 2, None))
    assert explain([]) == explain(["\n \n"]) == Diagnosis((), None)


# -- messages in other languages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("OSError: [Errno 28] Auf dem Gerät ist kein Speicherplatz mehr verfügbar", "disk_full"),
        ("OSError: [Errno 28] Aucun espace disponible sur le périphérique: '/tmp/x'", "disk_full"),
        ("OSError: [WinError 112] Es steht nicht genug Speicherplatz auf dem Datenträger zur Verfügung", "disk_full"),
        ("OSError: [Errno 12] Nicht genügend Hauptspeicher verfügbar", "cpu_out_of_memory"),
        ("OSError: [Errno 98] Die Adresse wird bereits verwendet", "port_in_use"),
        ("The server socket has failed to bind to [::]:29500 (errno: 98 - L'adresse est déjà utilisée).", "port_in_use"),
        ("OSError: [WinError 1455] Die Auslagerungsdatei ist zu klein, um diesen Vorgang durchzuführen", "windows_page_file"),
        ("ImportError: libcudart.so.12: Kann die Shared-Object-Datei nicht öffnen: Datei", "cuda_library_missing"),
        ("urllib3: NameResolutionError: [Errno 11001] getaddrinfo a échoué", "hub_unreachable"),
    ],
)
def test_translated_messages_are_recognized_by_what_is_not_translated(line: str, code: str) -> None:
    assert codes(line) == [code]


# -- what surrounds messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [
        "[rank12]:   ",
        "2024-03-28T01:20:32.907Z ",
        "[2023-10-13 17:40:02,544] ",
        "2024-06-10 17:54:07 | ERROR | stderr | ",
        "E0724 19:33:34.565000 128818126430656 torch/distributed/elastic/multiprocessing/api.py:702] ",
        "[stderr] ",
        "\x1b[1;31m",
        "> ",
        "│ ",
        "\x1b[2m[rank0]:\x1b[0m 2024-01-01 00:00:00 ",
    ],
)
def test_what_stands_in_front_of_a_message_is_left_out(prefix: str) -> None:
    assert message(f"{prefix}KeyError: 'x'") == "KeyError: 'x'"
    assert [(one.error.code, one.line) for one in explain([f"{prefix}Killed\n"]).explanations] == [("killed", "Killed")]


def test_progress_that_rewrites_its_line_does_not_hide_the_message() -> None:
    log = "Loading:  0%|   | 0/2\rLoading: 50%|█  | 1/2\rKilled\nnext\n"
    assert [(one.line, one.line_number) for one in explain([log]).explanations] == [("Killed", 1)]


def test_words_inside_other_words_are_not_taken_for_the_message() -> None:
    for line in ("Killed it at the talk", "nobody was Killed", "KeyError: 'llava_llama'", "see [WinError 2]", "(6, 4)"):
        assert not explain([line]).explanations, line


def test_code_that_a_traceback_quotes_counts_only_where_nothing_else_does() -> None:
    quoted = '  File "x.py", line 3, in f\n    raise RuntimeError("Distributed package doesn\'t have NCCL built in")\n'
    assert codes(quoted) == ["nccl_missing"]
    assert codes(f"{quoted}AssertionError: Torch not compiled with CUDA enabled\n") == ["torch_without_cuda"]
    assert is_quoted_code("--> 304     raise x", "")
    assert is_quoted_code("│ ❱ 2267 │   return torch.embedding(weight)   │", "")
    assert is_quoted_code("   1517     else:", "")
    assert not is_quoted_code("401 Client Error. (Request ID: x)", "")
    assert not is_quoted_code("    401 Client Error. (Request ID: x)", "")


def test_lines_that_name_an_exception() -> None:
    elastic = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:"
    for line in ("ValueError: x", "KeyboardInterrupt", elastic, "huggingface_hub.errors.HFValidationError: Repo id"):
        assert is_exception(line), line
    for line in ("ERROR: not an exception", "    raise ValueError(", "an Error: occurred", "Errors"):
        assert not is_exception(line), line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("token=hf_abcdefghijklmnopqrstuvwxyz", "token=***"),
        ("Bearer hf_abcdefghijklmnop", "Bearer ***"),
        ("use hf_ABCDEFGHIJKLMNOP now", "use hf_*** now"),
        ("Authorization: Bearer abc.def-123456", "Authorization: Bearer ***"),
        ("sk-proj-abcdefgh12345678", "sk-***"),
        ("https://user:secretpassword@proxy:8080/", "https://***@proxy:8080/"),
        ("OPENAI_API_KEY='abcdef123456'", "OPENAI_API_KEY='***'"),
        *((text, text) for text in ("a padding token. Please", "token=None", "`token=<your_token>`", "max_new_tokens=512")),
    ],
)
def test_secrets_are_masked_and_nothing_else(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_a_long_line_is_quoted_around_the_message() -> None:
    line = explain(["x" * 5000 + " CUDA out of memory. " + "y" * 5000]).explanations[0].line
    assert "CUDA out of memory" in line
    assert len(line) <= 302


# -- size -----------------------------------------------------------------------------------------------------------

LOG = f"start\n{NCCL}\r\nLoading 1%\rLoading 2%\nerror: x is gated, and your token gives no access to it\n  fix: y\nKilled\n"


@given(st.lists(st.integers(0, len(LOG)), max_size=12))
def test_a_text_may_be_cut_anywhere(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(LOG)]
    pieces = [LOG[begin:end] for begin, end in pairwise(places)]
    assert explain(pieces) == explain([LOG])


@pytest.mark.parametrize(
    "line",
    [
        "[2024-04-23 13:27:20,383] INFO train: {'loss': 1.1268, 'grad_norm': 1.4743438949, 'epoch': 0.05} Error rate 0.1\n",
        "unexpected keyword argument Loading a checkpoint for MP= failed (exitcode ",
        "ValueError\n",
        "Killed\nx",
        "\x1b[31mred\x1b[0m a bit\n",
        "error: a\n  fix: b\n",
        "hf_" + "a" * 200,
        "  File \"x\", line 1\n",
        '"code": "',
    ],
    ids=lambda line: line[:20],
)  # fmt: skip
def test_megabytes_take_seconds(line: str) -> None:
    log = line * (1_200_000 // len(line)) + "\nRuntimeError: CUDA out of memory. Tried to allocate\n"
    started = time.process_time()
    diagnosis = explain(log[place : place + (1 << 18)] for place in range(0, len(log), 1 << 18))
    # Some 0.2 s alone on this kind of machine; quadratic work would take minutes.
    assert time.process_time() - started < 2
    found = next(one for one in diagnosis.explanations if one.error.code == "cuda_out_of_memory")
    assert found.line_number == log.count("\n")
