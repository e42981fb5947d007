"""The stages of the two loops, wired together; each meets the next on disk under the work directory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from automem_jax.agent.template import Template, load_template
from automem_jax.agent.validate import check
from automem_jax.config import (
    ConfigError,
    ExperimentConfig,
    SelectionConfig,
    seed_sets,
    unknown_key,
)
from automem_jax.files import write_atomically, write_json
from automem_jax.live import disk
from automem_jax.live.board import Board
from automem_jax.live.tracking import make_trackers
from automem_jax.policies.prices import ModelUsage
from automem_jax.rollout.engine import RolloutResult
from automem_jax.rollout.runner import SERVED, Runner
from automem_jax.traces.store import read_trace

# Under train/: what the recipe search and the online rounds found best.
RECIPE, ONLINE = "recipe", "online"
STEPS_TRACKED = 20  # of the episode whose words trackers get
BASE_ALONE = "none"  # names no adapter, also where a server has one
_ARMS = {  # template and adapter of each arm
    "base_v0": ("", ""),
    "base_best": ("best", ""),
    "specialist_best": ("best", "lineage"),
    "control_best": ("best", "random"),
    "specialist_recipe": ("best", RECIPE),
    "specialist_online": ("best", ONLINE),
}
_TRAINED_ON = "specialist_on_"  # followed by a selection's name: signals, signals-without-lineage
COMPARISONS = (
    ("base_best", "base_v0"),
    ("specialist_best", "base_v0"),
    ("specialist_best", "base_best"),
    ("specialist_best", "control_best"),
    ("control_best", "base_best"),
    ("specialist_recipe", "base_best"),
    ("specialist_recipe", "specialist_best"),
    ("specialist_online", "base_best"),
    ("specialist_online", "specialist_best"),
    ("base_v0", "window"),
    ("specialist_best", "window"),
    ("base_v0", "window_cot"),
    ("specialist_best", "window_cot"),
)


class Stages:
    """Runs stages of one experiment in one work directory; use as a context manager.

    Every stage reads what earlier ones left on disk, keeps what is finished and goes on from there.
    """

    def __init__(self, config: ExperimentConfig, workdir: Path, command: str = "automem"):
        """`command` is what the run is called in its record, see live.board."""
        self.config, self.workdir = config, workdir
        self.board = Board(workdir, command, usage=self._pending_usage, speaks=_is_first_process())
        self.runner = Runner(config, self.board.task)
        self.seeds = {name: list(seeds) for name, seeds in seed_sets(config.seeds).items()}

    def __enter__(self) -> Stages:
        facts = disk.read_object(self.workdir / "config.json")
        if self.board.speaks:
            self.board.trackers += make_trackers(self.config.tracking, self.workdir, facts)
        self.board.__enter__()
        return self

    def __exit__(self, *error) -> None:
        try:
            self.runner.close()
        finally:
            self.board.__exit__(*error)

    def _pending_usage(self) -> dict[str, Any]:
        return {model: dataclasses.asdict(u) for model, u in self.runner.usage().items()}

    def pipeline(self) -> None:
        """Everything in order, then where the report is.

        Raises:
          ConfigError: at once, where an arm needs an adapter that a server would have to load first.
        """
        self._check_pipeline()
        started = time.monotonic()
        self.evolve()
        self.rollout("collect", "best", BASE_ALONE)
        for kind in ("lineage", "random"):
            self.select(kind)
            self.train(kind)
        if self.config.online.rounds:
            self.online()
        self.evaluate()
        self.report()
        print(
            f"done in {time.monotonic() - started:.0f} s, peak memory {_peak_memory_gib():.1f} GiB"
        )

    def evolve(self) -> None:
        """Loop 1: the best template goes to evolve/best.json."""
        from automem_jax.architect.evolve import evolve
        from automem_jax.architect.propose import make_architect

        def run_template(template: Template, seeds: Sequence[int], out_dir: Path) -> list[Path]:
            result = self.runner.run(template.id, template, seeds, out_dir)
            self._track_episode(f"evolve/{template.id}", result)
            return result.paths

        self._needs_memory("evolve")
        with self._stage("evolve"):
            architect = make_architect(self.config.architect, self.config.env)
            best = evolve(
                self.config,
                self.workdir,
                run_template,
                architect,
                say=self.board.say,
            )
        print(f"loop 1: best template is {best.id}")

    def plan_evolution(self) -> str:
        """What `evolve` would do, ask and cost; plays and calls nothing."""
        from automem_jax.architect.plan import dry_run

        self._needs_memory("evolve")
        return dry_run(self.config, self.workdir)

    def _check_pipeline(self) -> None:
        policy = self.config.policy
        arms = [arm for arm in self.config.evaluation.arms if _ARMS.get(arm, ("", ""))[1]]
        if policy.kind != "local" and self.config.agent.kind == "memory" and arms:
            raise ConfigError(
                f"pipeline: policy.kind {policy.kind!r} cannot play {', '.join(arms)}: the adapter "
                "that is trained on the way is not on the server; set evaluation.arms to base_v0 and "
                "base_best, or name it in policy.adapter_model from the start and run the stages one "
                f"by one: evolve, rollout --seeds=collect --template=best --adapter={BASE_ALONE}, "
                "select, train; then let the server load train/lineage (`automem serve "
                "--adapters=lineage`, or `automem convert` and another server), and evaluate"
            )

    def rollout(self, seed_set: str, template: str, adapter: str) -> list[Path]:
        """Plays one seed set; traces go to traces/<set>/<name>.

        Args:
          adapter: see `adapter`; "" is the server's adapter where policy.adapter_model names one, else
            the base alone, as BASE_ALONE always.
        """
        chosen = self.template(template)
        if not adapter and self.config.policy.adapter_model:
            adapter = str(SERVED)
            if seed_set == "collect" and self.config.agent.kind == "memory":
                print(
                    "note: played with policy.adapter_model; `automem select` reads the base's own "
                    f"traces, which --adapter={BASE_ALONE} makes"
                )
        adapter_path = self.adapter(adapter)
        specialist = adapter_path.parent.name or adapter_path.name if adapter_path else ""
        name = f"{chosen.id}+{specialist}" if specialist else chosen.id
        if self.config.agent.kind != "memory":
            name, adapter_path = self.config.agent.kind, None
        with self._stage(f"rollout {seed_set}"):
            result = self.runner.run(
                name,
                chosen,
                self.seeds[seed_set],
                self.workdir / "traces" / seed_set / name,
                adapter=adapter_path,
            )
            self._track_episode(f"rollout {seed_set}/{name}", result)
        return result.paths

    def _track_episode(self, run: str, result: RolloutResult) -> None:
        """Gives trackers the words and the last picture of one of a rollout's new episodes."""
        if not self.board.trackers or not result.new_episodes:
            return
        from automem_jax.architect.render import step_view

        trace, before, views = read_trace(result.paths[-1]), None, []
        for step in trace.steps[:STEPS_TRACKED]:
            views.append(step_view(step, before))
            before = step.percept["long_text"]
        text = "\n".join(json.dumps(view, ensure_ascii=False, indent=1) for view in views)
        self.board.text(run, "rollout/episode", text)
        with contextlib.suppress(ValueError):  # an engine that broke has no picture
            self.board.image(run, "rollout/last_frame", self.runner.env.frame(0))

    def select(self, kind: str) -> Path:
        """Loop 2: chosen memory decisions go to select/<kind>/examples.jsonl.

        Raises:
          ConfigError: there are no collected traces yet, or no lineage selection for the control.
        """
        from automem_jax.evaluation.attribution import named_selection
        from automem_jax.selection.examples import REPORT_FILE

        self._needs_memory("select")
        out_dir = self.workdir / "select" / kind
        template = self.template("best" if self._evolved().exists() else "")
        traces = self.workdir / "traces" / "collect" / template.id
        if not traces.is_dir():
            alone = f" --adapter={BASE_ALONE}" if self.config.policy.adapter_model else ""
            served = traces.with_name(f"{template.id}+{SERVED}")
            what = f" ({served.name} was played with an adapter)" if served.is_dir() else ""
            raise ConfigError(
                f"{traces} does not exist{what}; run `automem rollout --seeds=collect --template="
                f"{'best' if self._evolved().exists() else template.id}{alone}` with this --workdir "
                "first"
            )
        names = [f"{self.config.env.task}-{seed}.jsonl" for seed in self.seeds["collect"]]
        paths = [traces / name for name in names if (traces / name).exists()]
        if len(paths) < len(names):
            print(
                f"warning: {len(paths)} of {len(names)} collect episodes are there; selecting from them"
            )
        settings = named_selection(self.config.selection, kind)
        matches = [self.workdir / "select" / k / REPORT_FILE for k in ("lineage", "signals")]
        match = next((path for path in matches if path.exists()), matches[0])
        if settings.kind == "random" and not match.exists():
            raise ConfigError(f"{match} does not exist; run `automem select --kind=lineage` first")
        forbidden = {s for other in ("search", "gate", "heldout") for s in self.seeds[other]}
        with self._stage(f"select {kind}"):
            report = self._select_measured(
                template,
                paths,
                settings,
                out_dir,
                forbidden_seeds=forbidden,
                match=match if settings.kind == "random" else None,
            )
        phases = ", ".join(f"{n} {phase}" for phase, n in report.phases.items())
        print(
            f"select {kind}: {report.count} of {report.memory_turns} memory turns ({phases}) from "
            f"{report.episodes_used} of {report.traces} episodes"
        )
        return Path(report.examples)

    def _measure(self, episodes: Sequence[Any], settings: SelectionConfig, template: Template):
        """Branches episodes and asks the judge, as far as the signals' weights and budgets say."""
        from automem_jax.evaluation.attribution import measure_decisions
        from automem_jax.policies.api import make_endpoint

        folder = self.workdir / "select" / "measured"
        return measure_decisions(
            episodes,
            settings,
            folder,
            branch=lambda points, how: self.runner.branch(template, points, how, folder),
            make_judge=lambda: self.runner.hold("judge", make_endpoint(settings.judge.api)),
        )

    def train(self, kind: str) -> Path:
        """Loop 2: the adapter trained on select/<kind> goes to train/<kind>/adapter.safetensors.

        Raises:
          ConfigError: nothing was selected yet.
        """
        from automem_jax.training.loop import train

        examples = self.workdir / "select" / kind / "examples.jsonl"
        if not examples.exists():
            raise ConfigError(
                f"{examples} does not exist; run `automem select --kind={kind}` with this --workdir first"
            )
        if self.config.training.objective == "dpo":
            examples = self._pairs(examples)
        title = "control" if kind == "random" else "specialist"
        with self._stage(f"train {kind}"), self._steps_shown(f"train {title}") as report:
            result = train(
                self.config.training,
                self.runner.model,
                self.runner.tokenizer,
                examples,
                self.workdir / "train" / kind,
                progress=report,
            )
        print(
            f"train {kind}: {result.items} items, {result.steps} steps, last loss "
            f"{result.final_loss:.4f}; base {result.base_hash[:16]} unchanged"
        )
        return result.adapter

    @contextlib.contextmanager
    def _steps_shown(self, title: str) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
        """What training reports to: a bar, begun with the first step."""
        bar = None

        def report(step: int, total: int, figures: dict[str, float]) -> None:
            nonlocal bar
            if bar is None or step == 1:
                stack.close()
                bar = stack.enter_context(self.board.task(title, total, "steps", done=step - 1))
            shown = {"loss": figures["loss"], "tokens/s": figures["tokens_per_s"]}
            bar.update(step, shown, figures)

        with contextlib.ExitStack() as stack:
            yield report

    def _pairs(self, examples: Path) -> Path:
        """Pairs of what was kept against what was dropped, from the traces that were selected from."""
        from automem_jax.recipes.preferences import write_pairs

        template = self.template("best" if self._evolved().exists() else "")
        folder = self.workdir / "traces" / "collect" / template.id
        names = [f"{self.config.env.task}-{seed}.jsonl" for seed in self.seeds["collect"]]
        pairs = examples.with_name("pairs.jsonl")
        count = write_pairs(examples, [folder / n for n in names if (folder / n).exists()], pairs)
        print(f"{count} pairs of kept and dropped decisions at the same prompt: {pairs}")
        return pairs

    def recipes(self, given: Sequence[Any] | None = None) -> None:
        """Loop 2's outer search; the best adapter goes to train/recipe.

        Args:
          given: recipes as data, in place of proposed ones.

        Raises:
          ConfigError: nothing was collected yet, the policy cannot load adapters, or a given recipe may
            not be tried.
        """
        from automem_jax.recipes.architect import ApiProposer
        from automem_jax.recipes.constraints import check_recipe
        from automem_jax.recipes.proposers import GivenProposer, LocalProposer
        from automem_jax.recipes.recipe import recipe_from_data
        from automem_jax.recipes.search import search
        from automem_jax.recipes.workshop import OwnWorkshop

        self._needs_memory("recipes")
        self._needs_local("recipes")
        for data in given or ():
            check_recipe(recipe_from_data(data, self.config), self.config)
        if given:
            proposer = GivenProposer(given)
        elif self.config.recipes.kind == "api":
            proposer = ApiProposer(self.config.recipes)
        else:
            proposer = LocalProposer()
        template = self.template("best" if self._evolved().exists() else "")
        with self._stage("recipes"), self._steps_shown("recipe") as report:
            workshop = OwnWorkshop(
                self.config,
                self.workdir,
                self.runner,
                template,
                report,
                functools.partial(self._select_measured, template),
            )
            best = search(self.config, self.workdir, workshop, proposer)
        if best.adapter is not None:
            target = self.workdir / "train" / RECIPE / best.adapter.name
            write_atomically(target, best.adapter.read_bytes())
        scores = best.played.progression
        mean = sum(scores.values()) / max(1, len(scores))
        print(f"recipes: best is {best.name}, {100 * mean:.1f} % on the gate seeds")

    def online(self) -> None:
        """Online rounds from selection.kind's specialist on; the last adapter kept: train/online."""
        from automem_jax.recipes.online import run_rounds

        self._needs_memory("online")
        self._needs_local("online")
        if not self.config.online.rounds:
            raise ConfigError("config.online.rounds: 0 asks for no round; set it to 1 or more")
        template = self.template("best" if self._evolved().exists() else "")
        kind = self.config.selection.kind
        first = self.adapter("lineage" if kind == "random" else kind)
        choose = functools.partial(self._select_measured, template)
        with self._stage("online"), self._steps_shown("train online") as report:
            rounds, best = run_rounds(
                self.config, self.workdir, self.runner, template, first, choose, report
            )
        write_atomically(self.workdir / "train" / ONLINE / best.name, best.read_bytes())
        for done in rounds:
            if not done.examples:
                print(f"online round {done.number}: nothing to train on: {done.reason}")
                continue
            print(
                f"online round {done.number}: {done.examples} examples, {done.steps} steps, loss "
                f"{done.loss:.4f}, KL to the base {done.kl:.3f} nats a token; "
                + ("kept" if done.kept else f"dropped: {done.reason}")
            )

    def _select_measured(
        self,
        template: Template,
        paths: Sequence[Path],
        settings: SelectionConfig,
        out_dir: Path,
        **more,
    ):
        """selection.select, with what the signals' weights ask to be measured first."""
        from automem_jax.selection.examples import scan_signals, select

        if settings.kind == "signals" and {"counterfactual", "judge"} & _weighed(settings):
            forbidden = more.get("forbidden_seeds", ())
            episodes = scan_signals(paths, settings, forbidden_seeds=forbidden)
            measured = self._measure(episodes, settings, template)
            more |= {
                "episodes": episodes,
                "counterfactual": measured.counterfactual,
                "ratings": measured.ratings,
            }
        return select(paths, settings, out_dir, **more)

    def _needs_local(self, stage: str) -> None:
        """Raises ConfigError where a server would have to load the adapters that are trained here."""
        if self.config.policy.kind != "local":
            raise ConfigError(
                f"config.policy.kind: {stage} plays adapters as it trains them and needs 'local', got "
                f"{self.config.policy.kind!r}"
            )

    def attribute(self, alone: bool = False) -> Path:
        """Trains every variant of the selection, evaluates all of them, and writes attribution.json beside
        results.json: what each signal is worth, the specialists' actions, the base's logits.

        Args:
          alone: also by each signal alone.
        """
        from automem_jax.models.lora import load_adapter, with_adapters
        from automem_jax.recipes import attribution

        self._needs_memory("attribute")
        self._needs_local("attribute")
        kinds = attribution.variants(self.config.selection, alone)
        hashes = [attribution.base_logits_hash(self.runner.model)]
        first: dict[str, str] = {}  # what is taught -> the selection that was trained on
        same: dict[str, str] = {}
        for kind in kinds:
            examples = self.select(kind)
            if self.config.training.objective == "sft":
                other = first.setdefault(attribution.taught_hash(examples), kind)
                if other != kind:
                    print(f"{kind} selects what {other} does: it is the same specialist")
                    same[kind] = other
                    continue
            self.train(kind)
        trained = {
            {"lineage": "specialist_best", "random": "control_best"}.get(
                kind, f"{_TRAINED_ON}{kind}"
            ): kind
            for kind in kinds
            if kind not in same
        }
        results = self.evaluate(("base_v0", "base_best", *trained))
        hashes.append(attribution.base_logits_hash(self.runner.model))
        emissions = {}
        for arm, kind in trained.items():
            emissions[arm] = attribution.action_emission(self.workdir / "traces" / "evaluate" / arm)
            specialist = with_adapters(self.runner.model, [load_adapter(self.adapter(kind))])
            hashes.append(attribution.base_logits_hash(specialist, adapter_ids=0))
        found = attribution.findings(results, emissions, hashes, same)
        path = self.workdir / "attribution.json"
        write_json(path, found)
        for arm, counts in emissions.items():
            print(
                f"{arm}: wrote an action in {counts.emitted} of {counts.turns} memory turns, "
                f"{counts.committed} of them were taken"
            )
        print(
            f"base logits identical with and without adapters: {found['base_logits']['identical']}"
        )
        return path

    def evaluate(self, arms: Sequence[str] = ()) -> dict[str, Any]:
        """Plays every arm on the held-out seeds, writes results.json and prints the table.

        Args:
          arms: in place of evaluation.arms.
        """
        from automem_jax.evaluation.evaluate import Arm, evaluate, print_table

        settings = self.config.evaluation
        own = self.config.agent.kind
        baselines = settings.baselines if own == "memory" else (own, *settings.baselines)
        named = arms or settings.arms
        arms = [self._arm(name) for name in named] if own == "memory" else []
        arms += [Arm(kind, self.template(""), None, kind) for kind in dict.fromkeys(baselines)]
        names = [arm.name for arm in arms]
        comparisons = [pair for pair in COMPARISONS if all(name in names for name in pair)]
        comparisons += [
            pair
            for name in names
            if name.startswith(_TRAINED_ON)
            for pair in (
                (name, "base_best"),
                (name, "control_best"),
                (name, f"{_TRAINED_ON}signals"),
            )
            if pair[1] in names and pair[1] != name
        ]

        def run_arm(arm: Arm, seeds: Sequence[int], out_dir: Path) -> None:
            result = self.runner.run(
                arm.name, arm.template, seeds, out_dir, adapter=arm.adapter_path, kind=arm.kind
            )
            self._track_episode(f"evaluate/{arm.name}", result)

        with self._stage("evaluate"):
            results = evaluate(
                self.config, arms, run_arm, self.workdir, comparisons=comparisons or None
            )
        self._record_heldout([arm.template.id for arm in arms])
        print_table(results)
        self._print_headline(results)
        return results

    def _record_heldout(self, templates: list[str]) -> None:
        """Counts the look at the held-out seeds in loop 1's ledger; the same arms are one look."""
        from automem_jax.architect.ledger import Ledger

        path = self.workdir / "evolve" / "ledger.jsonl"
        if not path.exists():
            return
        ledger = Ledger(path)
        looks = [row for row in ledger.rows if row["type"] == "heldout"]
        if any(row["templates"] == templates for row in looks):
            return
        seeds = self.seeds["heldout"]
        ledger.append({"type": "heldout", "templates": templates, "seeds": seeds})
        if looks:
            print(
                f"warning: the held-out seeds were scored {len(looks)} times before with other arms; "
                "a choice made on those figures is not held out any more"
            )

    def _print_headline(self, results: dict[str, Any]) -> None:
        """What improved, in one line, and that the base did not change."""
        for difference in results["paired_differences"]:
            arm, baseline, interval = (difference[k] for k in ("arm", "baseline", "interval"))
            if (arm, baseline) == ("specialist_best", "base_v0") and interval is not None:
                before, after = (100 * results["arms"][name]["mean"] for name in (baseline, arm))
                low, high = (100 * bound for bound in interval)
                print(
                    f"progression {before:.1f} % -> {after:.1f} % with only memory changed: "
                    f"{after - before:+.1f} points, {100 * results['confidence']:g} % interval "
                    f"[{low:+.1f}, {high:+.1f}], {difference['n']} held-out episodes"
                )
        print(f"base weights, before and after: {results['base_hash']}")

    def _arm(self, name: str):
        from automem_jax.evaluation.evaluate import Arm

        template, adapter = _ARMS.get(name, ("best", name.removeprefix(_TRAINED_ON)))
        if name not in _ARMS and not name.startswith(_TRAINED_ON):
            raise ConfigError(f"config.evaluation.arms: {unknown_key(name, _ARMS)}")
        return Arm(name, self.template(template), self.adapter(adapter))

    def _needs_memory(self, stage: str) -> None:
        """Raises ConfigError where the config's own agent has no memory to improve or compare."""
        if self.config.agent.kind != "memory":
            raise ConfigError(
                f"config.agent.kind: {stage} needs 'memory', got {self.config.agent.kind!r}; a baseline "
                "is played by `automem rollout` and `automem evaluate`, beside memory where "
                "evaluation.baselines names it"
            )

    def _evolved(self) -> Path:
        return self.workdir / "evolve" / "best.json"

    def report(self) -> Path:
        """Writes report.html."""
        from automem_jax.report import write_report

        path = write_report(self.workdir)
        print(f"report: {path}")
        return path

    def template(self, name: str) -> Template:
        """The config's template for "", loop 1's result for "best", else that name or path.

        Raises:
          ConfigError: "best" is asked for and loop 1 has not finished here, or the template is
            not valid.
        """
        if name == "best":
            path = self._evolved()
            if not path.exists():
                raise ConfigError(
                    f"{path} does not exist; run `automem evolve` with this --workdir first"
                )
            name = str(path)
        template = load_template(name or self.config.agent.template)
        check(template)
        return template

    def adapter(self, name: str) -> Path | None:
        """The adapter file of train/<name>, or a path; None for "" and BASE_ALONE.

        A server holds its adapter itself: SERVED stands for policy.adapter_model.

        Raises:
          ConfigError: there is no such file, or the server's adapter has no name.
        """
        if name in ("", BASE_ALONE):
            return None
        if self.config.policy.kind != "local":
            if name in ("lineage", str(SERVED)) and self.config.policy.adapter_model:
                return SERVED
            raise ConfigError(
                f"adapter {name!r}: policy.kind {self.config.policy.kind!r} serves its own; name it in "
                "policy.adapter_model, and leave control_best out of evaluation.arms"
            )
        trained = self.workdir / "train" / name / "adapter.safetensors"
        path = trained if trained.parent.is_dir() else Path(name)
        if not path.is_file():
            raise ConfigError(f"adapter {str(path)!r} does not exist; run `automem train` first")
        return path

    def _record_usage(self, stage: str) -> None:
        """Adds what a server was asked to usage.json, by stage and model, and tells it in a line."""
        path = self.workdir / "usage.json"
        stages = json.loads(path.read_text())["stages"] if path.exists() else {}
        before = stages.setdefault(stage, {})
        taken = self.runner.take_usage()
        for model, usage in taken.items():
            total = ModelUsage(**before.get(model, {}))
            total.add(usage)
            before[model] = dataclasses.asdict(total)
            money = "" if usage.cost_usd is None else f", {usage.cost_usd:.4f} USD"
            print(
                f"{stage}: {model}: {usage.calls:,} calls ({usage.retries:,} retries, {usage.failed:,} "
                f"failed), {usage.prompt_tokens:,} prompt tokens ({usage.cached_tokens:,} cached), "
                f"{usage.completion_tokens:,} generated{money}"
            )
        if taken:
            costs = [m["cost_usd"] for models in stages.values() for m in models.values()]
            known = [cost for cost in costs if cost is not None]
            write_json(path, {"cost_usd": sum(known) if known else None, "stages": stages})

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Adds the stage's seconds to timing.json and what a server was asked to usage.json, also when it
        is interrupted."""
        print(f"== {name}", flush=True)
        started = time.monotonic()
        try:
            with self.board.stage(name):
                yield
        finally:
            path = self.workdir / "timing.json"
            stages = json.loads(path.read_text())["stages"] if path.exists() else {}
            stages[name] = round(stages.get(name, 0.0) + time.monotonic() - started, 2)
            write_json(path, {"stages": stages})
            self._record_usage(name)


def _weighed(settings: SelectionConfig) -> set[str]:
    """Signals with a weight."""
    return {name for name, weight in dataclasses.asdict(settings.weights).items() if weight > 0}


def _is_first_process() -> bool:
    """Whether this is the process that writes, of a run that may have several."""
    distributed = sys.modules.get(
        "automem_jax.distributed"
    )  # where there are several, it was started
    return distributed is None or distributed.is_first()


def _peak_memory_gib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
