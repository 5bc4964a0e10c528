"""Downloads that are cut, killed, disturbed or damaged: over real HTTP, with real kills."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from openllama_cli.errors import HubError
from openllama_cli.models.hub import pull as hub
from openllama_cli.models.hub.cache import cached, disk_bytes, remove, repo_folder
from tests.support.forked import Forked
from tests.support.hub.fixtures import SMALL, cache, index, server
from tests.support.hub.server import HubServer
from tests.support.progress import Recorder

WEIGHTS = os.urandom(3_000_000)
FILE = "model.safetensors"
FILES = SMALL | {FILE: WEIGHTS}
PULL = """
from openllama_cli.models.hub.pull import pull
pull("org/tiny", notice=lambda text: print(text, flush=True))
sys.exit()
"""

__all__ = ["cache", "server"]


@pytest.fixture(autouse=True)
def repository(server: HubServer) -> None:
    server.add("org/tiny", FILES)


def partial(content: bytes = WEIGHTS) -> Path:
    return repo_folder("org/tiny") / "blobs" / f"{hashlib.sha256(content).hexdigest()}.olc.incomplete"


def wait_for_bytes(file: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while not file.exists() or file.stat().st_size < count:
        assert time.monotonic() < deadline, "the download did not get on"
        time.sleep(0.005)


def pull_and_kill(server: HubServer, content: bytes, count: int) -> int:
    """Pull in another process that is killed when it has so many bytes of the weights; returns how many were kept."""
    server.throttle = 3_000_000
    process = Forked(code=PULL)
    wait_for_bytes(partial(content), count)
    process.kill()
    process.wait()
    server.throttle = None
    return partial(content).stat().st_size


def ranges(server: HubServer) -> list[str | None]:
    return [seen.range for seen in server.downloads(FILE)]


def test_killed_download_continues_where_it_stopped(server: HubServer) -> None:
    kept = pull_and_kill(server, WEIGHTS, 500_000)
    assert 500_000 <= kept < len(WEIGHTS)
    assert cached("org/tiny") is None

    progress = Recorder()
    folder = hub.pull("org/tiny", progress=progress)
    assert (folder / FILE).read_bytes() == WEIGHTS
    assert ranges(server) == [None, f"bytes={kept}-"]
    assert progress.totals[FILE] == sum(progress.counts[FILE]) == len(WEIGHTS)
    assert not list(repo_folder("org/tiny").rglob("*.incomplete"))


def test_killed_update_leaves_the_older_model_usable(server: HubServer) -> None:
    old = hub.pull("org/tiny")
    new_weights = os.urandom(2_000_000)
    new = server.add("org/tiny", FILES | {FILE: new_weights})
    pull_and_kill(server, new_weights, 200_000)
    assert cached("org/tiny") == old
    assert (old / FILE).read_bytes() == WEIGHTS
    assert hub.pull("org/tiny").name == new


def test_cut_connections_are_continued_by_range(server: HubServer) -> None:
    server.cut_after[FILE] = [1_000_000, 700_000]
    notices: list[str] = []
    folder = hub.pull("org/tiny", notice=notices.append)
    assert (folder / FILE).read_bytes() == WEIGHTS
    first, second, third = ranges(server)
    assert first is None
    # The client may lose the last chunk that it did not read before the connection was reset.
    assert 800_000 <= int(str(second)[6:-1]) <= 1_000_000
    assert 1_400_000 <= int(str(third)[6:-1]) <= 1_700_000
    assert notices[0].startswith("downloading org/tiny: 3.0 MB")
    assert [FILE in notice and "retrying in" in notice for notice in notices[1:]] == [True, True]


def test_connection_that_is_cut_again_and_again_is_given_up(server: HubServer) -> None:
    server.cut_after[FILE] = [10_000] * 50
    with pytest.raises(HubError) as caught:
        hub.pull("org/tiny")
    assert caught.value.code == "connection_cut"
    assert "3.0 MB" in caught.value.cause
    assert len(ranges(server)) == 4
    assert 0 < partial().stat().st_size <= 40_000
    server.cut_after.clear()
    assert (hub.pull("org/tiny") / FILE).read_bytes() == WEIGHTS


def test_server_that_hangs_in_the_middle_is_noticed(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr("openllama_cli.models.hub.download.RETRY_SECONDS", (0.0,))
    monkeypatch.setattr("tests.support.hub.server._Handler._send_bytes", lambda handler, content: handler.server_hub.wait(2))
    with pytest.raises(HubError) as caught:
        hub.pull("org/tiny")
    assert caught.value.code == "connection_cut"


def test_server_without_range_support_sends_it_all_again(server: HubServer) -> None:
    server.ignore_range = True
    server.status[FILE] = [503, 500]  # A busy file server is asked again.
    server.cut_after[FILE] = [1_000_000]
    progress = Recorder()
    folder = hub.pull("org/tiny", progress=progress)
    assert (folder / FILE).read_bytes() == WEIGHTS
    assert progress.totals[FILE] == sum(progress.counts[FILE]) == len(WEIGHTS)


def test_damaged_or_too_long_download_is_refused_and_fetched_anew(server: HubServer) -> None:
    server.corrupt = {"config.json"}
    with pytest.raises(HubError, match=r"config\.json"):
        hub.pull("org/tiny")
    for faults, words in ((server.corrupt, FILE), (server.too_long, f"more than the {len(WEIGHTS)} bytes")):
        faults.clear()
        faults.add(FILE)
        with pytest.raises(HubError, match=words) as caught:
            hub.pull("org/tiny")
        assert caught.value.code == "checksum"
        assert not (partial().exists() and partial().stat().st_size)
        assert cached("org/tiny") is None
        faults.clear()
    assert (hub.pull("org/tiny") / FILE).read_bytes() == WEIGHTS


def test_partial_file_of_another_version_is_not_continued(server: HubServer) -> None:
    newer = os.urandom(2_000_000)
    server.cut_after[FILE] = [500_000, 1000, 1000, 1000, 1000, 1000]
    with pytest.raises(HubError):
        hub.pull("org/tiny")
    assert partial().stat().st_size > 0
    server.cut_after.clear()
    server.add("org/tiny", FILES | {FILE: newer})
    assert (hub.pull("org/tiny") / FILE).read_bytes() == newer
    assert ranges(server)[-1] is None


def test_partial_file_with_all_or_too_many_or_damaged_bytes(server: HubServer) -> None:
    damaged = b"x" * 1_000_000
    for content in (WEIGHTS, WEIGHTS + b"more", damaged):
        partial().parent.mkdir(parents=True)
        partial().write_bytes(content)
        if content is damaged:
            with pytest.raises(HubError, match="checksum"):
                hub.pull("org/tiny")
        assert (hub.pull("org/tiny") / FILE).read_bytes() == WEIGHTS
        assert bool(ranges(server)) == (content is not WEIGHTS)
        remove("org/tiny")


def test_two_processes_download_a_file_once(server: HubServer) -> None:
    server.throttle = 3_000_000
    first = Forked(code=PULL)
    wait_for_bytes(partial(), 200_000)
    notices: list[str] = []
    folder = hub.pull("org/tiny", notice=notices.append)
    assert (folder / FILE).read_bytes() == WEIGHTS
    assert (first.wait(30), first.out.count(b"\n"), first.err) == (0, 1, b"")
    assert ranges(server) == [None]
    assert notices[-1] == f"another process is downloading {FILE}; waiting for it"


def test_process_that_waits_takes_over_from_one_that_is_killed(server: HubServer) -> None:
    server.throttle = 300_000  # Slow enough for a second process to start meanwhile, on a busy machine too.
    first = Forked(code=PULL)
    wait_for_bytes(partial(), 200_000)
    reader, writer = os.pipe()
    second = Forked(code=PULL, stdout=writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as said:
        assert "downloading org/tiny" in said.readline()
        assert "waiting" in said.readline()
        first.kill()
        first.wait()
        server.throttle = None
        assert (second.wait(30), second.err) == (0, b"")
    folder = cached("org/tiny")
    assert folder is not None
    assert (folder / FILE).read_bytes() == WEIGHTS
    assert ranges(server)[0] is None
    assert int(str(ranges(server)[1])[6:-1]) >= 200_000


def test_without_symbolic_links_files_are_moved_into_the_snapshot(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("no symbolic links here")

    shards = {"a.safetensors": WEIGHTS, "b.safetensors": b""}
    server.add("org/tiny", SMALL | shards | {"model.safetensors.index.json": index(*shards)})
    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = hub.pull("org/tiny")
    assert (folder / "b.safetensors").read_bytes() == b"", "an empty file is one too"
    assert not (folder / "a.safetensors").is_symlink()
    assert (folder / "a.safetensors").read_bytes() == WEIGHTS
    assert disk_bytes(repo_folder("org/tiny")) < 1.1 * len(WEIGHTS)
    assert hub.pull("org/tiny") == folder
    assert len(server.downloads("a.safetensors")) == 1
