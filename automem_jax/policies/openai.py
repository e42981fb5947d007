"""Policy over any OpenAI-compatible chat completions server: OpenAI, vLLM, SGLang, llama.cpp, TGI, Gemini."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from automem_jax.policies.endpoint import Answer, EndpointPolicy, missing_sdk, request_seed
from automem_jax.policies.retry import GarbledAnswer, words
from automem_jax.text.messages import Completion, Request, SamplingSettings

# Fields that a server may not know, and that do not change what is drawn when they are left out (top_p:
# where it is 1; max_tokens: OpenAI's newer models call it otherwise).
OPTIONAL_FIELDS = {"seed", "include_stop_str_in_output", "no_stop_trim", "top_p", "max_tokens"}
_NOT_KNOWN = re.compile("unsupported|not supported|unknown|unrecognized|instead", re.IGNORECASE)


class OpenAIPolicy(EndpointPolicy):
    """Asks a chat completions server.

    `config.model` answers the role "gameplay", `config.adapter_model` (where set) the role
    "memory". With `base_url` set every sampling setting is sent, since such servers have defaults of
    their own, and the stop string is asked to be kept (vLLM, SGLang). Without it, the request goes
    to OpenAI, whose newer models refuse settings they do not know: only settings that differ from
    the default are sent, and top_k and min_p, which OpenAI lacks, never.

    Servers differ in which fields they refuse: Gemini's seed and stop options, TGI's top_p of 1. A
    field that such a refusal names is not sent to that model again, where leaving it out changes nothing
    about what is drawn; without a seed answers do not repeat, which is told once.
    """

    kind = "openai"
    default_base_url = "https://api.openai.com/v1"

    def _connect(self, key: str) -> Any:
        self._refused: dict[str, set[str]] = {}  # model -> fields that it does not take
        try:
            import openai
        except ImportError as error:
            raise missing_sdk("openai") from error
        return openai.AsyncOpenAI(
            api_key=key,
            base_url=self.config.base_url or self.default_base_url,
            timeout=self.config.timeout_s,
            max_retries=0,
        )

    async def _ask(self, request: Request, model: str) -> Answer:
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        while True:
            sent = self._settings(request, self._refused.setdefault(model, set()))
            try:
                answer = await self._client.chat.completions.create(
                    model=model, messages=messages, **sent
                )
            except Exception as error:
                if not self._learn(error, model, sent):
                    raise
            else:
                return _answer(answer, request.sampling.stop)

    def _learn(self, error: Exception, model: str, sent: Mapping[str, Any]) -> bool:
        """Whether a refusal names fields that can be left out; they are from now on."""
        if getattr(error, "status_code", None) not in (400, 422):
            return False
        said = words(error)
        given = {**sent, **sent.get("extra_body", {})}
        named = {name for name in OPTIONAL_FIELDS & given.keys() if re.search(rf"\b{name}\b", said)}
        if given.get("top_p") != 1.0:
            named.discard("top_p")
        if not _NOT_KNOWN.search(said):
            named.discard("max_tokens")
        fresh = named - self._refused[model]
        if "seed" in fresh:
            print(
                f"warning: model {model!r} takes no seed; its answers do not repeat",
                file=sys.stderr,
            )
        self._refused[model] |= fresh
        # Another request in flight may have learnt the same meanwhile.
        return bool(named) or bool(self._refused[model] & given.keys())

    def _settings(self, request: Request, refused: set[str]) -> dict[str, Any]:
        settings = self._all_settings(request.sampling)
        settings["seed"] = request_seed(self._seed, request.key)
        if "max_tokens" in refused and "max_tokens" in settings:
            settings["max_completion_tokens"] = settings["max_tokens"]
        extra = settings.pop("extra_body", {})
        settings = {name: value for name, value in settings.items() if name not in refused}
        extra = {name: value for name, value in extra.items() if name not in refused}
        return settings | ({"extra_body": extra} if extra else {})

    def _all_settings(self, sampling: SamplingSettings) -> dict[str, Any]:
        max_tokens = min(sampling.max_tokens, self.config.max_tokens)
        settings: dict[str, Any] = {"stop": list(sampling.stop)} if sampling.stop else {}
        if not self.config.base_url:
            settings["max_completion_tokens"] = max_tokens
            if sampling.temperature != 1.0:
                settings["temperature"] = sampling.temperature
            if sampling.top_p != 1.0:
                settings["top_p"] = sampling.top_p
            return settings
        settings |= {
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        extra: dict[str, Any] = {}
        if sampling.top_k:
            extra["top_k"] = sampling.top_k
        if sampling.min_p:
            extra["min_p"] = sampling.min_p
        if sampling.stop:
            extra |= {"include_stop_str_in_output": True, "no_stop_trim": True}
        if extra:
            settings["extra_body"] = extra
        return settings


def _answer(answer: Any, stop: tuple[str, ...]) -> Answer:
    return Answer(_completion(answer, stop))


def _completion(answer: Any, stop: tuple[str, ...]) -> Completion:
    choices = getattr(answer, "choices", None)  # a body that is no JSON arrives as a plain str
    message = (
        getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    )
    if message is None:
        told = getattr(
            answer, "error", None
        )  # some gateways answer 200 and say here what went wrong
        raise GarbledAnswer(f"the answer holds no choices[0].message{f': {told}' if told else ''}")
    choice = choices[0]
    text = message.content or ""
    refusal = getattr(message, "refusal", None)
    if not isinstance(text, str):
        raise GarbledAnswer("choices[0].message.content is no text")
    counts = _counts(getattr(answer, "usage", None))
    reason = choice.finish_reason
    if refusal or str(reason).startswith("content_filter"):  # Gemini: "content_filter: ..."
        why = f"the server withheld the answer ({refusal or reason})"
        return Completion(text, finish_reason="error", error=why, **counts)
    if reason == "length":
        return Completion(text, finish_reason="length", **counts)
    # vLLM names the stop string in stop_reason, SGLang in matched_stop; OpenAI cuts it silently.
    matched = getattr(choice, "stop_reason", None) or getattr(choice, "matched_stop", None)
    if isinstance(matched, str) and matched in stop and not text.endswith(matched):
        text += matched
    ended_by_string = any(text.endswith(s) for s in stop)
    return Completion(text, finish_reason="stop_string" if ended_by_string else "stop", **counts)


def _counts(usage: Any) -> dict[str, int]:
    """Token counts; the thinking that Gemini leaves out of completion_tokens is in its total."""

    def count(source: Any, name: str) -> int:
        value = getattr(source, name, 0)
        return value if isinstance(value, int) and value > 0 else 0

    prompt, completion = count(usage, "prompt_tokens"), count(usage, "completion_tokens")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": max(completion, count(usage, "total_tokens") - prompt),
        "cached_tokens": count(getattr(usage, "prompt_tokens_details", None), "cached_tokens"),
    }
