"""Whole logs: which of several errors is the root cause, what surrounds messages, and logs of any size cut anywhere."""

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.explain.diagnosis import Diagnosis
from openllama_cli.explain.lines import is_exception, is_quoted_code, message, unescaped, without_secrets
from openllama_cli.explain.own_code import OwnLine
from openllama_cli.explain.search import explain
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
        # What any package may say comes after what is known more exactly, and torchrun's segmentation fault before its report.
        (
            "ModuleNotFoundError: No module named 'apex'\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate\n",
            ["cuda_out_of_memory", "module_missing"],
        ),
        ("exitcode  : -11 (pid: 7)\n" + NCCL.splitlines(True)[-1], ["segmentation_fault", "torchrun_child_failed"]),
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
    assert unknown_of(diagnosis) == ("ZeroDivisionError: division by zero", 3, None)


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
    assert unknown_of(explain([log])) == ('some.module.OddError: "quoted" and more', 9, "transformers")
    # Without any exception it is the last line that reads like an error.
    assert unknown_of(explain(["started\nthe frobnicator has crashed\nbye\n"])) == ("the frobnicator has crashed", 2, None)


def unknown_of(diagnosis: Diagnosis) -> tuple[str, int, str | None]:
    assert diagnosis.unknown is not None
    return diagnosis.unknown.line, diagnosis.unknown.line_number, diagnosis.unknown.library


@pytest.mark.parametrize(
    "text", ["", "\n \n", "all done", "started\nall is well\n", "epoch 3: 0 errors, loss 0.2\nno error\ndone\n"]
)
def test_a_text_without_an_error(text: str) -> None:
    assert explain([text]) == Diagnosis((), None)


def test_what_only_follows_does_not_hide_an_unknown_cause() -> None:
    """torchrun's own exception comes last in the log, and says nothing."""
    log = "Traceback (most recent call last):\nZeroDivisionError: division by zero\n" + "\n".join(NCCL.splitlines()[6:])
    diagnosis = explain([log])
    assert [one.error.code for one in diagnosis.explanations] == ["torchrun_child_failed"]
    assert unknown_of(diagnosis) == ("ZeroDivisionError: division by zero", 2, None)


def test_an_unknown_error_has_the_nearest_two_entries_by_shared_words() -> None:
    unknown = explain(["OddError: the tokenizer of this checkpoint wants protobuf and sentencepiece"]).unknown
    assert unknown is not None
    assert "sentencepiece_missing" in [one.code for one in unknown.nearest]
    assert all(len(one.shared) >= 2 and set(one.shared) <= set(unknown.line.split()) for one in unknown.nearest)
    far = explain(["OddError: xyzzy"]).unknown
    assert far is not None
    assert not far.nearest


# -- the user's own line --------------------------------------------------------------------------------------------

TWO_DEVICES = "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!\n"


@pytest.mark.parametrize(
    ("traceback", "own"),
    [
        (
            'Traceback (most recent call last):\n  File "/home/me/run.py", line 17, in <module>\n    ids = tokenizer(text)\n'
            '    ^^^\n  File "/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1, in f\n    return g()\n',
            OwnLine("/home/me/run.py", 17, "ids = tokenizer(text)"),
        ),
        # The last of several, of two tracebacks; torchrun, the standard library and the model's own code are nobody's.
        (
            'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    main()\nKeyError: 1\n\n'
            'Traceback (most recent call last):\n  File "/opt/bin/torchrun", line 8, in <module>\n    sys.exit(main())\n'
            '  File "run.py", line 3, in <module>\n    main()\n  File "/x/a.py", line 9, in f\n    g(token="hf_abcdefghijkl")\n'
            '  File "/usr/lib/python3.12/threading.py", line 1, in run\n    f()\n'
            '  File "/x/.cache/huggingface/modules/transformers_modules/m.py", line 1, in f\n    g()\n',
            OwnLine("/x/a.py", 9, 'g(token="***")'),
        ),
        (
            'Traceback (most recent call last):\n  File "C:\\work\\run.py", line 5, in <module>\n    go()\n'
            '  File "C:\\Python311\\Lib\\runpy.py", line 1, in run\n    f()\n',
            OwnLine("C:\\work\\run.py", 5, "go()"),
        ),
        # IPython, new and old, and rich.
        (
            "Cell In[12], line 2\n      1 x = 1\n----> 2 model(ids)\n      3 y = 2\n\n"
            "File /venv/lib/python3.11/site-packages/torch/nn.py:10, in f(x)\n      9 a\n---> 10 b\n",
            OwnLine("Cell In[12]", 2, "model(ids)"),
        ),
        (
            "<ipython-input-3-abcdef012345> in <module>\n      4 a\n----> 5 model(ids)\n\n"
            "/usr/lib/python3.8/site-packages/torch/nn.py in f(x)\n      9 a\n---> 10 b\n",
            OwnLine("<ipython-input-3-abcdef012345>", 5, "model(ids)"),
        ),
        (
            "│ /home/me/run.py:17 in <module> │\n│                    │\n│   16 x = 1         │\n│ ❱ 17 model(ids)    │\n",
            OwnLine("/home/me/run.py", 17, "model(ids)"),
        ),
        ("some output of run.py:17\n", None),
    ],
)
def test_the_users_own_line(traceback: str, own: OwnLine | None) -> None:
    assert explain([traceback + TWO_DEVICES]).explanations[0].own_line == own
    unknown = explain([f"{traceback}OddError: odd\n"]).unknown
    assert unknown is not None
    assert unknown.own_line == own
    # Of every rank, and in JSON.
    ranks = "".join(f"[rank1]: {line}\n" for line in f"{traceback}{TWO_DEVICES}".splitlines())
    assert explain([ranks]).explanations[0].own_line == own
    assert explain([json.dumps({"error": f"{traceback}{TWO_DEVICES}"})]).explanations[0].own_line == own


def test_a_traceback_far_away_is_of_another_failure() -> None:
    log = 'Traceback (most recent call last):\n  File "run.py", line 1, in <module>\n    f()\nKeyError: 1\n'
    assert explain([log, "more\n" * 60, TWO_DEVICES]).explanations[0].own_line is None


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
    for line in ("Killed it at the talk", "nobody was Killed", "KeyError: 'llava_llama'", "see [WinError 9]", "(6, 4)"):
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


@pytest.mark.parametrize("text", ['Error "' + '"' * 30_000 + "x", 'File "a.py", line 1\n' + "-" * 30_000 + "\nError"])
def test_long_lines_of_one_character_take_no_time(text: str) -> None:
    started = time.process_time()
    unescaped(text)
    explain(["Traceback (most recent call last):\n  ", text])
    assert time.process_time() - started < 2
