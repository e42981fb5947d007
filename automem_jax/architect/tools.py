"""The tools of a review: they read traces and check templates. None writes, runs or connects.

Their names and arguments stand in tool_specs.py; paging.py keeps their answers short.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from automem_jax.agent.store_files import files_at
from automem_jax.agent.template import (
    Template,
    from_data,
    structural_change,
    to_data,
    wording_change,
)
from automem_jax.agent.validate import validate
from automem_jax.architect.audit import Finding, LeakageAudit
from automem_jax.architect.clients import ToolAnswer, ToolCall, ToolSpec
from automem_jax.architect.language import describe_parts
from automem_jax.architect.paging import Paged, failed, page
from automem_jax.architect.patch import proposed_data
from automem_jax.architect.proposal import (
    Context,
    NoProposal,
    Proposal,
    ProposalError,
    checked,
)
from automem_jax.architect.render import (
    PLACES,
    episode_row,
    memory_difference,
    read_seed,
    search_trace,
    step_view,
)
from automem_jax.architect.tool_specs import SPECS, ToolError, checked_arguments
from automem_jax.config import ConfigError
from automem_jax.envs.base import TextEnv
from automem_jax.traces.schema import Trace
from automem_jax.traces.store import read_trace

MAX_SUBMISSIONS = 6  # refused ones before an attempt is given up
_TEXT_CHARS = 4_000  # of a diagnosis in the ledger
_KEPT_TRACES = 8


class Toolbox:
    """The tools over one attempt's traces and templates.

    Args:
      context: traces (search seeds alone), templates, the parent.
      audit: finds leaks in proposals.
      tool_tokens: of one answer at most, as estimated on the safe side.
      make_env: an environment with a free slot 0, for previews; None: there is no preview.

    Attributes:
      result: the accepted proposal; None until there is one.
    """

    def __init__(
        self,
        context: Context,
        audit: LeakageAudit,
        *,
        tool_tokens: int,
        make_env: Callable[[], TextEnv] | None = None,
    ):
        self.result: Proposal | None = None
        self._context, self._audit = context, audit
        self._tokens, self._make_env = tool_tokens, make_env
        parent = context.template
        self._templates = {**context.templates, parent.id: parent}
        self._paths = {**context.runs}
        self._paths.setdefault(parent.id, context.traces)
        self._by_seed: dict[str, dict[int, Path]] = {}
        self._traces: dict[Path, Trace] = {}
        self._rows: dict[Path, dict[str, Any]] = {}
        self._refused = 0
        self._functions: dict[str, Callable[..., Paged]] = {
            "list_episodes": self._list_episodes,
            "read_steps": self._read_steps,
            "search_traces": self._search_traces,
            "memory_files": self._memory_files,
            "memory_diff": self._memory_diff,
            "compare_runs": self._compare_runs,
            "show_template": self._show_template,
            "template_schema": self._template_schema,
            "validate_template": self._validate_template,
            "preview_prompt": self._preview_prompt,
            "submit_template": self._submit_template,
        }

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """All tools; without an environment, less the preview."""
        return [s for s in SPECS if self._make_env or s.name != "preview_prompt"]

    def call(self, call: ToolCall) -> ToolAnswer:
        """Executes one call; see conversation.Tools."""
        try:
            spec = self._spec(call.name)
            arguments = checked_arguments(spec, call.arguments)
            cursor = arguments.pop("cursor", "")
            paged = self._functions[spec.name](**arguments)
            return ToolAnswer(page(paged, cursor, self._tokens))
        except (ToolError, ProposalError, ConfigError) as error:
            return failed(str(error), self._tokens)
        except (NoProposal, OSError, MemoryError):
            raise
        except Exception as error:  # whatever a template makes the harness raise is its own fault
            return failed(f"{type(error).__name__}: {error}", self._tokens)

    def _spec(self, name: str) -> ToolSpec:
        named = {spec.name: spec for spec in self.specs}
        if name not in named:
            near = difflib.get_close_matches(name, named, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(named)}"
            raise ToolError(f"no tool {name!r}; {hint}")
        return named[name]

    # --- traces ---------------------------------------------------------------------------------

    def _list_episodes(self, template: str = "", order: str = "progression") -> Paged:
        rows = [self._row(template, seed) for seed in self._episodes(template)]
        if order == "progression":
            rows.sort(key=lambda row: (row["progression"], row["episode"]))
        mean = sum(row["progression"] for row in rows) / max(1, len(rows))
        head = {"template": template or self._context.template.id, "episodes": len(rows)}
        return Paged({**head, "mean_progression": round(mean, 4)}, rows)

    def _read_steps(
        self, episode: int, first: int, last: int, template: str = "", prompts: bool = False
    ) -> Paged:
        trace = self._trace(template, episode)
        first, last = _range(trace, first, last, least=0)
        before = trace.steps[first - 1].percept["long_text"] if first else None
        texts = [before, *(step.percept["long_text"] for step in trace.steps[first:last])]
        steps = trace.steps[first : last + 1]
        views = (
            step_view(step, text, prompts=prompts) for step, text in zip(steps, texts, strict=True)
        )
        return Paged({"episode": episode, "steps_in_all": len(trace.steps)}, views)

    def _search_traces(
        self, text: str, where: str = "", episode: int | None = None, template: str = ""
    ) -> Paged:
        if not text.strip():
            raise ToolError("text: is empty; name what to look for")
        places = (where,) if where else tuple(place for place in PLACES if place != "prompt")
        seeds = self._episodes(template) if episode is None else [episode]
        hits = (
            {"episode": seed, **hit}
            for seed in seeds
            for hit in search_trace(self._trace(template, seed), text, places)
        )
        return Paged({"text": text, "episodes_searched": len(seeds)}, hits)

    def _memory_files(self, episode: int, step: int, file: str = "", template: str = "") -> Paged:
        trace = self._trace(template, episode)
        _range(trace, step, step, least=0)
        files = files_at(trace.steps, step)
        if file and file not in files:
            raise ToolError(f"file {file!r} was not there; there were {', '.join(sorted(files))}")
        held = [
            {"file": name, "lines": [text for _, text in lines]}
            for name, lines in sorted(files.items())
            if name == (file or name)
        ]
        return Paged({"episode": episode, "after_step": step}, held)

    def _memory_diff(self, episode: int, first: int, last: int, template: str = "") -> Paged:
        trace = self._trace(template, episode)
        first, last = _range(trace, first, last, least=-1)
        head = {"episode": episode, "from_after_step": first, "to_after_step": last}
        return Paged(head, memory_difference(trace, first, last))

    def _compare_runs(self, first: str, second: str) -> Paged:
        scores = [
            {seed: self._row(name, seed) for seed in self._episodes(name)}
            for name in (first, second)
        ]
        rows = []
        for seed in sorted(scores[0].keys() & scores[1].keys()):
            a, b = scores[0][seed], scores[1][seed]
            rows.append(
                {
                    "episode": seed,
                    "first": a["progression"],
                    "second": b["progression"],
                    "difference": round(b["progression"] - a["progression"], 4),
                    "steps": [a["steps"], b["steps"]],
                    "end_reason": [a["end_reason"], b["end_reason"]],
                }
            )
        gaps = [row["difference"] for row in rows]
        head = {
            "first": first,
            "second": second,
            "shared_episodes": len(rows),
            "mean_difference": round(sum(gaps) / max(1, len(gaps)), 4),
            "second_better": sum(gap > 0 for gap in gaps),
            "second_worse": sum(gap < 0 for gap in gaps),
        }
        return Paged(head, sorted(rows, key=lambda row: (row["difference"], row["episode"])))

    # --- templates ------------------------------------------------------------------------------

    def _show_template(self, template: str = "") -> Paged:
        name = template or self._context.template.id
        if name not in self._templates:
            raise ToolError(f"template {name!r} is not known; {self._known(self._templates)}")
        data = to_data(self._templates[name])
        return Paged({"template": name}, ({key: value} for key, value in data.items()))

    def _template_schema(self, part: str = "") -> Paged:
        parts = [p for p in describe_parts() if part.casefold() in p["part"].casefold()]
        if not parts:
            known = ", ".join(p["part"] for p in describe_parts())
            raise ToolError(f"part {part!r}: there is none; parts are {known}")
        return Paged({}, parts)

    def _validate_template(self, template_json: Any = None, patch: Any = None) -> Paged:
        template = self._proposed(template_json, patch)
        parent = self._context.template
        problems = [str(problem) for problem in validate(template)]
        changes = structural_change(parent, template)
        leaks = [] if problems else self._leaks(template)
        if not changes:
            problems.append("no structural change: only wording differs, or nothing does")
        head = {"would_be_accepted": not problems and not leaks}
        items: list[Any] = [{"problem": problem} for problem in problems]
        items += [{"leak": str(leak)} for leak in leaks]
        items += [{"structural_change": path} for path in changes]
        items += [{"wording_change": path} for path in wording_change(parent, template)]
        return Paged(head, items)

    def _preview_prompt(
        self, episode: int, step: int, template_json: Any = None, patch: Any = None
    ) -> Paged:
        from automem_jax.rollout.preview import preview

        context, template = self._context, self._context.template
        if template_json is not None or patch is not None:
            template = self._proposed(template_json, patch)
        trace = self._trace("", episode)
        _range(trace, step, step, least=0)
        env = self._make_env()
        try:
            phases = preview(template, env, task=context.task, seed=episode, step=step, trace=trace)
        except ValueError as error:
            raise ToolError(str(error)) from error
        finally:
            env.close()
        items: list[Any] = []
        for phase in phases:
            slots = [[s.slot, s.role, s.tokens, s.cut] for s in phase.slots]
            items.append(
                {
                    "phase": phase.phase,
                    "tokens": phase.tokens,
                    "operations": list(phase.operations),
                    "slots [name, message, tokens, cut]": slots,
                }
            )
            items += [{"role": m.role, "text": m.content} for m in phase.messages]
        return Paged({"episode": episode, "step": step}, items)

    def _submit_template(
        self,
        diagnosis: str,
        expected_effect: str,
        template_json: Any = None,
        patch: Any = None,
    ) -> Paged:
        context = self._context
        try:
            if not diagnosis.strip():
                raise ProposalError("diagnosis: is empty; say what goes wrong, with evidence")
            data = proposed_data(context.template, template_json, patch)
            template = checked(data, context.template, context.candidate_id)
            leaks = self._leaks(template)
            if leaks:
                told = "\n".join(map(str, leaks[:20]))
                raise ProposalError(f"holds answers to single episodes; take them out:\n{told}")
        except ProposalError as error:
            self._refused += 1
            if self._refused >= MAX_SUBMISSIONS:
                problem = " ".join(str(error).split())[:1000]
                raise NoProposal(
                    f"no usable template in {MAX_SUBMISSIONS} submissions; last problem: {problem}"
                ) from None
            raise ProposalError(f"not accepted: {error}") from error
        self.result = Proposal(
            template=template,
            diagnosis=diagnosis[:_TEXT_CHARS],
            expected_effect=expected_effect[:_TEXT_CHARS],
        )
        return Paged({"accepted": True}, ())

    def _proposed(self, template_json: Any, patch: Any) -> Template:
        parent = self._context.template
        data = proposed_data(parent, template_json, patch)
        named = {"id": self._context.candidate_id, "parent": parent.id, "env": parent.env}
        try:
            return from_data({**data, **named})
        except RecursionError:
            raise ProposalError("template: nested too deeply") from None

    def _leaks(self, template: Template) -> list[Finding]:
        return self._audit.findings(template, self._context.template)

    # --- what there is --------------------------------------------------------------------------

    def _episodes(self, template: str) -> list[int]:
        name = template or self._context.template.id
        if name not in self._paths:
            raise ToolError(f"template {name!r} has no traces here; {self._known(self._paths)}")
        if name not in self._by_seed:
            # In the order of the seeds, whatever the files are called.
            found = {read_seed(path): path for path in self._paths[name]}
            self._by_seed[name] = dict(sorted(found.items()))
        return list(self._by_seed[name])

    def _trace(self, template: str, seed: int) -> Trace:
        seeds = self._episodes(template)
        if seed not in seeds:
            told = ", ".join(map(str, seeds[:40])) + (", ..." if len(seeds) > 40 else "")
            raise ToolError(f"episode {seed}: there is none; there are {told}")
        return self._read(self._by_seed[template or self._context.template.id][seed])

    def _row(self, template: str, seed: int) -> dict[str, Any]:
        path = self._by_seed[template or self._context.template.id][seed]
        if path not in self._rows:
            self._rows[path] = episode_row(self._read(path))
        return self._rows[path]

    def _read(self, path: Path) -> Trace:
        if path not in self._traces:
            while len(self._traces) >= _KEPT_TRACES:
                del self._traces[next(iter(self._traces))]
            self._traces[path] = read_trace(path)
        return self._traces[path]

    def _known(self, things: Mapping[str, Any]) -> str:
        return f"there are {', '.join(things)}"


def _range(trace: Trace, first: int, last: int, *, least: int) -> tuple[int, int]:
    most = len(trace.steps) - 1
    if not least <= first <= most or last < first:
        raise ToolError(f"steps {first}..{last}: the episode has steps 0..{most}")
    return first, min(last, most)
