"""Settings: defaults, ranges, types, unknown keys."""

import dataclasses
import math
from typing import Any, Literal, Optional

import numpy as np
import pytest

from rlox import Trainer
from rlox.algorithms import ALGORITHMS
from rlox.algorithms.awr import AWRConfig
from rlox.core.config import Config, make_config, setting, silenced
from rlox.errors import ConfigError


def make(**settings: Any) -> AWRConfig:
    return make_config(AWRConfig, "awr", settings)


def test_defaults_are_the_specifications():
    config = make()
    assert (config.beta, config.learning_rate, config.gamma) == (1.0, 3e-4, 0.99)
    assert (config.batch_size, config.buffer_size, config.hidden) == (256, 100_000, 256)
    assert (config.learning_starts, config.n_critic_updates, config.max_advantage) == (1000, 1, 20.0)


def test_remedies_that_the_specification_does_not_have_are_off_by_default():
    config = make()
    assert (config.tau, config.expectile, config.entropy_coef) == (1.0, 0.5, 0.0)
    assert (config.normalize_advantage, config.layer_norm, config.max_grad_norm) == (False, False, None)
    assert (config.updates_per_step, config.n_envs) == (1, 1)
    assert (config.rollout_steps, config.td_lambda, config.optimizer) == (None, 0.0, "adam")
    assert (config.normalize_obs, config.value_scale, config.learn_std) == (False, 1.0, True)
    assert (config.bound_coef, config.logit_coef) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("settings", "way_out"),
    [
        ({"td_lambda": 0.95}, "rollout_steps=2048"),
        ({"n_actor_updates": 10}, "rollout_steps=2048"),
        ({"rollout_steps": 2048, "buffer_size": 1000}, "buffer_size"),
        ({"rollout_steps": 2048, "tau": 0.5}, "leave tau at 1"),
        ({"rollout_steps": 2048, "updates_per_step": 2}, "leave updates_per_step at 1"),
        ({"optimizer": "adm"}, "'adam' or 'sgd'"),
        ({"network_init": 3}, "'he' or 'glorot'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_a_way_out(settings: dict[str, Any], way_out: str):
    with pytest.raises(ConfigError, match=way_out) as error:
        make(**settings)
    assert "\n" not in str(error.value)


OUT_OF_RANGE = [
    ("learning_rate", 0, "greater than 0"),
    ("gamma", -0.01, "at least 0 and at most 1"),
    ("gamma", 1.01, "at least 0 and at most 1"),
    ("batch_size", 0, "at least 1"),
    ("buffer_size", 0, "at least 1"),
    ("hidden", 0, "at least 1"),
    ("hidden", (64, 0), "at least 1"),
    ("learning_starts", -1, "at least 0"),
    ("updates_per_step", 0, "at least 1"),
    ("critic_warmup_steps", -1, "at least 0"),
    ("n_envs", 0, "at least 1"),
    ("n_workers", -1, "at least 0"),
    ("publish_interval", 0, "at least 1"),
    ("max_staleness", 0, "at least 1"),
    ("entropy_coef", -0.1, "at least 0"),
    ("env_timeout", 0, "greater than 0"),
    ("max_grad_norm", 0, "greater than 0"),
    ("initial_std", 0, "greater than 0"),
    ("min_std", 0, "greater than 0"),
    ("max_std", 0, "greater than 0"),
    ("beta", 0, "greater than 0"),
    ("beta", -1, "greater than 0"),
    ("max_advantage", 0, "greater than 0"),
    ("n_critic_updates", 0, "at least 1"),
    ("tau", 0, "greater than 0 and at most 1"),
    ("tau", 1.5, "greater than 0 and at most 1"),
    ("expectile", 0, "greater than 0 and less than 1"),
    ("expectile", 1, "greater than 0 and less than 1"),
    ("actor_learning_rate", 0, "greater than 0"),
    ("critic_learning_rate", -1, "greater than 0"),
    ("momentum", 1, "at least 0 and less than 1"),
    ("actor_output_scale", 0, "greater than 0"),
    ("normalize_obs_until", 0, "at least 1"),
    ("value_scale", 0, "greater than 0"),
    ("bound_coef", -1, "at least 0"),
    ("logit_coef", -1, "at least 0"),
    ("rollout_steps", 0, "at least 1"),
    ("n_actor_updates", 0, "at least 1"),
    ("td_lambda", -0.1, "at least 0 and at most 1"),
    ("td_lambda", 1.1, "at least 0 and at most 1"),
    ("actor_decay_steps", 0, "at least 1"),
    ("data_ratio", 1.1, "at least 0 and at most 1"),
    ("data_ratio_decay", 0, "at least 1"),
    ("actor_tau", 0, "greater than 0 and at most 1"),
    ("train_freq", 0, "at least 1"),
]


@pytest.mark.parametrize(("name", "value", "rule"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_with_its_rule(name: str, value: Any, rule: str):
    with pytest.raises(ConfigError) as error:
        make(**{name: value})
    assert name in str(error.value)
    assert rule in str(error.value)
    assert "\n" not in str(error.value)


def test_every_setting_with_a_range_is_tested_out_of_range():
    ranged = {field.name for field in dataclasses.fields(AWRConfig) if field.metadata["bounds"]}
    assert ranged == {name for name, _, _ in OUT_OF_RANGE}


@pytest.mark.parametrize(
    ("name", "value"),
    [("gamma", 0), ("gamma", 1), ("tau", 1), ("learning_starts", 0), ("entropy_coef", 0), ("batch_size", 1)],
)
def test_a_value_on_an_inclusive_bound_is_accepted(name: str, value: float):
    assert getattr(make(**{name: value}), name) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["beta", "gamma", "max_advantage", "max_grad_norm", "entropy_coef"])
def test_a_number_that_is_not_finite_is_refused(name: str, number: float):
    with pytest.raises(ConfigError, match=name):
        make(**{name: number})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", "1.0"),
        ("beta", None),
        ("beta", True),
        ("beta", [1.0]),
        ("batch_size", 64.0),
        ("batch_size", "64"),
        ("batch_size", True),
        ("layer_norm", 1),
        ("layer_norm", "False"),
        ("hidden", "64"),
        ("hidden", (64, 32.5)),
        ("hidden", None),
        ("hidden", ()),
        ("max_grad_norm", "1"),
    ],
)
def test_a_wrong_type_is_named(name: str, value: Any):
    with pytest.raises(ConfigError, match=rf"{name}=.*has the wrong type|{name}.*must be|hidden=\(\) has no layers"):
        make(**{name: value})


def test_numbers_become_plain_python_ones():
    config = make(beta=2, gamma=np.float32(0.5), batch_size=np.int64(32), layer_norm=np.True_, hidden=[64, 32])
    assert (config.beta, config.gamma, config.batch_size) == (2.0, 0.5, 32)
    assert [type(x) for x in (config.beta, config.gamma, config.batch_size)] == [float, float, int]
    assert config.layer_norm is True
    assert config.hidden == (64, 32)


def test_none_lifts_the_limit_on_the_gradient():
    assert make(max_grad_norm=None).max_grad_norm is None


def test_a_batch_larger_than_the_replay_is_refused():
    with pytest.raises(ConfigError, match="batch_size=64 is larger than buffer_size=32"):
        make(batch_size=64, buffer_size=32)
    assert make(batch_size=32, buffer_size=32).buffer_size == 32


@pytest.mark.parametrize("initial_std", [0.05, 0.01])
def test_an_initial_std_at_or_below_its_floor_is_refused(initial_std: float):
    with pytest.raises(ConfigError, match=r"initial_std.*min_std=0\.05"):
        make(initial_std=initial_std)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("bata", "beta"), ("lr_rate", "learning_rate"), ("batchsize", "batch_size"), ("Gamma", "gamma")],
)
def test_an_unknown_setting_is_answered_with_the_nearest(wrong: str, right: str):
    with pytest.raises(ConfigError, match=f"'{wrong}' is not a setting of awr. Did you mean '{right}'?"):
        make(**{wrong: 1})


