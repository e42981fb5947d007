"""Policy over any OpenAI-compatible chat completions server: OpenAI, vLLM, SGLang, llama.cpp."""

from __future__ import annotations

from typing import Any

from automem_jax.policies.endpoint import EndpointPolicy, missing_sdk, request_seed
from automem_jax.policies.retry import GarbledAnswer
from automem_jax.text.messages import Completion, Request, SamplingSettings


class OpenAIPolicy(EndpointPolicy):
    """Asks a chat completions server.

    `config.model` answers the role "gameplay", `config.adapter_model` (where set) the role
    "memory". With `base_url` set every sampling setting is sent, since such servers have defaults of
    their own, and the stop string is asked to be kept (vLLM, SGLang). Without it, the request goes
    to OpenAI, whose newer models refuse settings they do not know: only settings that differ from
    the default are sent, and top_k and min_p, which OpenAI lacks, never.
    """

    kind = "openai"
    default_base_url = "https://api.openai.com/v1"

    def _connect(self, key: str) -> Any:
        try:
            import openai
        except ImportError as error:
            raise missing_sdk("openai") from error
        return openai.OpenAI(
            api_key=key,
            base_url=self.config.base_url or self.default_base_url,
            timeout=self.config.timeout_s,
            max_retries=0,
        )

    def _ask(self, request: Request, model: str) -> Completion:
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        answer = self._client.chat.completions.create(
            model=model,
            messages=messages,
            seed=request_seed(self._seed, request.key),
            **self._settings(request.sampling),
        )
        return _completion(answer, request.sampling.stop)

    def _settings(self, sampling: SamplingSettings) -> dict[str, Any]:
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


def _completion(answer: Any, stop: tuple[str, ...]) -> Completion:
    choices = getattr(answer, "choices", None)  # a body that is no JSON arrives as a plain str
    message = (
        getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    )
    if message is None:
        raise GarbledAnswer("the answer holds no choices[0].message")
    choice = choices[0]
    text = message.content or ""
    refusal = getattr(message, "refusal", None)
    if not isinstance(text, str):
        raise GarbledAnswer("choices[0].message.content is no text")
    usage = getattr(answer, "usage", None)
    counts = {
        "prompt_tokens": int(getattr(usage, "prompt_tokens", 0) or 0),
        "completion_tokens": int(getattr(usage, "completion_tokens", 0) or 0),
    }
    reason = choice.finish_reason
    if refusal or reason == "content_filter":
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
