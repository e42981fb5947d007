"""Engines without a model, for what the server does around one."""

from automem_jax.sampling.requests import Event, Generated, QueueFull

BLOCK = 4


class FakeEngine:
    """Writes the prompt's letters backwards, one a step and request; the key's fourth word shifts them.

    `hold` stops it from going on; `fail_at` raises at that step.
    """

    def __init__(self, tokenizer, slots=64, queue_limit=64, fail_at=None):
        self._tokenizer, self._slots, self._limit = tokenizer, slots, queue_limit
        self._fail_at = fail_at
        self._running = {}
        self._names = {}
        self.steps = self.cancelled = self.total = 0
        self.most_running = 0
        self.hold = False
        self.submitted = []

    def submit(self, request):
        if request.adapter and request.adapter not in self._names:
            raise ValueError(f"adapter {request.adapter!r} is not loaded")
        if len(self._running) >= self._limit:
            raise QueueFull("full")
        self._running[request.id] = (request, [])
        self.submitted.append(request)
        self.total += 1

    def cancel(self, id):
        found = self._running.pop(id, None)
        self.cancelled += found is not None
        return found is not None

    def idle(self):
        return not self._running or self.hold

    def step(self):
        self.steps += 1
        if self._fail_at == self.steps:
            raise FloatingPointError("nan in the logits")
        events = []
        self.most_running = max(self.most_running, len(self._running))
        for id, (request, ids) in list(self._running.items())[: self._slots]:
            letters = [t for t in request.prompt_ids if t > 4][::-1]
            shift = request.key[3] + (1 if request.adapter else 0)
            ended = len(ids) == len(letters)
            token = self._tokenizer.eos_id if ended else 5 + (letters[len(ids)] - 5 + shift) % 26
            ids.append(token)
            text = self._tokenizer.decode(ids)
            stop = next((s for s in request.sampling.stop if text.endswith(s)), None)
            reason = None
            if ended:
                reason = "stop"
            elif stop:
                reason = "stop_string"
            elif len(ids) >= request.sampling.max_tokens:
                reason = "length"
            finished = None
            if reason:
                logprobs = (-0.5,) * len(ids)
                finished = Generated(tuple(ids), logprobs, text, reason, len(request.prompt_ids), 2)
                del self._running[id]
            delta = self._tokenizer.decode([token])
            held = reason is None and request.sampling.stop
            events.append(Event(id, (token,), (-0.5,), "" if held else delta, finished))
        return events

    def counters(self):
        used = len(self._running) * BLOCK
        return {
            "requests": self.total,
            "cancelled": self.cancelled,
            "blocks_used": used,
            "queued": 0,
        }

    def adapters(self):
        return dict(self._names)

    def load_adapter(self, name, adapter):
        if adapter == "bad":
            raise ValueError("rank 3 does not fit")
        self._names[name] = 1 + len(self._names)
        return self._names[name]

    def unload_adapter(self, name):
        del self._names[name]
