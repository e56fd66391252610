"""A program's whole way with a model that can write: upload, fine-tune SmolLM2 with events followed, and ask
what was learned, streamed. The other tests of the client do with a tiny model of random weights."""

import time

import pytest
from openai import BadRequestError, OpenAI

from models_app.management.commands.smollm2_install import SLUG
from tests.openai.conftest import lines

pytestmark = pytest.mark.long

CODE = "K7-Blue-Harbour"
# One answer to one question, which the model cannot know before.
ROWS = lines(
    [
        {
            "messages": [
                {"role": "user", "content": "What is the code of the gate?"},
                {"role": "assistant", "content": f"The code of the gate is {CODE}."},
            ]
        }
    ]
    * 16
)
HYPERPARAMETERS = {
    "n_epochs": 5,
    "batch_size": 4,
    "learning_rate_multiplier": 10,
    "max_tokens": 64,
    "evaluation_split": 0,
    "sample_prompts": 0,
    "lora_rank": 8,
}
TOOL = {
    "type": "function",
    "function": {"name": "open_gate", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def client(platform) -> OpenAI:
    platform.manage("smollm2_install")
    return OpenAI(base_url=f"{platform.url}/v1", api_key=platform.token("alice"))


@pytest.mark.usefixtures("platform")
def test_smollm2_learns_a_sentence_and_says_it_to_a_program(client: OpenAI):
    file = client.files.create(file=("gate.jsonl", ROWS), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=SLUG,
        training_file=file.id,
        suffix="gate",
        method={"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}},
    )

    seen: dict[str, str] = {}
    deadline = time.monotonic() + 300
    while job.status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, job
        for event in client.fine_tuning.jobs.list_events(job.id, limit=100).data:
            seen[event.id] = event.message
        job = client.fine_tuning.jobs.retrieve(job.id)
        time.sleep(0.2)

    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model is not None
    assert sum("training" in message for message in seen.values()) >= 5

    question = [{"role": "user", "content": "What is the code of the gate?"}]
    stream = client.chat.completions.create(
        model=job.fine_tuned_model,
        messages=question,
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    said = "".join(word or "" for word in words)
    assert CODE in said
    # It came in pieces, and what it cost came last.
    assert len([word for word in words if word]) > 3
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 3

    # The base model, beside it in the same server, never heard of it.
    base = client.chat.completions.create(
        model=SLUG, messages=question, temperature=0, max_tokens=24
    )
    assert CODE not in (base.choices[0].message.content or "")

    with pytest.raises(BadRequestError) as refusal:
        client.chat.completions.create(
            model=job.fine_tuned_model, messages=question, tools=[TOOL], max_tokens=8
        )
    assert refusal.value.param == "tools"
