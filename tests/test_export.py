"""An exported policy does in onnxruntime what the trainer's does, whatever the spaces and settings."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from gymnasium import spaces

import rlox
from disk import full
from rlox import ALGORITHMS, Policy
from rlox.cli import main
from rlox.core.networks import Actor
from rlox.core.normalizer import Normalizer
from rlox.envs.space_json import describe
from rlox.envs.spaces import action_codec, obs_encoder
from rlox.errors import ConfigError, ExportError, SpaceError
from rlox.policy import onnx_check

N = onnx_check.N_CHECKED
# Observations are six numbers wide wherever they can be, so that the policy is compiled once for most of them.
VECTOR = spaces.Box(-2, 2, (6,))
ODD = spaces.Box(np.array([-2, 0.5, 3], np.float32), np.array([3, 0.75, 3], np.float32))


@pytest.fixture(autouse=True)
def precision_of_the_check() -> Iterator[None]:
    """Predict as the check does, so that nothing is compiled twice."""
    with jax.default_matmul_precision("highest"):
        yield


def make(obs: spaces.Space[Any], action: spaces.Space[Any], algorithm: str = "bc", **config: Any) -> Policy:
    settings = ALGORITHMS[algorithm].config(**{"hidden": 8, **config})
    encoder, codec = obs_encoder(obs), action_codec(action)
    actor = Actor(settings, encoder.dim, codec.nvec, codec.dim, np.random.default_rng(3))
    normalizer = Normalizer.create(encoder.dim) if settings.normalize_obs else None
    return Policy(actor, normalizer, obs, action, settings)


def scaled(policy: Policy, factor: float) -> Policy:
    """Make the policy's last layer larger, so that actions spread over all choices and over the bounds."""
    actor = policy.actor
    weights = (*actor.network.weights[:-1], factor * actor.network.weights[-1])
    object.__setattr__(actor.network, "weights", weights)
    return policy


