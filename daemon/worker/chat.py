"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from msgspec.structs import replace

from daemon.engines.base import GenerationRequest, ImagePrompt, TokenLogprob
from daemon.worker.answer import AnswerEvent, AnswerReader, ReadAnswer, Thought
from daemon.worker.chat_plan import ChatPlan, plan_chat, template_kwargs
from daemon.worker.generation import (
    Collected,
    Tally,
    allowed_tokens,
    check_ids,
    check_writes,
    finish_reason,
    generate,
    sampling_params,
    truncate,
)
from daemon.worker.pictures import chat_with_images, check_sees, check_uncut
from daemon.worker.state import Worker
from daemon.worker.tools.events import CallBegin, Text
from fcd.wire.openai import ChatRequest
from fcd.wire.openai_answers import (
    DONE,
    AnsweredCall,
    AssistantMessage,
    CalledFunction,
    ChatChoice,
    ChatCompletion,
    ChunkWriter,
    FinishReason,
)


@dataclass
class ChatJob:
    """One request on its way: what the engine gets, and what the answer is written with."""

    asked: ChatRequest
    request: GenerationRequest
    tally: Tally
    created: int
    plan: ChatPlan

    @property
    def id(self) -> str:
        return self.request.request_id

    def count_thinking(self, readers: Iterable[AnswerReader]) -> None:
        if self.plan.tags is not None:
            self.tally.reasoning_tokens = sum(reader.reasoning_tokens for reader in readers)


async def prepare_chat(worker: Worker, asked: ChatRequest) -> ChatJob:
    """Render, tokenise, check, and compile the form that the answer must have.

    Raises:
        ApiError: 400 for what the model cannot take, 503 while it is not loaded.
    """
    model = worker.ready()
    info = model.engine.info
    check_writes(info)
    check_ids(asked, info)
    prompt, ids, seen = await _prompt(worker, asked)
    ids = truncate(ids, asked.truncate_prompt_tokens, info, asked.limit or 1)
    params = sampling_params(
        asked,
        max_tokens=allowed_tokens(info, len(ids), asked.limit, param="messages"),
        logprobs=asked.top,
        prompt_logprobs=asked.prompt_logprobs,
        defaults=model.defaults,
        stops=model.prompter.stops,
    )
    plan = plan_chat(model.prompter, asked, prompt)
    if plan.show_specials:
        params = replace(params, skip_special_tokens=False)
    request = GenerationRequest(
        f"chatcmpl-{uuid.uuid4().hex}",
        ids,
        params,
        n=asked.choices,
        best_of=asked.choices,
        grammar=None if plan.spec is None else await model.engine.compile_grammar(plan.spec),
        adapter=worker.adapter(asked.model),
        images=seen,
    )
    return ChatJob(asked, request, Tally(len(ids)), int(time.time()), plan)


async def _prompt(worker: Worker, asked: ChatRequest) -> tuple[str, list[int], ImagePrompt | None]:
    """The prompt as text and as token ids, and with what its images become."""
    model = worker.ready()
    use, kwargs = asked.tool_use, template_kwargs(model.prompter.reasoner, asked)
    tools = () if use is None else use.definitions
    if not asked.first_image:
        prompt, ids = await model.prompter.chat_prompt(
            asked.messages, kwargs, specials=asked.add_special_tokens, tools=tools
        )
        return prompt, ids, None
    check_sees(model, asked.model, asked.first_image)
    for name in ("truncate_prompt_tokens", "prompt_logprobs"):
        check_uncut(getattr(asked, name), name)
    prompt, seen = await chat_with_images(
        model, asked.model, asked.messages, kwargs, specials=asked.add_special_tokens, tools=tools
    )
    return prompt, seen.ids, seen


