"""Preflight: names, meshes, formulas, the reading of HLO, kept answers; real compilers where installed."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from models.test_lora import random_adapter
from sampling.letters import LetterTokenizer

from automem_jax.cli.preflight import parse_mesh
from automem_jax.config import ConfigError, ExperimentConfig, LoraConfig, MeshConfig, TrainingConfig
from automem_jax.models.config import DecoderConfig
from automem_jax.preflight import check, engine_programs, hardware, programs, report
from automem_jax.preflight.compile import Compiler, environment
from automem_jax.preflight.hlo import collectives
from automem_jax.sampling.programs import Weights
from automem_jax.sharding import make_mesh

TINY = DecoderConfig(96, 64, 3, 4, 2, 16, 128)
TRAINING = TrainingConfig(
    lora=LoraConfig(rank=4, alpha=8.0), row_tokens=64, batch_rows=2, microbatch_rows=1
)


@pytest.mark.parametrize(
    ("name", "count", "shape"),
    [
        ("v6e:2x4", 8, (2, 4)),
        ("v5p:2x2x1", 4, (2, 2, 1)),
        ("tpu7x:2x2x1", 8, (2, 2, 1)),
        ("cuda:h100x8", 8, (1, 8)),
        ("cuda:H100", 1, (1, 1)),
        ("cuda:h200x16", 16, (2, 8)),
    ],
)
def test_topologies_are_parsed(name, count, shape):
    topology = hardware.parse(name)
    assert (topology.device_count, topology.shape) == (count, shape)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v6:2x4", "write e.g. v6e:2x4"),
        ("v6e:8", "by chips along 2 axes"),
        ("v5p:2x2", "by chips along 3 axes"),
        ("v5p-8", "not known"),
        ("cuda:h10x8", "did you mean 'h100'"),
        ("cuda:h100x12", "hosts of 8"),
        ("cuda:h100x0", "GPUs are written"),
    ],
)
def test_a_wrong_topology_says_how_it_is_written(name, words):
    with pytest.raises(hardware.TopologyError, match=words):
        hardware.parse(name)


def test_listed_slices_come_cheapest_first():
    found = hardware.listed()
    assert [t.price for t in found] == sorted(t.price for t in found)
    only = hardware.listed(hardware.parse("cuda:h100x8"))
    assert [t.device_count for t in only] == [1, 2, 4, 8, 16, 32, 64]


def test_memory_of_gpus_is_compared_by_ourselves():
    device = hardware.parse("cuda:h100x1").device
    assert 72 < device.usable_bytes / hardware.GIB < 74
    assert f"device_memory_size: {device.memory_bytes}" in device.target


def test_mesh_follows_the_config_where_it_suits_the_devices():
    config = dataclasses.replace(TRAINING, mesh=MeshConfig(tensor=8), batch_rows=32)
    for name, sizes, rows in (
        ("v6e:2x4", (1, 1, 8, 1), 1),
        ("v6e:4x4", (1, 2, 8, 1), 2),
        ("v6e:2x2", (1, 1, 4, 1), 1),
        ("v5p:2x2x1", (1, 4, 1, 1), 4),
    ):
        fitted, found = check.fitted_training(config, hardware.parse(name))
        assert (tuple(found.values()), fitted.microbatch_rows) == (sizes, rows), name
    with pytest.raises(ConfigError, match="needs 6 devices, v6e:2x4 has 8"):
        check.fitted_training(config, hardware.parse("v6e:2x4"), MeshConfig(fsdp=2, tensor=3))
    with pytest.raises(ConfigError, match="cannot be shared evenly"):
        check.fitted_training(TRAINING, hardware.parse("v5p:2x2x1"), MeshConfig(fsdp=4))


def test_mesh_flag():
    assert parse_mesh("fsdp=2,tensor=4") == MeshConfig(fsdp=2, tensor=4)
    assert parse_mesh("") is None
    for text, words in (
        ("tensr=2", "'tensor'"),
        ("tensor=x", "AXIS=SIZE"),
        ("fsdp=0", "AXIS=SIZE"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_mesh(text)


def test_shapes_come_from_config_json_or_a_known_name(tmp_path):
    assert check.model_shape("anywhere/Qwen2.5-32B-Instruct").num_layers == 64
    assert check.model_shape("smollm2-135m").parameter_count() == 134_515_008
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_hf()))
    assert check.model_shape(str(tmp_path)) == TINY
    with pytest.raises(ConfigError, match="no config.json"):
        check.model_shape("checkpoints/other")


def test_flop_and_adapter_formulas():
    training = TrainingConfig(lora=LoraConfig(rank=256, targets="all_linear"))
    shape = check.model_shape("Qwen2.5-32B")
    adapters = check.adapter_parameters(shape, training)
    assert adapters == 64 * 256 * 131_072
    found = check.flop_a_token(shape, 0, 1, 0)
    weights = shape.parameter_count() - 2 * shape.vocab_size * shape.d_model
    assert found["train"] == pytest.approx(4 * weights, rel=1e-3)
    assert found["decode"] == pytest.approx(2 * weights + 2 * 5120 * 152_064, rel=1e-3)


HLO = """
HloModule jit_step