def run(path: Path, feed: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def inputs(path: Path) -> dict[str, tuple[str, list[Any]]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {entry.name: (entry.type, entry.shape) for entry in session.get_inputs()}


def drawn(space: spaces.Space[Any], n: int) -> Any:
    """Return ``n`` observations, the entries of Dict and Tuple spaces each in a batch."""
    space.seed(0)
    return stacked(space, [space.sample() for _ in range(n)])


def stacked(space: spaces.Space[Any], samples: Sequence[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: stacked(part, [sample[key] for sample in samples]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(part, [sample[i] for sample in samples]) for i, part in enumerate(space.spaces))
    return np.array(samples)


def fed(name: str, obs: Any) -> dict[str, Any]:
    """Return observations by the names that the page on exporting gives them, of floats as float32."""
    if isinstance(obs, dict | tuple):
        entries = obs.items() if isinstance(obs, dict) else enumerate(obs)
        return {k: v for key, part in entries for k, v in fed(f"{name}.{key}", part).items()}
    return {name: obs.astype(np.float32) if obs.dtype.kind == "f" else obs}


def assert_same(path: Path, trainer: Policy) -> dict[str, Any]:
    """Compare the file's actions with ``predict`` on all observations, on seven and on one; return what it put out."""
    obs = drawn(trainer.observation_space, N)
    expected, feed = trainer.predict(obs), fed("obs", obs)
    assert trainer.action_space.contains(expected[0])
    for n in (1, 7, N):
        found = run(path, {name: rows[:n] for name, rows in feed.items()})
        assert found["action"].dtype == expected.dtype
        assert found["action"].shape == (n, *(trainer.action_space.shape or ()))
        np.testing.assert_allclose(found["action"], expected[:n], rtol=1e-5, atol=1e-5)
    return found


OBSERVATIONS = {
    "vector": (VECTOR, {"obs": ("tensor(float)", ["batch", 6])}),
    "doubles, unbounded": (
        spaces.Box(-np.inf, np.inf, (2, 3), np.float64), {"obs": ("tensor(float)", ["batch", 2, 3])},
    ),
    "image": (spaces.Box(0, 255, (3, 1, 2), np.uint8), {"obs": ("tensor(uint8)", ["batch", 3, 1, 2])}),
    "integers": (spaces.Box(-9, 9, (6,), np.int32), {"obs": ("tensor(int32)", ["batch", 6])}),
    "times": (spaces.Box(1_700_000_000, 1_700_000_100, (6,), np.int64), {"obs": ("tensor(int64)", ["batch", 6])}),
    "discrete": (spaces.Discrete(6, start=-2), {"obs": ("tensor(int64)", ["batch"])}),
    "multi-discrete": (
        spaces.MultiDiscrete(np.array([[2, 1], [1, 2]]), start=np.array([[1, -1], [0, 4]])),
        {"obs": ("tensor(int64)", ["batch", 2, 2])},
    ),
    "multi-binary": (spaces.MultiBinary([2, 3]), {"obs": ("tensor(int8)", ["batch", 2, 3])}),
    "dict and tuple": (
        spaces.Dict(
            {
                "z": spaces.Box(-1, 1, ()),
                "goal": spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(0, 255, (2, 1), np.uint8)]),
            }
        ),
        {
            "obs.goal.0": ("tensor(int64)", ["batch"]),
            "obs.goal.1": ("tensor(uint8)", ["batch", 2, 1]),
            "obs.z": ("tensor(float)", ["batch"]),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize(("space", "expected"), OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_observations_go_in_as_the_environment_gives_them(
    tmp_path: Path, space: spaces.Space[Any], expected: dict[str, tuple[str, list[Any]]]
):
    trainer = make(space, ODD)
    path = trainer.export_onnx(tmp_path / "policy.onnx")
    assert inputs(path) == expected
    assert_same(path, trainer)


ACTIONS = {
    "discrete": spaces.Discrete(5, start=-2),
    "multi-discrete, even": spaces.MultiDiscrete([3, 3], start=[1, -1]),
    "multi-discrete, uneven": spaces.MultiDiscrete(
        np.array([[2, 5], [1, 3]]), dtype=np.int32, start=np.array([[1, -1], [0, 4]])
    ),
    "multi-binary": spaces.MultiBinary([2, 3]),
    "odd bounds": ODD,
    "a column of doubles": spaces.Box(-1, 1, (3, 1), np.float64),
    "integers": spaces.Box(-3, 4, (3,), np.int16),
}


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_actions_come_out_as_the_environment_takes_them(tmp_path: Path, space: spaces.Space[Any]):
    trainer = make(VECTOR, space)
    path = trainer.export_onnx(tmp_path / "policy.onnx")
    found = assert_same(path, trainer)
    assert len(np.unique(found["action"], axis=0)) > 1


@pytest.mark.parametrize(
    "config",
    [
        {"state_dependent_std": True},
        {"learn_std": False, "initial_std": 0.3},
        {"hidden": (4, 6, 5), "layer_norm": True},
        {"max_std": 0.8, "initial_std": 0.5},
        {"max_std": 0.8, "initial_std": 0.5, "state_dependent_std": True},
    ],
    ids=str,
)
def test_settings_of_the_network_are_in_the_file(tmp_path: Path, config: dict[str, Any]):
    trainer = make(VECTOR, ODD, "awr", **config)
    actor = trainer.actor
    norms: Any = actor.network.norms
    for norm in norms:
        object.__setattr__(norm, "weight", jnp.asarray(np.linspace(0.5, 1.5, norm.weight.size, dtype=np.float32)))
        object.__setattr__(norm, "bias", jnp.asarray(np.linspace(0.3, -0.2, norm.bias.size, dtype=np.float32)))
    path = trainer.export_onnx(tmp_path / "policy.onnx")
    found = assert_same(path, trainer)
    expected = jax.jit(lambda actor, obs: actor(obs))(actor, drawn(VECTOR, N))
    np.testing.assert_allclose(found["mean"], expected.mean, atol=1e-5)
    np.testing.assert_allclose(found["std"], np.broadcast_to(expected.std, (N, 3)), atol=1e-5)


def test_means_outside_the_bounds_are_clipped(tmp_path: Path):
    trainer = scaled(make(VECTOR, ODD), 50)
    found = assert_same(trainer.export_onnx(tmp_path / "policy.onnx"), trainer)
    assert (np.abs(found["mean"]) > 1).any()
    assert ((found["action"] >= ODD.low) & (found["action"] <= ODD.high)).all()
    assert (found["action"][:, 0] == ODD.low[0]).any() or (found["action"][:, 0] == ODD.high[0]).any()


@pytest.mark.parametrize("seen", [True, False])
def test_the_normalizer_is_in_the_file(tmp_path: Path, seen: bool):
    trainer = make(VECTOR, spaces.Box(-1, 1, (3,)), "awr", normalize_obs=True)
    # The last entry does not vary, so that the floor of the std counts.
    rows = np.random.default_rng(0).normal(3, 5, (20, 6)).astype(np.float32)
    rows[:, -1] = 0.5
    plain = trainer.predict(drawn(VECTOR, N))
    trainer.normalizer = Normalizer.fit(rows) if seen else Normalizer.create(6)
    found = assert_same(trainer.export_onnx(tmp_path / "policy.onnx"), trainer)
    assert (np.abs(found["action"] - plain).max() > 0.1) == seen


def test_the_file_says_what_it_holds(tmp_path: Path):
    named = {"algorithm": "bc", "env": None}
    path = make(VECTOR, ODD).export_onnx(str(tmp_path / "policy.onnx"), about=named)
    assert path == tmp_path / "policy.onnx"
    model = onnx.load(path)
    assert (model.producer_name, model.producer_version) == ("rlox", rlox.__version__)
    assert [opset.version for opset in model.opset_import] == [17]
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["observation_space"]) == describe(VECTOR)
    assert json.loads(about["action_space"]) == describe(ODD)
    assert about.keys() == {"algorithm", "observation_space", "action_space"}
    assert about["algorithm"] == "bc"
    assert list(tmp_path.iterdir()) == [path]


def test_an_observation_that_is_none_of_the_choices_is_encoded_as_zeros(tmp_path: Path):
    trainer = make(spaces.Discrete(6), ODD)
    found = run(trainer.export_onnx(tmp_path / "policy.onnx"), {"obs": np.array([7])})
    expected = jax.jit(lambda actor, obs: actor(obs))(trainer.actor, np.zeros((1, 6), np.float32))
    np.testing.assert_allclose(found["mean"], expected.mean, atol=1e-6)


@pytest.mark.parametrize("action", [spaces.Discrete(3), ODD, spaces.Box(0, 9, (2,), np.uint8)], ids=str)
def test_a_file_that_disagrees_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Any):
    trainer, other = make(VECTOR, action), scaled(make(VECTOR, action), -1)
    monkeypatch.setattr(trainer, "predict", other.predict)
    with pytest.raises(ExportError, match="does not do what the policy does"):
        trainer.export_onnx(tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_a_choice_that_there_is_not_is_no_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = make(VECTOR, spaces.Discrete(3, start=2))
    predict = trainer.predict
    monkeypatch.setattr(trainer, "predict", lambda obs: predict(obs) + 3)
    with pytest.raises(ExportError, match="does not do what the policy does"):
        trainer.export_onnx(tmp_path / "policy.onnx")


@pytest.mark.parametrize("bounds", [(5, np.inf), (-np.inf, -5), (-3, 8), (-np.inf, np.inf)])
def test_the_observations_that_are_checked_differ(bounds: tuple[float, float]):
    space = spaces.Box(*bounds, (3,))
    drawn = onnx_check._draw(space, np.random.default_rng(0))
    assert len(np.unique(drawn)) == drawn.size
    assert all(space.contains(one) for one in drawn)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("policy.onx", r"'.*policy\.onx' must end in \.onnx"),
        ("nowhere/policy.onnx", "there is no folder '.*nowhere'"),
        ("taken.onnx", "'.*taken.onnx' cannot be written: it is a folder"),
        ("/proc/policy.onnx", "'/proc/policy.onnx' cannot be written: No such file or directory"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path: Path, name: str, words: str):
    (tmp_path / "taken.onnx").mkdir()
    with pytest.raises(ConfigError, match=words) as error:
        make(VECTOR, ODD).export_onnx(tmp_path / name)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.onnx"]


def test_a_full_disk_keeps_the_file_that_was_there(tmp_path: Path):
    policy = make(VECTOR, ODD)
    before = policy.export_onnx(tmp_path / "policy.onnx").read_bytes()
    with full(), pytest.raises(ConfigError, match=r"cannot be written: File too large\. Make room there, or choose"):
        policy.export_onnx(tmp_path / "policy.onnx")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_the_command_names_the_run_s_algorithm_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    rlox.Trainer("bc", "CartPole-v1", config={"hidden": 8}).save("run")
    main(["export", "run", "policy.onnx"])
    about = {entry.key: entry.value for entry in onnx.load("policy.onnx").metadata_props}
    assert (about["algorithm"], about["env"]) == ("bc", "CartPole-v1")


def test_without_the_extra_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[onnx\]' in a clone"):
        make(VECTOR, ODD).export_onnx(tmp_path / "policy.onnx")


def test_entries_of_one_name_are_refused(tmp_path: Path):
    number = spaces.Box(-1, 1, ())
    space = spaces.Dict({"a.b": number, "a": spaces.Dict({"b": number})})
    with pytest.raises(SpaceError, match=r"two entries named obs\.a\.b"):
        make(space, ODD).export_onnx(tmp_path / "policy.onnx")


@pytest.mark.parametrize("checked", [True, False])
def test_the_command_says_what_goes_in_and_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checked: bool
):
    monkeypatch.chdir(tmp_path)
    make(VECTOR, spaces.Discrete(3)).save("run.safetensors")
    monkeypatch.setattr(onnx_check, "can_check", lambda: checked)
    main(["export", "run.safetensors", "policy.onnx"])
    lines = capsys.readouterr().out.splitlines()
    how = "checked against predict in onnxruntime on 64 observations"
    assert lines == [
        f"Wrote policy.onnx, {how if checked else 'not checked: onnxruntime is not installed'}.",
        "  input   obs     float32  (batch, 6)",
        "  output  action  int64    (batch)",
        "  output  logits  float32  (batch, 3)",
    ]