async def complete_chat(worker: Worker, job: ChatJob) -> ChatCompletion:
    """The whole answer."""
    model = worker.ready()
    choices = [Collected() for _ in range(job.request.n)]
    readers = [job.plan.reader() for _ in choices]
    answers = [ReadAnswer() for _ in choices]
    async with aclosing(generate(worker, job.request)) as deltas:
        async for delta in deltas:
            job.tally.add(delta)
            choices[delta.index].add(delta)
            answers[delta.index].add(readers[delta.index].feed(delta.text, len(delta.token_ids)))
    for answer, reader in zip(answers, readers, strict=True):
        answer.add(reader.finish())
    job.count_thinking(readers)
    whole = ChatCompletion(
        id=job.id,
        created=job.created,
        model=job.asked.model,
        choices=[
            ChatChoice(
                index,
                _message(job, answer),
                model.tokens.chat(choice.logprobs) if job.asked.logprobs else None,
                reason_of(choice.finish_reason, called=bool(answer.calls)),
                choice.stop_reason,
            )
            for index, (choice, answer) in enumerate(zip(choices, answers, strict=True))
        ],
        usage=job.tally.usage(),
        system_fingerprint=worker.fingerprint,
    )
    if job.asked.prompt_logprobs is not None:
        whole.prompt_logprobs = model.tokens.prompt(_prompt_logprobs(choices))
    return whole


def _message(job: ChatJob, answer: ReadAnswer) -> AssistantMessage:
    message = AssistantMessage("assistant", answer.text or (None if answer.calls else ""))
    if answer.thinking:
        message.reasoning_content = answer.thinking
    if answer.calls:
        message.tool_calls = [
            AnsweredCall(job.plan.family.new_id(), CalledFunction(call.name, call.arguments)) for call in answer.calls
        ]
    return message


def reason_of(reason: FinishReason, *, called: bool) -> FinishReason:
    """An answer that ended by itself and called tools ended for them."""
    return "tool_calls" if called and reason == "stop" else reason


async def stream_chat(worker: Worker, job: ChatJob) -> AsyncGenerator[bytes, None]:
    """The answer's events. The first comes when the engine has begun, so that a refusal still has its status."""
    tokens = worker.ready().tokens
    write = ChunkWriter(
        "chat",
        id=job.id,
        created=job.created,
        model=job.asked.model,
        fingerprint=worker.fingerprint,
        with_usage=job.asked.wants_usage,
    )
    logprobs = bool(job.asked.logprobs)
    readers: dict[int, AnswerReader] = {}
    async with aclosing(generate(worker, job.request)) as deltas:
        async for delta in deltas:
            job.tally.add(delta)
            index, out = delta.index, b""
            reader = readers.get(index)
            if reader is None:
                reader = readers[index] = job.plan.reader()
                out = write.role(index)
            text = delta.text if job.plan.plain else ""
            if logprobs and delta.logprobs:
                out += write.text_with_logprobs(index, text, tokens.chat(delta.logprobs))
            elif text:
                out += write.text(index, text)
            if not job.plan.plain:
                events = reader.feed(delta.text, len(delta.token_ids))
                events += reader.finish() if delta.finish_reason is not None else []
                out += b"".join(_chunk(write, job, index, event) for event in events)
            if delta.finish_reason is not None:
                out += write.finish(index, reason_of(finish_reason(delta), called=reader.called), delta.stop_reason)
            if out:
                yield out
    job.count_thinking(readers.values())
    yield (write.usage(job.tally.usage()) if job.asked.wants_usage else b"") + DONE


def _chunk(write: ChunkWriter, job: ChatJob, index: int, event: AnswerEvent) -> bytes:
    if isinstance(event, Text):
        return write.text(index, event.text)
    if isinstance(event, Thought):
        return write.reasoning(index, event.text)
    if isinstance(event, CallBegin):
        return write.call(index, event.index, job.plan.family.new_id(), event.name)
    return write.arguments(index, event.index, event.text)


def _prompt_logprobs(choices: Sequence[Collected]) -> Sequence[TokenLogprob]:
    return next((choice.prompt_logprobs for choice in choices if choice.prompt_logprobs is not None), ())
