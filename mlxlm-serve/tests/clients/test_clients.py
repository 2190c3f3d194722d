"""The server as users of OpenAI's and Anthropic's own packages meet it.

`cargo xtask test --clients` starts `mlxlm server --model demo --require-model --images mention` and runs this file with pytest;
`MLXLM_URL` is the server, without a path. The model is a very small one: what it says is not judged, only that the packages
understand it, and that it says the same whichever way it is asked.
"""

import json
import math
import os
import threading
import time
import urllib.request

import anthropic
import openai
import pytest
from pydantic import BaseModel

URL = os.environ["MLXLM_URL"]
MODEL = "demo"
STORY = [{"role": "user", "content": "Tell me a story."}]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "Get the current weather for a city", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": WEATHER}]
RESPONSE_TOOLS = [{"type": "function", **WEATHER}]
CLAUDE_TOOLS = [{"name": "get_weather", "description": WEATHER["description"], "input_schema": PARAMETERS}]
RAIN = '{"temperature": 7, "condition": "rainy"}'
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)


@pytest.fixture(scope="session")
def gpt():
    return openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="session")
def claude():
    return anthropic.Anthropic(base_url=URL, api_key="unused", max_retries=0)


def metric(name):
    """A number of the server's metrics, over all models."""
    page = urllib.request.urlopen(f"{URL}/metrics").read().decode()
    values = [float(line.split()[-1]) for line in page.splitlines() if line.startswith((name + " ", name + "{"))]
    assert values, name
    return sum(values)


def until(condition, what):
    """Waits for something that should happen soon."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


def chat(gpt, messages=None, **fields):
    fields = {"model": MODEL, "max_tokens": 24, **fields}
    return gpt.chat.completions.create(messages=messages or STORY, **fields)


def said(stream):
    """The text of a streamed chat."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


# Chats


def test_a_chat_is_answered(gpt):
    answer = chat(gpt)
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id.startswith("chatcmpl-")
    message = answer.choices[0].message
    assert message.role == "assistant" and message.content and message.refusal is None
    assert answer.choices[0].finish_reason == "length"
    usage = answer.usage
    assert usage.completion_tokens == 24 and usage.total_tokens == usage.prompt_tokens + 24
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


