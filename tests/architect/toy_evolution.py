"""A small world for loop 1: what an episode does follows from the template and the seed alone."""

from toy_traces import insert, op, step, turn, write_episode

from automem_jax.agent.template import load_template
from automem_jax.config import ArchitectConfig, ExperimentConfig, SeedsConfig

TEMPLATE = load_template("memento_v0")


def make_config(**architect):
    fields = {"revisions": 1, "attempts": 3, "bootstrap_samples": 200} | architect
    return ExperimentConfig(
        seeds=SeedsConfig(
            search_start=100,
            search=4,
            gate_start=200,
            gate=24,
            collect_start=300,
            collect=4,
            heldout_start=400,
            heldout=4,
        ),
        architect=ArchitectConfig(**fields),
    )


def shows_notes(template):
    return any(template.slots[name].file == "notes" for name in template.phases.plan.slots)


def run_template(template, seeds, out_dir):
    """Notes are written in every episode and read in none; seeing them wins, else half are won."""
    paths = []
    for seed in seeds:
        path = out_dir / f"Toy-v0-{seed}.jsonl"
        if not path.exists():
            won = float(shows_notes(template) or seed % 2)
            path = noting_episode(out_dir, seed, won, template)
        paths.append(path)
    return paths


def noting_episode(out_dir, seed, progression, template=TEMPLATE, repeats=1):
    write = op("APPEND", "notes", wrote=[0])
    again = [op("APPEND", "notes", redundant=True)] * repeats
    notes = [{"op": "create", "file": "notes"}, insert("notes", (0, "a lichen"))]
    steps = [
        step("You see a lichen."),
        step("hall", log=[turn(write, *again, done=True)], memory=notes),
        step("fork"),
    ]
    named = {"id": template.id, "hash": "h"}
    return write_episode(out_dir, seed, steps, progression=progression, template=named)