%inner (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %ag.1 = (f32[4]{0}, f32[32]{0}) all-gather-start(%p), dimensions={0}
  ROOT %agd = f32[32]{0} all-gather-done(%ag.1)
}

%cond (t: (s32[], f32[4])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %rs = bf16[16,2]{1,0} reduce-scatter(%x), to_apply=%add
  ROOT %w = (s32[]) while(%t), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (a: f32[4]) -> f32[] {
  %loop = (s32[], /*index=1*/f32[4]{0}) while(%t), condition=%cond, body=%body
  %sum = (f32[8]{0}, f32[2]{0}) all-reduce(%a, %b), to_apply=%add
  ROOT %cp = (bf16[2,3]{1,0}, bf16[2,3]{1,0}, u32[], u32[]) collective-permute-start(%a)
}
"""


def test_collectives_count_loops_as_often_as_they_turn():
    found = collectives(HLO)
    assert found.counts == {
        "reduce-scatter": 5,
        "all-gather": 15,
        "all-reduce": 1,
        "collective-permute": 1,
    }
    assert found.bytes == {
        "reduce-scatter": 5 * 64,
        "all-gather": 15 * 128,
        "all-reduce": 40,
        "collective-permute": 12,
    }
    assert found.loops_unknown == 0


def test_collectives_of_a_real_program():
    """Eight fake devices, a loop of seven turns with one sum in each."""
    code = """
import os; os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import numpy as np
from automem_jax.preflight.hlo import collectives
mesh = Mesh(np.array(jax.devices()), ("x",))
split, whole = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
def turn(c, _):
    c = jax.lax.with_sharding_constraint(jnp.sin(c), whole)
    return jax.lax.with_sharding_constraint(c * 2, split), None
f = jax.jit(lambda x: jax.lax.scan(turn, x, None, length=7)[0], in_shardings=split)
found = collectives(f.lower(jax.ShapeDtypeStruct((64, 16), jnp.float32)).compile().as_text())
print(dict(found.counts), dict(found.bytes))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "{'all-gather': 7} {'all-gather': 28672}"


@pytest.fixture(scope="module")
def lowered():
    mesh = make_mesh({"fsdp": 1}, jax.devices()[:1])
    model = programs.abstract_model(TINY, TRAINING, mesh, dtype="float32")
    return (
        mesh,
        model,
        programs.lower_training(model, TRAINING, mesh, labels=16, nested=False),
        [
            engine_programs.lower_engine(model, mesh, program=program, slots=2, context=32)
            for program in ("prefill", "decode")
        ],
    )


def test_arguments_are_those_of_the_model(lowered):
    _, _, train, (prefill, decode) = lowered
    adapters = 4 * check.adapter_parameters(TINY, TRAINING)
    assert train.arguments["base weights"] == 4 * TINY.parameter_count()
    assert train.arguments["adapters"] == adapters
    assert 0 <= train.arguments["optimizer"] - 2 * adapters < 64
    contexts = 2 + 1  # slots, and one for prefixes; beside them the block that nobody owns
    cache = 2 * TINY.num_layers * TINY.num_kv_heads * TINY.head_dim * 4 * 32 * (contexts + 1)
    for program in (prefill, decode):
        assert program.arguments["KV cache"] == cache
        assert program.arguments["base weights"] == 4 * TINY.parameter_count()


def test_the_lowered_engine_programs_are_the_engines_own(lowered):
    """An engine of that size calls the compiled ones and answers as it does by itself."""
    from flax import nnx

    from automem_jax.models.decoder import Decoder
    from automem_jax.sampling.engine import Engine
    from automem_jax.sampling.requests import GenerationRequest
    from automem_jax.text.messages import SamplingSettings

    mesh, model, _, programs_of_engine = lowered
    base = Decoder(TINY, rngs=nnx.Rngs(params=0))
    tokenizer = LetterTokenizer()

    def made():
        sizes = {"slots": 2, "max_context": 32, "mesh": mesh, "joined": True}
        adapter = random_adapter(base, 1, rank=4)
        return Engine(base, tokenizer, **sizes, adapters={"a": adapter})

    request = GenerationRequest(0, list(range(5, 20)), SamplingSettings(max_tokens=8), adapter="a")
    expected = made().generate([request])
    engine = made()
    compiled = [lowered.program.compile() for lowered in programs_of_engine]

    def run(kind, shape, chosen, cache, given):
        weights = Weights(engine._weights.state, None, engine._bank.layers)
        if kind == "decode":
            allowed = np.ones((2, TINY.vocab_size), bool)
            given = dataclasses.replace(given, allowed=allowed)
        place = NamedSharding(mesh, PartitionSpec())
        return compiled[kind == "decode"](weights, cache, jax.device_put(given, place))

    engine._run = run
    assert engine.generate([request])[0].token_ids == expected[0].token_ids


def test_the_lowered_step_is_the_training_loops_own(lowered):
    """It runs on real arrays of a real model and lowers the loss."""
    from flax import nnx

    from automem_jax.models.decoder import Decoder
    from automem_jax.models.lora import add_adapters
    from automem_jax.training.optimizer import make_optimizer
    from automem_jax.training.step import initial_state, partition

    mesh, _, train, _ = lowered
    model = Decoder(TINY, rngs=nnx.Rngs(params=0))
    add_adapters(model, 1, 4, 8.0, "all_linear", nnx.Rngs(params=1))
    parts = partition(model)
    state = initial_state(parts, make_optimizer(TRAINING, 1000), 0, mesh=None)
    tokens = np.tile(np.arange(64, dtype=np.int32) % 90, (2, 1))
    batch = {"tokens": tokens, "positions": tokens * 0 + np.arange(64, dtype=np.int32)}
    batch |= {"segment_ids": np.ones_like(tokens), "predict_at": tokens[:, :16]}
    batch |= {"labels": tokens[:, 1:17], "label_weights": np.ones((2, 16), np.float32)}
    place = NamedSharding(mesh, PartitionSpec())
    compiled = train.program.compile()
    losses = []
    for _ in range(3):
        arguments = jax.device_put((state, parts.trained, parts.frozen, batch), place)
        state, figures = compiled(*arguments)
        losses.append(float(figures["loss"]))
    assert losses[2] < losses[0] and int(state.step) == 3


def test_quantised_weights_count_as_they_lie():
    mesh = make_mesh({"fsdp": 1}, jax.devices()[:1])
    small = dataclasses.replace(TRAINING, lora=LoraConfig(rank=2))
    model = programs.abstract_model(TINY, small, mesh, dtype="bfloat16", quantization="nf4")
    held = programs.device_bytes(programs.partition(model).frozen)
    projections = 3 * sum(i * o for i, o in check.projections(TINY).values())
    rest = 2 * (TINY.parameter_count() - projections)
    assert held == rest + projections // 2 + 2 * projections // 64
    assert programs.device_bytes(jnp.ones((4, 3), jnp.float32)) == 48


def fake_compiler(tmp_path, monkeypatch, answer, **settings) -> tuple[Compiler, list]:
    compiler, asked = Compiler(cache=tmp_path, **settings), []
    monkeypatch.setattr(compiler, "versions", lambda: {"jax": "1"})
    monkeypatch.setattr(compiler, "require", lambda topology: None)

    def compile_it(request, show):
        asked.append(request)
        return answer(request)

    monkeypatch.setattr(compiler, "_compile", compile_it)
    return compiler, asked


def sized(peak_gib):
    """An answer whose peak is `peak_gib` on 8 devices."""

    def answer(request):
        count = np.prod(list(request["mesh"].values()))
        size = int(peak_gib * hardware.GIB * 8 / count)
        held = {"base weights": size // 2}
        return {"arguments": held, "peak_bytes": size, "refused": "", "compile_s": 1.0}

    return answer


def experiment() -> ExperimentConfig:
    config = ExperimentConfig()
    model = dataclasses.replace(config.model, source="Qwen2.5-32B", dtype="bfloat16")
    training = dataclasses.replace(TRAINING, batch_rows=32, row_tokens=16_384)
    return dataclasses.replace(config, model=model, training=training)


def test_answers_are_kept_by_what_was_asked(tmp_path, monkeypatch):
    compiler, asked = fake_compiler(tmp_path, monkeypatch, sized(20))
    topology = hardware.parse("v6e:2x4")
    first = check.check(experiment(), topology, compiler)
    again = check.check(experiment(), topology, compiler)
    assert len(asked) == 3 and first.fits and not first.programs[0].kept
    assert [p.kept for p in again.programs] == [True] * 3
    other = dataclasses.replace(experiment(), training=TrainingConfig(batch_rows=32))
    check.check(other, topology, compiler, names=("train",))
    assert len(asked) == 4
    fresh, asked = fake_compiler(tmp_path, monkeypatch, sized(20), fresh=True)
    check.check(experiment(), topology, fresh)
    assert len(asked) == 3


def test_find_walks_to_the_cheapest_slice_that_fits(tmp_path, monkeypatch):
    compiler, asked = fake_compiler(tmp_path, monkeypatch, sized(20))
    passed = []
    found = check.smallest(experiment(), hardware.parse("v6e:2x4"), compiler, passed=passed.append)
    assert found.topology.name == "v6e:2x4"
    assert [(one.topology.name, one.fits) for one in passed] == [
        ("v6e:2x2", False),
        ("v6e:2x4", True),
    ]
    assert check.likely(passed)[0].startswith("smallest listed slice of v6e that fits: v6e:2x4")


def test_the_report_says_by_how_much_it_fits_or_not(tmp_path, monkeypatch):
    for peak, words in ((20, "fits: train peaks at 20.00 of 31.25 GiB"), (40, "does not fit")):
        compiler, _ = fake_compiler(tmp_path / str(peak), monkeypatch, sized(peak))
        found = check.check(experiment(), hardware.parse("v6e:2x4"), compiler)
        text = report.text(found)
        assert words in text and "mesh tensor 8" in text
        facts = json.loads(json.dumps(found.to_json()))
        program = facts["programs"]["train"]
        assert sum(program["memory"].values()) == program["peak_bytes"]
        assert facts["fits"] == (peak == 20)


def test_a_missing_compiler_names_the_pip_command(tmp_path, monkeypatch):
    compiler = Compiler(cache=tmp_path)
    monkeypatch.setattr(compiler, "versions", lambda: {})
    with pytest.raises(hardware.MissingCompiler, match=r"pip install 'jax\[tpu\]'"):
        compiler.require(hardware.parse("v6e:2x4"))
    with pytest.raises(hardware.MissingCompiler, match=r"pip install 'jax\[cuda12\]'"):
        compiler.require(hardware.parse("cuda:h100x8"))
    with pytest.raises(hardware.MissingCompiler, match="does not run"):
        Compiler(python=str(tmp_path / "none")).require(hardware.parse("v6e:2x4"))


def test_the_worker_leaves_the_accelerator_alone(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    found = environment()
    assert found["JAX_PLATFORMS"] == "cpu" and found["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    assert "TPU_WORKER_HOSTNAMES" not in found


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
def test_libtpu_compiles_all_programs(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_hf()))
    config = experiment()
    model = dataclasses.replace(config.model, source=str(tmp_path), slots=8, max_context=128)
    training = dataclasses.replace(TRAINING, batch_rows=8, row_tokens=128)
    config = dataclasses.replace(config, model=model, training=training)
    found = check.check(config, hardware.parse("v5e:2x2"), Compiler(cache=tmp_path))
    assert found.fits and all(program.peak_bytes > 0 for program in found.programs)