def test_a_stream_says_the_same(gpt):
    whole = chat(gpt).choices[0].message.content
    with chat(gpt, stream=True) as stream:
        chunks = list(stream)
    assert said(chunks) == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_counts_when_asked(gpt):
    chunks = list(chat(gpt, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 24
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_stream_helper_gathers_the_answer(gpt):
    whole = chat(gpt, max_tokens=400).choices[0].message.content
    with gpt.chat.completions.stream(model=MODEL, messages=STORY, max_tokens=400) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole
    assert "content.delta" in kinds and "content.done" in kinds


def test_a_conversation_goes_on(gpt):
    first = chat(gpt).choices[0].message
    messages = [{"role": "system", "content": "You are kind."}, *STORY, first, {"role": "user", "content": "And then?"}]
    assert chat(gpt, messages).choices[0].message.content


def test_the_answer_ends_by_itself(gpt):
    answer = chat(gpt, [{"role": "user", "content": "What is the capital of France?"}], max_tokens=100)
    assert answer.choices[0].finish_reason == "stop" and "Paris" in answer.choices[0].message.content


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_are_taken(gpt, role):
    assert chat(gpt, [{"role": role, "content": "Be kind."}, *STORY]).choices[0].message.content


def test_several_choices(gpt):
    answer = chat(gpt, n=3, temperature=1.0, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage.completion_tokens <= 3 * 24


def test_several_choices_in_a_stream(gpt):
    texts = ["", ""]
    for chunk in chat(gpt, n=2, temperature=1.0, seed=1, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    whole = chat(gpt, n=2, temperature=1.0, seed=1)
    assert texts == [choice.message.content for choice in whole.choices]


@pytest.mark.parametrize("seed", [0, -1, 2**40])
def test_a_seed_repeats_itself(gpt, seed):
    first, second = (chat(gpt, seed=seed, temperature=1.0).choices[0].message.content for _ in range(2))
    assert first == second


@pytest.mark.parametrize("stop", ["the", ["xyzzy", "."]])
def test_a_stop_string_ends_and_is_not_said(gpt, stop):
    answer = chat(gpt, stop=stop, max_tokens=100)
    assert answer.choices[0].finish_reason == "stop"
    assert not any(word in (answer.choices[0].message.content or "") for word in ([stop] if isinstance(stop, str) else stop))


def test_log_probabilities(gpt):
    answer = chat(gpt, logprobs=True, top_logprobs=3, max_tokens=5)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 5 and all(len(token.top_logprobs) == 3 for token in tokens)
    # Greedy: what was taken is the best.
    assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in tokens)
    assert "".join(bytes(token.bytes).decode() for token in tokens) == answer.choices[0].message.content


def test_log_probabilities_in_a_stream(gpt):
    whole = chat(gpt, logprobs=True, max_tokens=5).choices[0].logprobs.content
    chunks = list(chat(gpt, logprobs=True, max_tokens=5, stream=True))
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert streamed == whole


def test_a_bias_bans_a_token(gpt):
    best = chat(gpt, logprobs=True, max_tokens=1).choices[0].logprobs.content[0]
    ids = json.loads(post("/tokenize", {"model": MODEL, "content": best.token}))["tokens"]
    other = chat(gpt, logit_bias={ids[0]: -100}, logprobs=True, max_tokens=1).choices[0].logprobs.content[0]
    assert len(ids) == 1 and other.token != best.token


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7, "top_p": 0.9},
        {"presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"max_completion_tokens": 5, "max_tokens": None},
        {"user": "someone", "metadata": {"a": "b"}, "service_tier": "auto", "store": False},
        {"extra_body": {"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1}},
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
        {"reasoning_effort": "low"},
    ],
    ids=lambda fields: "+".join(fields),
)
def test_fields_that_are_taken(gpt, fields):
    assert chat(gpt, **fields).choices[0].message.content


def test_an_image_is_mentioned_where_the_server_was_started_so(gpt):
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    with_image = chat(gpt, [{"role": "user", "content": [{"type": "text", "text": "Look: "}, image]}])
    with_text = chat(gpt, [{"role": "user", "content": "Look: [image]"}])
    assert with_image.choices[0].message.content == with_text.choices[0].message.content


def post(path, body):
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request).read()


# Structured output


class Person(BaseModel):
    name: str
    age: int


PERSON = [{"role": "user", "content": "Give me a name and an age as JSON."}]


def test_an_answer_is_json(gpt):
    text = chat(gpt, PERSON, response_format={"type": "json_object"}, max_tokens=100).choices[0].message.content
    assert isinstance(json.loads(text), dict)


def test_parse_gives_an_object(gpt):
    answer = gpt.chat.completions.parse(model=MODEL, messages=PERSON, response_format=Person, max_tokens=100)
    person = answer.choices[0].message.parsed
    assert isinstance(person, Person) and person.name


def test_parse_in_a_stream(gpt):
    with gpt.chat.completions.stream(model=MODEL, messages=PERSON, response_format=Person, max_tokens=100) as stream:
        list(stream)
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Person)


# Tools


def test_a_tool_is_called_and_its_result_read(gpt):
    answer = chat(gpt, QUESTION, tools=TOOLS, max_tokens=60)
    assert answer.choices[0].finish_reason == "tool_calls"
    message = answer.choices[0].message
    call = message.tool_calls[0]
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": RAIN}
    last = chat(gpt, [*QUESTION, message, result], tools=TOOLS, max_tokens=60)
    assert "rainy" in last.choices[0].message.content


def test_a_call_comes_in_pieces(gpt):
    name, arguments, pieces = None, "", 0
    for chunk in chat(gpt, QUESTION, tools=TOOLS, max_tokens=60, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            name = call.function.name or name
            arguments += call.function.arguments or ""
            pieces += 1
    assert name == "get_weather" and json.loads(arguments) == {"city": "Paris"} and pieces > 2


def test_the_stream_helper_gathers_calls(gpt):
    with gpt.chat.completions.stream(model=MODEL, messages=QUESTION, tools=TOOLS, max_tokens=60) as stream:
        kinds = {event.type for event in stream}
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert "tool_calls.function.arguments.done" in kinds


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_can_be_required(gpt, choice):
    message = chat(gpt, QUESTION, tools=TOOLS, tool_choice=choice, max_tokens=60).choices[0].message
    assert message.tool_calls[0].function.name == "get_weather"


def test_a_call_can_be_forbidden(gpt):
    message = chat(gpt, QUESTION, tools=TOOLS, tool_choice="none", max_tokens=60).choices[0].message
    assert not message.tool_calls and message.content


def test_one_call_at_a_time(gpt):
    message = chat(gpt, QUESTION, tools=TOOLS, parallel_tool_calls=False, max_tokens=60).choices[0].message
    assert len(message.tool_calls) == 1


def test_fifty_tools_with_long_descriptions(gpt):
    tools = [
        {"type": "function", "function": {**WEATHER, "name": f"tool_{i}", "description": "Does something. " * 2}}
        for i in range(50)
    ]
    try:
        assert chat(gpt, tools=tools, max_tokens=4).choices
    except openai.BadRequestError as error:
        # The demo model reads 1024 tokens.
        assert error.code == "context_length_exceeded" and error.param == "messages"


# Completions


def test_a_completion_goes_on(gpt):
    answer = gpt.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8)
    assert answer.object == "text_completion" and answer.choices[0].text and answer.usage.completion_tokens == 8


def test_a_completion_in_a_stream(gpt):
    whole = gpt.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8).choices[0].text
    stream = gpt.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole


def test_several_prompts(gpt):
    prompts = ["Once upon a time", "The dog"]
    answer = gpt.completions.create(model=MODEL, prompt=prompts, max_tokens=6)
    alone = [gpt.completions.create(model=MODEL, prompt=prompt, max_tokens=6).choices[0].text for prompt in prompts]
    assert [choice.text for choice in answer.choices] == alone


def test_prompts_of_tokens(gpt):
    ids = json.loads(post("/tokenize", {"model": MODEL, "content": "Once upon a time"}))["tokens"]
    by_text = gpt.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=6).choices[0].text
    by_ids = gpt.completions.create(model=MODEL, prompt=ids, max_tokens=6).choices[0].text
    assert by_text == by_ids


def test_echo_with_log_probabilities(gpt):
    """What `lm-eval` asks for."""
    answer = gpt.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=1, echo=True, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text.startswith("Once upon a time")
    assert logprobs.token_logprobs[0] is None and all(number <= 0 for number in logprobs.token_logprobs[1:])


# Responses


def respond(gpt, **fields):
    return gpt.responses.create(**{"model": MODEL, "input": "Tell me a story.", "max_output_tokens": 24, **fields})


def test_a_response(gpt):
    answer = respond(gpt)
    assert answer.object == "response" and answer.output_text and answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens" and answer.usage.output_tokens == 24


def test_a_response_in_events(gpt):
    whole = respond(gpt).output_text
    events = list(respond(gpt, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.incomplete"


def test_the_stream_helper_of_responses(gpt):
    with gpt.responses.stream(model=MODEL, input="What is the capital of France?", max_output_tokens=100) as stream:
        list(stream)
        assert "Paris" in stream.get_final_response().output_text


def test_a_response_goes_on_from_another(gpt):
    first = respond(gpt, instructions="You are kind.")
    second = respond(gpt, input="And then?", previous_response_id=first.id)
    assert second.previous_response_id == first.id and second.output_text
    assert gpt.responses.retrieve(first.id).output_text == first.output_text
    gpt.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(first.id)


def test_a_response_that_is_not_kept(gpt):
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(respond(gpt, store=False).id)


def test_a_response_calls_a_tool(gpt):
    first = respond(gpt, input=QUESTION, tools=RESPONSE_TOOLS, max_output_tokens=60)
    call = next(item for item in first.output if item.type == "function_call")
    assert call.name == "get_weather" and json.loads(call.arguments) == {"city": "Paris"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": RAIN}
    last = respond(gpt, input=[result], previous_response_id=first.id, tools=RESPONSE_TOOLS, max_output_tokens=60)
    assert "rainy" in last.output_text


def test_a_response_streams_a_call(gpt):
    events = list(respond(gpt, input=QUESTION, tools=RESPONSE_TOOLS, max_output_tokens=60, stream=True))
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(pieces)) == {"city": "Paris"} and len(pieces) > 1


def test_a_conversation_is_compacted(gpt):
    compacted = gpt.responses.compact(model=MODEL, input=[*STORY, {"role": "assistant", "content": "Once there was a dog."}])
    assert compacted.object == "response.compaction" and compacted.output[-1].type == "compaction"
    items = [item.model_dump(exclude_none=True) for item in compacted.output]
    assert respond(gpt, input=[*items, {"role": "user", "content": "And then?"}]).output_text


def test_parse_of_responses(gpt):
    answer = gpt.responses.parse(model=MODEL, input=PERSON, text_format=Person, max_output_tokens=100)
    assert isinstance(answer.output_parsed, Person)


# Embeddings and models


def test_embeddings_are_one_long(gpt):
    # The package asks for base 64 by itself.
    answer = gpt.embeddings.create(model=MODEL, input=["a dog", "a dog", "the capital of France"])
    same, again, other = (item.embedding for item in answer.data)
    assert math.isclose(math.hypot(*same), 1, rel_tol=1e-4)
    cosine = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert cosine(same, again) > 0.9999 > cosine(same, other)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_embeddings_as_numbers(gpt):
    packed = gpt.embeddings.create(model=MODEL, input="a dog").data[0].embedding
    plain = gpt.embeddings.create(model=MODEL, input="a dog", encoding_format="float").data[0].embedding
    assert all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(packed, plain))


def test_models_are_listed(gpt):
    assert MODEL in [model.id for model in gpt.models.list()]
    assert gpt.models.retrieve(MODEL).object == "model"


# Errors


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"extra_body": {"colour": "blue"}}, "colour"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_field_is_named(gpt, fields, param):
    fields = dict(fields)
    with pytest.raises(openai.BadRequestError) as caught:
        gpt.chat.completions.create(**{"model": MODEL, "messages": STORY, **fields})
    assert caught.value.param == param and param in caught.value.message


