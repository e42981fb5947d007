"""Policy over Anthropic's Messages API."""

from __future__ import annotations

from typing import Any

from automem_jax.policies.endpoint import Answer, EndpointPolicy, missing_sdk
from automem_jax.policies.retry import GarbledAnswer
from automem_jax.text.messages import Completion, Request, SamplingSettings

_LENGTH_REASONS = frozenset({"max_tokens", "model_context_window_exceeded"})


class AnthropicPolicy(EndpointPolicy):
    """Asks Anthropic's Messages API, or a server that speaks it (`config.base_url`).

    The API takes no seed, so its answers do not repeat. Sampling settings travel as extra fields
    and only where they differ from the default: newer models refuse them. min_p does not exist there.
    """

    kind = "anthropic"
    default_base_url = "https://api.anthropic.com"

    def _connect(self, key: str) -> Any:
        try:
            import anthropic
        except ImportError as error:
            raise missing_sdk("anthropic") from error
        return anthropic.AsyncAnthropic(
            api_key=key,
            base_url=self.config.base_url or self.default_base_url,
            timeout=self.config.timeout_s,
            max_retries=0,
        )

    async def _ask(self, request: Request, model: str) -> Answer:
        system = "\n\n".join(m.content for m in request.messages if m.role == "system")
        turns = [
            {"role": m.role, "content": m.content} for m in request.messages if m.role != "system"
        ]
        arguments: dict[str, Any] = {"extra_body": _settings(request.sampling)}
        if system:
            arguments["system"] = system
        if request.sampling.stop:
            arguments["stop_sequences"] = list(request.sampling.stop)
        answer = await self._client.messages.create(
            model=model,
            messages=turns,
            max_tokens=min(request.sampling.max_tokens, self.config.max_tokens),
            **arguments,
        )
        written = getattr(getattr(answer, "usage", None), "cache_creation_input_tokens", 0)
        return Answer(_completion(answer), written or 0)


def _settings(sampling: SamplingSettings) -> dict[str, Any] | None:
    settings: dict[str, Any] = {}
    if sampling.temperature != 1.0:
        settings["temperature"] = sampling.temperature
    if sampling.top_p != 1.0:
        settings["top_p"] = sampling.top_p
    if sampling.top_k:
        settings["top_k"] = sampling.top_k
    return settings or None


def _completion(answer: Any) -> Completion:
    content = getattr(answer, "content", None)  # a body that is no JSON arrives as a plain str
    if not isinstance(content, list):
        raise GarbledAnswer("the answer holds no content")
    text = "".join(b.text for b in content if getattr(b, "type", None) == "text")
    usage = getattr(answer, "usage", None)
    cached = ("cache_creation_input_tokens", "cache_read_input_tokens", "input_tokens")
    counts = {
        "prompt_tokens": sum(int(getattr(usage, name, 0) or 0) for name in cached),
        "completion_tokens": int(getattr(usage, "output_tokens", 0) or 0),
        "cached_tokens": int(getattr(usage, "cache_read_input_tokens", 0) or 0),
    }
    reason = getattr(answer, "stop_reason", None)
    if reason == "refusal":
        why = "the server withheld the answer (refusal)"
        return Completion(text, finish_reason="error", error=why, **counts)
    if reason in _LENGTH_REASONS:
        return Completion(text, finish_reason="length", **counts)
    if reason == "stop_sequence":
        stop = getattr(answer, "stop_sequence", None) or ""
        return Completion(text + stop, finish_reason="stop_string", **counts)
    return Completion(text, finish_reason="stop", **counts)
