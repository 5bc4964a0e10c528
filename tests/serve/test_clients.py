"""Real clients of a real server."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.serve.servers import Served

BODY: Any = {"model": "tiny", "prompt": "Q: What is", "max_tokens": 12, "temperature": 0}


@pytest.fixture
def openai() -> Any:
    """Imported where it is needed: it takes a second."""
    return pytest.importorskip("openai")


@pytest.fixture
def client(openai: Any, served: Served) -> Any:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


def test_openai(served: Served, client: Any) -> None:
    wanted = served.complete(**BODY, n=2, logprobs=2, echo=True, stop=["e"])
    found = client.completions.create(**BODY, n=2, logprobs=2, echo=True, stop=["e"], user="me")
    for one, other in zip(found.choices, wanted["choices"], strict=True):
        assert (one.text, one.finish_reason, one.index) == (other["text"], other["finish_reason"], other["index"])
        assert one.logprobs.to_dict() == other["logprobs"]
    assert found.usage.to_dict() == wanted["usage"]
    assert [model.id for model in client.models.list()] == [served.model.name]
    assert client.models.retrieve(served.model.name).object == "model"


def test_openai_streamed(served: Served, client: Any) -> None:
    wanted = served.complete(**BODY)
    with client.completions.create(**BODY, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == wanted["choices"][0]["text"]
    assert chunks[-1].usage.to_dict() == wanted["usage"]


def test_openai_async(openai: Any, served: Served) -> None:
    async def run() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="EMPTY", max_retries=0) as client:
            plain = await asyncio.gather(*(client.completions.create(**BODY, seed=number) for number in range(5)))
            stream = await client.completions.create(**BODY, stream=True)
            return [*(one.choices[0].text for one in plain), "".join([chunk.choices[0].text async for chunk in stream])]

    assert set(asyncio.run(run())) == {served.complete(**BODY)["choices"][0]["text"]}


def test_openai_reads_the_errors(openai: Any, client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens is 1000") as refused:
        client.completions.create(**{**BODY, "max_tokens": 1000})
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.NotFoundError, match="base model"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl(served: Served) -> None:
    def curl(*arguments: str) -> str:
        return subprocess.run(["curl", "-sN", *arguments], capture_output=True, text=True, check=True).stdout

    json_ = ("-H", "Content-Type: application/json", "-d", json.dumps(BODY))
    answer = json.loads(curl(f"{served.url}/v1/completions", *json_))
    assert answer["choices"] == served.complete(**BODY)["choices"]
    assert json.loads(curl(f"{served.url}/v1/completions", "-d", "{}"))["error"]["code"] == "unsupported_media_type"


def test_llm(served: Served, tmp_path: Path) -> None:
    """The `llm` program, by its configuration of OpenAI completion models."""
    pytest.importorskip("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: tiny\n  model_name: tiny\n  api_base: {served.url}/v1\n  completion: true\n"
    )
    command = [sys.executable, "-m", "llm", "-m", "tiny", BODY["prompt"], "-o", "max_tokens", "12", "-o", "temperature", "0"]
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "EMPTY"}
    run = subprocess.run([*command, "--no-log"], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.rstrip("\n") == served.complete(**BODY)["choices"][0]["text"].rstrip("\n")