def test_a_model_that_is_not_there(gpt):
    with pytest.raises(openai.NotFoundError) as caught:
        chat(gpt, model="gpt-4")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        gpt.models.retrieve("gpt-4")


def test_a_prompt_that_is_too_long(gpt):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(gpt, [{"role": "user", "content": "dog " * 2000}])
    assert caught.value.code == "context_length_exceeded"


def test_errors_of_responses_and_embeddings(gpt):
    with pytest.raises(openai.BadRequestError) as caught:
        respond(gpt, input=[])
    assert caught.value.param == "input"
    with pytest.raises(openai.BadRequestError):
        gpt.embeddings.create(model=MODEL, input=[])
    with pytest.raises(openai.NotFoundError):
        respond(gpt, previous_response_id="resp_nothing")


# Many at a time, and clients that go away


def test_many_at_once_say_what_each_says_alone(gpt):
    prompts = [f"Tell me a story about a {animal}." for animal in ("dog", "cat", "bird", "fish", "cow", "fox")]
    ask = lambda prompt: chat(gpt, [{"role": "user", "content": prompt}]).choices[0].message.content
    alone = [ask(prompt) for prompt in prompts]
    together = [None] * len(prompts)

    def work(i):
        together[i] = ask(prompts[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_an_async_client():
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0) as client:
            stream = await client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=12, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(ask())


def test_a_stream_that_is_left_is_not_gone_on_with(gpt):
    before = metric("mlxlm_requests_cancelled_total")
    stream = chat(gpt, max_tokens=900, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    until(lambda: metric("mlxlm_requests_cancelled_total") > before, "the request to be cancelled")
    until(lambda: metric("mlxlm_requests_inside") == 0, "nothing to be left")


def test_a_client_that_loses_patience(gpt):
    before = metric("mlxlm_requests_cancelled_total")
    hasty = gpt.with_options(timeout=0.05)
    with pytest.raises(openai.APITimeoutError):
        hasty.chat.completions.create(
            model=MODEL, messages=STORY, max_tokens=900, n=16, temperature=1.0, extra_body={"ignore_eos": True}
        )
    until(lambda: metric("mlxlm_requests_cancelled_total") > before, "the request to be cancelled")
    assert chat(gpt).choices[0].message.content


# Anthropic


def message(claude, **fields):
    return claude.messages.create(**{"model": MODEL, "max_tokens": 24, "messages": STORY, **fields})


def test_a_message(gpt, claude):
    answer = message(claude)
    assert answer.type == "message" and answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 24
    assert answer.content[0].text == chat(gpt).choices[0].message.content


def test_a_message_in_a_stream(claude):
    whole = message(claude).content[0].text
    with claude.messages.stream(model=MODEL, max_tokens=24, messages=STORY) as stream:
        assert "".join(stream.text_stream) == whole
        assert stream.get_final_message().usage.output_tokens == 24


def test_raw_events_of_a_message(claude):
    kinds = [event.type for event in message(claude, stream=True)]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]


def test_stop_sequences(claude):
    answer = message(claude, stop_sequences=["xyzzy", "."], max_tokens=100)
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence == "."


@pytest.mark.parametrize(
    "fields",
    [
        {"system": "You are kind."},
        {"system": [{"type": "text", "text": "You are kind.", "cache_control": {"type": "ephemeral"}}]},
        {"extra_body": {"temperature": 0.5, "top_p": 0.9, "top_k": 40}},
        {"metadata": {"user_id": "me"}},
        {"thinking": {"type": "disabled"}},
        {"messages": [*STORY, {"role": "assistant", "content": "Once"}]},
    ],
    ids=lambda fields: "+".join(fields),
)
def test_fields_of_messages(claude, fields):
    assert message(claude, **fields).content[0].text


def test_tokens_are_counted(claude):
    counted = claude.messages.count_tokens(model=MODEL, messages=STORY).input_tokens
    usage = message(claude).usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens


def test_a_message_uses_a_tool(claude):
    first = message(claude, messages=QUESTION, tools=CLAUDE_TOOLS, max_tokens=60)
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert call.name == "get_weather" and call.input == {"city": "Paris"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": RAIN}
    messages = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    last = message(claude, messages=messages, tools=CLAUDE_TOOLS, max_tokens=60)
    assert "rainy" in last.content[0].text


def test_a_tool_in_a_stream(claude):
    with claude.messages.stream(model=MODEL, max_tokens=60, messages=QUESTION, tools=CLAUDE_TOOLS) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        call = stream.get_final_message().content[-1]
    assert call.input == {"city": "Paris"} and json.loads("".join(pieces)) == {"city": "Paris"}


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_tool_can_be_required(claude, choice):
    answer = message(claude, messages=QUESTION, tools=CLAUDE_TOOLS, tool_choice=choice, max_tokens=60)
    assert answer.content[-1].name == "get_weather"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_tool_runner(claude, stream):
    asked = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the current weather for a city

        Args:
            city: The city.
        """
        asked.append(city)
        return RAIN

    runner = claude.beta.messages.tool_runner(
        model=MODEL, max_tokens=60, tools=[get_weather], messages=QUESTION, stream=stream, max_iterations=3
    )
    last = runner.until_done()
    assert asked == ["Paris"] and "rainy" in last.content[0].text


def test_a_thread_sends_only_what_is_new(claude):
    thread = claude.beta.messages.thread(model=MODEL, max_tokens=24, system="You are kind.")
    first = thread.send({"role": "user", "content": "Tell me a story."})
    second = thread.send({"role": "user", "content": "And then?"})
    assert thread.previous_message_id == second.id
    messages = [*STORY, {"role": "assistant", "content": first.content}, {"role": "user", "content": "And then?"}]
    assert second.content[0].text == message(claude, system="You are kind.", messages=messages).content[0].text


def test_an_image_is_mentioned_here_too(claude):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    assert message(claude, messages=[{"role": "user", "content": [image]}]).content[0].text


@pytest.mark.parametrize(
    "fields, kind, names",
    [
        ({"messages": []}, anthropic.BadRequestError, "messages"),
        ({"extra_body": {"temperature": 1000}}, anthropic.BadRequestError, "temperature"),
        ({"extra_body": {"colour": 1}}, anthropic.BadRequestError, "colour"),
        ({"model": "claude-opus"}, anthropic.NotFoundError, "claude-opus"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_are_anthropics(claude, fields, kind, names):
    with pytest.raises(kind) as caught:
        message(claude, **fields)
    assert caught.value.body["type"] == "error" and names in caught.value.body["error"]["message"]


def test_a_message_that_is_left(claude):
    before = metric("mlxlm_requests_cancelled_total")
    with claude.messages.stream(model=MODEL, max_tokens=900, messages=STORY, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream.text_stream))
    until(lambda: metric("mlxlm_requests_cancelled_total") > before, "the request to be cancelled")