def test_a_setting_like_no_other_is_answered_with_all_of_them():
    with pytest.raises(ConfigError, match=r"'zzzzzz' is not a setting of awr\. Known: .*beta, .*gamma"):
        make(zzzzzz=1)


@pytest.mark.usefixtures("without_annotations")
def test_a_key_that_is_no_string_is_refused():
    with pytest.raises(ConfigError, match="'3' is not a setting of awr"):
        make_config(AWRConfig, "awr", {3: 1})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["seed", "env", "run_dir", "callbacks", "logger"])
def test_an_argument_of_the_trainer_is_sent_there(name: str):
    with pytest.raises(ConfigError, match=f"'{name}' is not a setting of awr: pass it to Trainer itself"):
        make(**{name: 1})


def test_the_trainer_refuses_a_wrong_setting_before_it_makes_the_environment():
    def never() -> Any:
        raise AssertionError("the environment was made")

    with pytest.raises(ConfigError, match="beta"):
        Trainer("awr", env=never, config={"beta": 0})


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().beta = 2.0  # pyright: ignore[reportAttributeAccessIssue]


def test_a_changed_copy_is_checked_like_a_new_one():
    assert dataclasses.replace(make(), beta=2).beta == 2.0
    with pytest.raises(ConfigError, match="beta"):
        dataclasses.replace(make(), beta=0)


def test_equal_settings_are_one_key_of_a_cache():
    assert len({make(beta=2), make(beta=np.float64(2)), make(hidden=[4]), make(hidden=(4,))}) == 2


def test_settings_are_taken_as_none_a_mapping_or_their_own_class():
    config = AWRConfig(beta=2)
    assert make_config(AWRConfig, "awr", None) == AWRConfig()
    assert make_config(AWRConfig, "awr", config) is config
    assert make_config(AWRConfig, "awr", {"beta": 2}) == config


