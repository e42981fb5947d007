import dataclasses

import pytest

from automem_jax import config as config_lib
from automem_jax.config import ConfigError, ExperimentConfig, default_config, from_config_dict


def test_defaults_make_the_default_dataclass():
    assert from_config_dict(default_config()) == ExperimentConfig()


def test_an_override_reaches_its_field_and_nothing_else():
    source = default_config()
    source.training.lora.rank = 3
    built = from_config_dict(source)
    assert built.training.lora.rank == 3
    assert (
        dataclasses.replace(
            built,
            training=dataclasses.replace(built.training, lora=ExperimentConfig().training.lora),
        )
        == ExperimentConfig()
    )


def test_an_unknown_key_names_place_and_nearest_match():
    with pytest.raises(
        ConfigError, match=r"config\.training\.epoch: unknown key 'epoch'.*'epochs'"
    ):
        from_config_dict({"training": {"epoch": 3}})


@pytest.mark.parametrize(
    "source, message",
    [
        ({"seed": "3"}, r"config\.seed: expected int, got '3'"),
        ({"seed": True}, r"config\.seed: expected int, got True"),
        ({"training": 3}, r"config\.training: expected a mapping"),
        ({"evaluation": {"arms": "base_v0"}}, r"config\.evaluation\.arms: expected a list"),
        ({"evaluation": {"arms": [1]}}, r"config\.evaluation\.arms\[0\]: expected str"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(source, message):
    with pytest.raises(ConfigError, match=message):
        from_config_dict(source)


def test_a_list_may_come_as_one_text_as_flags_give_it():
    source = default_config()
    source.evaluation.arms = ("base_v0,control_best",)
    assert from_config_dict(source).evaluation.arms == ("base_v0", "control_best")


def test_an_int_is_a_float_where_a_float_is_wanted():
    assert from_config_dict({"sampling": {"temperature": 0}}).sampling.temperature == 0.0


def test_the_hash_sees_every_field():
    assert config_lib.config_hash(ExperimentConfig()) != config_lib.config_hash(
        ExperimentConfig(seed=1)
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": {"gate_start": 150}}, "gate and heldout share seeds 150..169"),
        ({"seeds": {"gate": 0}}, r"seeds\.gate: needs at least one seed"),
        ({"env": {"slots": 0}}, r"env\.slots: must be at least 1, got 0"),
        ({"env": {"name": "nethack"}}, r"env\.task: 'MiniHack-.*'NetHackChallenge'"),
        ({"policy": {"kind": "locale"}}, r"policy\.kind: 'locale' is none of local"),
        ({"training": {"loss": "all"}}, r"training\.loss: 'all' is none of last_turn"),
        ({"sampling": {"top_p": 0.0}}, "top_p 0.0"),
        ({"training": {"schedule": "cosin"}}, r"training\.schedule: 'cosin' is none of cosine"),
        ({"training": {"lora": {"dropout": 1.0}}}, r"lora\.dropout: must be in \[0, 1\)"),
        ({"training": {"patience": 2}}, "patience: 2 needs held-out items"),
        ({"training": {"microbatch_rows": 3}}, "batch_rows: 4 is not a multiple of .* 3"),
        (
            {"training": {"packing": "first_fit", "share_prefix": 8}},
            "share_prefix: needs training.packing 'best_fit'",
        ),
        ({"training": {"mesh": {"tensor": 0}}}, r"training\.mesh\.tensor: must be at least 1"),
    ],
)
def test_contradictions_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        config_lib.check(from_config_dict(changes))