@pytest.mark.parametrize("values", [Config(), "beta=2", [("beta", 2)], AWRConfig])
@pytest.mark.usefixtures("without_annotations")
def test_settings_of_another_class_are_refused(values: Any):
    with pytest.raises(ConfigError, match=rf"config is a {type(values).__name__}: awr takes a dict or AWRConfig"):
        make_config(AWRConfig, "awr", values)


@pytest.mark.parametrize(
    ("algorithm", "settings", "actions", "words"),
    [
        (
            "awr",
            {"train_freq": 2, "rollout_steps": 64},
            "discrete",
            "train_freq=2 has no effect with rollout_steps=64",
        ),
        ("awr", {"min_std": 0.1, "learn_std": False}, "continuous", "min_std=0.1 has no effect with learn_std=False"),
        ("awr", {"bound_coef": 1.0}, "discrete", "bound_coef=1.0 has no effect on discrete actions"),
        ("awr", {"logit_coef": 1.0}, "continuous", "logit_coef=1.0 has no effect on continuous actions"),
        ("awr", {"normalize_obs_until": 9}, "discrete", "normalize_obs_until=9 has no effect with normalize_obs=False"),
        ("awac", {"max_advantage": 5.0}, "discrete", "max_advantage=5.0 has no effect with weights='softmax'"),
        ("crr", {"weights": "binary", "beta": 2.0}, "discrete", "beta=2.0 has no effect with weights='binary'"),
        ("awr", {"data_ratio": 0.2}, "discrete", "data_ratio=0.2 has no effect without a dataset"),
    ],
)
def test_a_setting_that_another_one_silences_is_named_with_it(
    algorithm: str, settings: dict[str, Any], actions: Any, words: str
):
    config = make_config(ALGORITHMS[algorithm].config, algorithm, settings)
    (sentence,) = silenced(config, actions=actions, dataset=False)
    assert words in sentence


def test_settings_that_have_an_effect_are_not_named():
    live = AWRConfig(optimizer="sgd", momentum=0.5, normalize_obs=True, normalize_obs_until=9, bound_coef=1.0)
    assert silenced(live, actions="continuous", dataset=False) == []
    assert silenced(AWRConfig(data_ratio=0.2), actions="discrete", dataset=True) == []
    rounds = AWRConfig(data_ratio=0.2, rollout_steps=64)
    assert "data_ratio=0.2 has no effect with rollout_steps=64" in silenced(rounds, actions="discrete", dataset=True)[0]


@pytest.mark.parametrize(
    ("settings", "first"),
    [({"critic_warmup_steps": 999}, "learning_starts=1000"), ({"rollout_steps": 2048}, "rollout_steps=2048")],
)
def test_a_critic_that_cannot_learn_before_its_actor_is_told(settings: dict[str, Any], first: str):
    config = AWRConfig(**{"critic_warmup_steps": 1000, **settings})
    (sentence,) = config.doubts_on_data()
    assert f"has no effect: the first update in the environment comes after {first} steps" in sentence
    assert AWRConfig(critic_warmup_steps=1000).doubts_on_data() == []


def test_the_trainer_warns_once_of_all_that_has_no_effect():
    with pytest.warns(UserWarning, match=r"normalize_obs_until=9 has no effect.*bound_coef=2\.0 has no") as found:
        Trainer("awr", "CartPole-v1", config={"normalize_obs_until": 9, "bound_coef": 2.0})
    assert len(found) == 1


def test_numbers_that_no_machine_holds_are_out_of_range():
    for settings in ({"beta": 10**400}, {"beta": float("inf")}, {"beta": float("nan")}, {"batch_size": 10**400}):
        with pytest.raises(ConfigError, match="is out of range"):
            make(**settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnConfig(AWRConfig):
    """Settings of kinds that ours do not have."""

    label: str = setting("mean")
    """A text."""
    note: str | None = setting(None)
    """A text, or none."""
    kind: Literal["a", "b"] | None = setting(None)
    """A choice, or none."""
    older: Optional[float] = setting(None)  # noqa: UP045
    """A number, or none."""
    either: int | float | None = setting(None)
    """A type that settings cannot have."""


def test_a_setting_of_ones_own_may_be_a_text():
    config = OwnConfig(label="median", note="first", kind="b", older=2)
    assert (config.label, config.note, config.kind, config.older) == ("median", "first", "b", 2.0)
    assert (OwnConfig().note, OwnConfig().kind, OwnConfig().older) == (None, None, None)
    with pytest.raises(ConfigError, match=r"label=3 has the wrong type \(int\): it must be a text"):
        OwnConfig(label=3)  # pyright: ignore[reportArgumentType]


def test_a_type_that_settings_cannot_have_is_named():
    with pytest.raises(ConfigError, match=r"either has a type that settings cannot have \(int \| float \| None\)"):
        OwnConfig(either=3)
