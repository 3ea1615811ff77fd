"""Spaces: observations become flat numbers, actions of the policy become the environment's, both are described."""

import json
import warnings
from typing import Any

import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlox.envs.space_json import describe, restore
from rlox.envs.spaces import action_codec, batch_of_one, interchangeable, obs_encoder, same_actions
from rlox.errors import InvalidStepError, SpaceError

NESTED = spaces.Dict(
    {
        "position": spaces.Box(-1.0, 1.0, (2,), np.float32),
        "inner": spaces.Tuple([spaces.Discrete(3), spaces.Dict({"flags": spaces.MultiBinary(2)})]),
        "level": spaces.MultiDiscrete([2, 3]),
    }
)
EXAMPLES: dict[str, tuple[spaces.Space[Any], Any, list[float]]] = {
    "box": (spaces.Box(-5.0, 5.0, (2,), np.float32), np.array([1.5, -2.0], np.float32), [1.5, -2.0]),
    "box of rows": (spaces.Box(-5.0, 5.0, (2, 2), np.float64), np.array([[1.0, 2.0], [3.0, 4.0]]), [1, 2, 3, 4]),
    "box without bounds": (spaces.Box(-np.inf, np.inf, (2,)), np.array([1e6, -1e6], np.float32), [1e6, -1e6]),
    "box of bytes": (spaces.Box(0, 255, (3,), np.uint8), np.array([0, 128, 255], np.uint8), [0, 128, 255]),
    "box of signed bytes": (spaces.Box(-128, 127, (3,), np.int8), np.array([-128, 0, 127], np.int8), [0, 128, 255]),
    "box of few bytes": (spaces.Box(0, 8, (3,), np.uint8), np.array([0, 2, 8], np.uint8), [0, 0.25, 1]),
    "box of small integers": (spaces.Box(-9, 11, (2,), np.int8), np.array([-9, 6], np.int8), [0, 0.75]),
    "box of integers": (
        spaces.Box(np.array([-9, 0]), np.array([1, 900]), dtype=np.int64),
        np.array([-4, 900]),
        [0.5, 1],
    ),
    "box of one integer": (spaces.Box(4, 4, (1,), np.int64), np.array([4]), [0]),
    "box of any integers": (spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64), np.array([-9, 900]), [-9, 900]),
    "box of one number": (spaces.Box(-1.0, 1.0, ()), np.float32(0.5), [0.5]),
    "discrete": (spaces.Discrete(3), 1, [0, 1, 0]),
    "discrete with start": (spaces.Discrete(3, start=-1), -1, [1, 0, 0]),
    "multi-discrete": (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
    "multi-discrete with start": (spaces.MultiDiscrete([2, 2], start=[5, -5]), np.array([6, -5]), [0, 1, 1, 0]),
    "multi-discrete of rows": (spaces.MultiDiscrete(np.array([[2], [2]])), np.array([[1], [0]]), [0, 1, 1, 0]),
    "multi-binary": (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
    "multi-binary of bools": (spaces.MultiBinary(3), np.array([True, False, True]), [1, 0, 1]),
    "multi-binary of rows": (spaces.MultiBinary([2, 1]), np.array([[0], [1]], np.int8), [0, 1]),
    "tuple": (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 9, (1,))]), (1, np.array([7.0], np.float32)), [0, 1, 7]),
    "dict and tuple": (
        NESTED,
        {"position": np.array([0.5, -0.5]), "inner": (2, {"flags": np.array([0, 1])}), "level": np.array([1, 2])},
        [0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0.5, -0.5],
    ),
}
every_space = pytest.mark.parametrize("name", EXAMPLES)
UNSUPPORTED = {
    "Text": spaces.Text(5),
    "Graph": spaces.Graph(spaces.Box(0, 1, (1,)), None),
    "Sequence": spaces.Sequence(spaces.Discrete(2)),
    "OneOf": spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]),
}


def stack(space: spaces.Space[Any], observations: list[Any]) -> Any:
    """Return observations as a vector environment batches them."""
    if isinstance(space, spaces.Dict):
        return {key: stack(part, [obs[key] for obs in observations]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stack(part, [obs[i] for obs in observations]) for i, part in enumerate(space.spaces))
    return np.stack([np.asarray(obs) for obs in observations])


@every_space
def test_an_observation_is_flattened_and_whole_numbers_are_one_hot(name: str):
    space, obs, expected = EXAMPLES[name]
    encoder = obs_encoder(space)
    encoded = encoder(batch_of_one(space, obs), 1)
    assert encoder.dim == len(expected)
    assert encoded.shape == (1, encoder.dim)
    assert encoded.dtype == encoder.dtype
    np.testing.assert_array_equal(encoded[0], np.array(expected, np.float32))


@every_space
def test_an_encoded_observation_is_a_copy(name: str):
    space, obs, _ = EXAMPLES[name]
    given = batch_of_one(space, obs)
    encoded = obs_encoder(space)(given, 1)
    before = encoded.copy()
    for part in jax.tree.leaves(given):
        part[...] = 0
    np.testing.assert_array_equal(encoded, before)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith("box")])
def test_observations_of_a_box_come_back_from_their_coding(name: str):
    space, obs, _ = EXAMPLES[name]
    space.seed(0)
    given = stack(space, [obs, *(space.sample() for _ in range(4))])
    encoder = obs_encoder(space)
    decoded = encoder.decode(encoder(given, 5))
    assert decoded.dtype == space.dtype
    np.testing.assert_allclose(decoded, given, rtol=1e-6)


@every_space
def test_a_batch_is_encoded_row_by_row(name: str):
    space, obs, _ = EXAMPLES[name]
    space.seed(0)
    observations = [obs, *(space.sample() for _ in range(4))]
    encoder = obs_encoder(space)
    rows = [encoder(batch_of_one(space, obs), 1)[0] for obs in observations]
    np.testing.assert_array_equal(encoder(stack(space, observations), 5), rows)


@every_space
def test_one_observation_is_told_from_a_batch(name: str):
    space, obs, _ = EXAMPLES[name]
    encoder = obs_encoder(space)
    assert encoder.batch_size(obs) is None
    assert encoder.batch_size(stack(space, [obs])) == 1
    assert encoder.batch_size(stack(space, [obs] * 3)) == 3


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("box", "float32"), ("box of bytes", "uint8"), ("box of signed bytes", "uint8"), ("box of few bytes", "float32"),
     ("box of small integers", "float32"), ("box of integers", "float32"), ("multi-binary", "bool"),
     ("discrete", "float32"), ("dict and tuple", "float32")],
)  # fmt: skip
def test_pictures_stay_bytes_and_bits_stay_bits_and_all_others_become_float32(name: str, dtype: str):
    assert obs_encoder(EXAMPLES[name][0]).dtype == dtype


@pytest.mark.parametrize(
    ("name", "obs", "complaint"),
    [
        ("box", np.zeros(3), r"observation has shape \(3,\), but the space says \(2,\)"),
        ("box", np.zeros((2, 2)), r"shape"),
        ("box", 0.0, r"shape"),
        ("box", [0.0, np.nan], r"observation\[1\] is nan"),
        ("box", [-np.inf, 0.0], r"observation\[0\] is -inf"),
        ("box", np.array([1e300, 0.0]), r"observation\[0\]"),
        ("box of rows", [[0.0, 0.0], [np.nan, 0.0]], r"observation\[1, 0\] is nan"),
        ("box of one number", np.nan, r"observation\[\] is nan|observation is nan"),
        ("discrete", 3, r"observation is .*3.* outside Discrete\(3\)"),
        ("discrete", 1.5, r"observation is \[1\.5\], but Discrete\(3\) takes whole numbers"),
        ("discrete with start", 2, r"outside"),
        ("multi-discrete", [0, 3], r"outside"),
        ("multi-discrete with start", [0, 0], r"outside"),
        ("dict and tuple", {}, r"observation has no entry '(inner|level|position)'"),
        ("tuple", (1,), r"observation has no entry 1"),
        ("box", [0.0, None], r"observation\[1\] is nan"),
        ("box", np.array([0.0, np.nan], object), r"observation\[1\] is nan"),
        ("box", ["a", 0.0], r"observation has type <U32: it must hold numbers"),
        ("box", [0.0, {}], r"observation is .*: it must hold numbers"),
        ("box", [1j, 0.0], r"observation has type complex128: it must hold numbers that are real"),
        ("box", [[0.0], [0.0, 1.0]], r"entries of different lengths"),
        ("discrete", "1", r"it must hold numbers"),
        ("discrete", None, r"observation is \[nan\], but Discrete\(3\) takes whole numbers"),
    ],
)
def test_a_bad_observation_is_refused_with_its_entry(name: str, obs: Any, complaint: str):
    space = EXAMPLES[name][0]
    with pytest.raises(InvalidStepError, match=complaint):
        obs_encoder(space)(batch_of_one(space, obs), 1)


def test_a_row_of_a_frame_and_lists_are_observations():
    space, obs, expected = EXAMPLES["tuple"]
    np.testing.assert_array_equal(obs_encoder(space)(batch_of_one(space, list(obs)), 1)[0], expected)
    row, box = np.array([1, 0.5], object), EXAMPLES["box"][0]
    np.testing.assert_array_equal(obs_encoder(box)(batch_of_one(box, row), 1), [[1, 0.5]])
    np.testing.assert_array_equal(obs_encoder(box)(np.zeros((0, 2)), 0), np.zeros((0, 2)))


def test_an_entry_inside_a_dict_is_named_by_its_path():
    obs = EXAMPLES["dict and tuple"][1] | {"inner": (2, {"flags": np.zeros(5)})}
    with pytest.raises(InvalidStepError, match=r"observation\['inner'\]\[1\]\['flags'\] has shape \(5,\)"):
        obs_encoder(NESTED)(batch_of_one(NESTED, obs), 1)


@pytest.mark.parametrize("obs", [{}, {"position": np.zeros(2)}])
def test_a_missing_entry_is_named_when_the_batch_size_is_asked_for(obs: dict[str, Any]):
    with pytest.raises(InvalidStepError, match="observation has no entry"):
        obs_encoder(NESTED).batch_size(obs)


def wide(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return the space with Boxes of floats without bounds, in double precision."""
    match space:
        case spaces.Dict():
            return spaces.Dict({key: wide(part) for key, part in space.spaces.items()})
        case spaces.Tuple():
            return spaces.Tuple([wide(part) for part in space.spaces])
        case spaces.Box() if space.dtype.kind == "f":
            return spaces.Box(-np.inf, np.inf, space.shape, np.float64)
    return space


@pytest.mark.parametrize("name", EXAMPLES)
def test_bounds_and_precision_of_observed_floats_do_not_matter(name: str):
    space = EXAMPLES[name][0]
    assert interchangeable(space, wide(space))
    assert not interchangeable(space, spaces.Dict({"x": space}))
    assert not interchangeable(spaces.Dict({"x": space}), spaces.Dict({"y": space}))
    assert not interchangeable(spaces.Tuple([space]), spaces.Tuple([space, space]))


def test_the_bounds_of_actions_matter_and_their_precision_does_not():
    space = spaces.Box(-1, 1, (2,))
    assert same_actions(space, spaces.Box(-1, 1, (2,), np.float64))
    assert same_actions(spaces.Box(-0.4, 0.4, (2,)), spaces.Box(-0.4, 0.4, (2,), np.float64))
    assert not same_actions(space, spaces.Box(-1, 2, (2,)))
    assert not same_actions(space, spaces.Box(-2, 1, (2,)))
    assert not same_actions(space, spaces.Box(-1, 1, (1, 2)))
    assert not same_actions(space, spaces.Discrete(2))
    assert not same_actions(spaces.Discrete(3), spaces.Discrete(2))


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_space_is_named(name: str):
    space = UNSUPPORTED[name]
    for make in (obs_encoder, action_codec, describe):
        with pytest.raises(SpaceError) as error:
            make(space)
        assert str(space) in str(error.value)
        assert "Box, " in str(error.value) or "and Box" in str(error.value)


@pytest.mark.parametrize("space", [spaces.Tuple([spaces.Discrete(2)]), spaces.Dict({"a": spaces.Discrete(2)})])
def test_dict_and_tuple_actions_are_refused(space: spaces.Space[Any]):
    with pytest.raises(SpaceError, match=r"Action space (Tuple|Dict)"):
        action_codec(space)


def test_an_unsupported_space_inside_a_dict_is_refused():
    with pytest.raises(SpaceError, match="Text"):
        obs_encoder(spaces.Dict({"position": spaces.Box(0, 1, (1,)), "name": spaces.Text(5)}))


@pytest.mark.parametrize("space", [spaces.Dict({}), spaces.Tuple([])])
def test_a_space_without_entries_is_refused(space: spaces.Space[Any]):
    with pytest.raises(SpaceError):
        obs_encoder(space)


@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (0.0, np.inf), (-np.inf, 0.0)])
def test_a_continuous_action_without_finite_bounds_is_refused_with_the_way_out(low: float, high: float):
    with pytest.raises(SpaceError, match=r"has no finite bounds.*RescaleAction"):
        action_codec(spaces.Box(low, high, (2,)))


small = st.integers(1, 4)
shapes = hnp.array_shapes(max_dims=2, max_side=3)
box_shapes = hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)


@st.composite
def boxes(draw: st.DrawFn, *dtypes: Any, finite: bool = True) -> spaces.Box:
    dtype: Any = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(box_shapes)
    if dtype.kind == "f":
        bound = st.floats(-1000, 1000, width=32)
        low = draw(hnp.arrays(dtype, shape, elements=bound))
        high = low + draw(hnp.arrays(dtype, shape, elements=st.floats(0, 1000, width=32)))
        if not finite:
            low = np.where(draw(hnp.arrays(bool, shape)), -np.inf, low).astype(dtype)
            high = np.where(draw(hnp.arrays(bool, shape)), np.inf, high).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        numbers = hnp.arrays(dtype, shape, elements=st.integers(max(limits.min, -1000), min(limits.max, 1000) - 1))
        first, second = draw(numbers), draw(numbers)
        low, high = np.minimum(first, second), np.maximum(first, second)
    return spaces.Box(low, high, shape, dtype.type)


@st.composite
def multi_discretes(draw: st.DrawFn) -> spaces.MultiDiscrete[Any]:
    nvec = draw(hnp.arrays(np.int64, shapes, elements=small))
    start = draw(hnp.arrays(np.int64, nvec.shape, elements=st.integers(-5, 5)))
    return spaces.MultiDiscrete(nvec, dtype=draw(st.sampled_from([np.int64, np.int32])), start=start)


discretes = st.builds(lambda n, start: spaces.Discrete(n, start=start), small, st.integers(-5, 5))
multi_binaries = st.builds(spaces.MultiBinary, st.one_of(small, shapes))
all_boxes = boxes(np.float32, np.float64, np.int8, np.uint8, np.int64, finite=False)
leaves = st.one_of(all_boxes, discretes, multi_discretes(), multi_binaries)
observation_spaces = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.dictionaries(st.text(max_size=3), parts, min_size=1, max_size=3).map(lambda d: spaces.Dict(list(d.items()))),
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=5,
)
whole_boxes = boxes(np.int8, np.uint8, np.int64)
whole_actions = st.one_of(whole_boxes, discretes, multi_discretes(), multi_binaries)
real_actions = boxes(np.float32, np.float64)


@given(observation_spaces)
def test_a_space_survives_its_description_as_json(space: spaces.Space[Any]):
    restored = restore(json.loads(json.dumps(describe(space), allow_nan=False)))
    assert restored == space
    assert describe(restored) == describe(space)


@given(all_boxes)
def test_the_bounds_of_a_restored_box_are_exact(space: spaces.Box):
    restored = restore(json.loads(json.dumps(describe(space))))
    np.testing.assert_array_equal(restored.low, space.low)  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(restored.high, space.high)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "space",
    [
        *(space for space, _, _ in EXAMPLES.values()),
        spaces.MultiBinary((3,)),
        spaces.MultiDiscrete([2, 3], dtype=np.int32),
        spaces.Discrete(3, dtype=np.int32),
        spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max - 1, (2,), np.int64),
        spaces.Box(np.array([-np.inf, 0.0]), np.array([1.0, np.inf]), dtype=np.float64),
    ],
    ids=str,
)
def test_each_kind_of_space_survives_its_description(space: spaces.Space[Any]):
    assert restore(json.loads(json.dumps(describe(space), allow_nan=False))) == space


def test_the_order_of_a_dicts_entries_survives():
    space = spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.Discrete(3))])
    assert list(restore(describe(space)).spaces) == ["b", "a"]  # pyright: ignore[reportAttributeAccessIssue]


def test_an_unknown_description_is_refused():
    with pytest.raises(SpaceError, match="'Blob'"):
        restore({"type": "Blob"})


@given(observation_spaces, st.integers(1, 3))
def test_what_a_space_samples_is_encoded_to_its_width(space: spaces.Space[Any], n: int):
    encoder = obs_encoder(space)
    batch = batch_space(space, n)
    batch.seed(0)
    obs = batch.sample()
    encoded = encoder(obs, n)
    assert encoded.shape == (n, encoder.dim)
    assert np.isfinite(encoded).all()
    assert encoder.batch_size(obs) == n


@given(whole_actions, st.integers(0, 2**31))
def test_whole_actions_come_back_from_the_policys_coding(space: spaces.Space[Any], seed: int):
    codec = action_codec(space)
    space.seed(seed)
    action = np.stack([np.asarray(space.sample()) for _ in range(5)])
    encoded = codec.encode(action)
    assert encoded.shape == (5, codec.dim)
    assert encoded.dtype == codec.dtype
    np.testing.assert_array_equal(codec.decode(encoded), action)


@given(real_actions, st.integers(0, 2**31))
def test_real_actions_come_back_from_the_policys_coding(space: spaces.Box, seed: int):
    codec = action_codec(space)
    space.seed(seed)
    action = np.stack([space.sample() for _ in range(5)])
    encoded = codec.encode(action)
    assert encoded.shape == (5, codec.dim)
    assert encoded.dtype == np.float32
    assert (np.abs(encoded) <= 1 + 1e-6).all()
    span = np.asarray(space.high, np.float64) - space.low
    assert (np.abs(codec.decode(encoded) - action) <= 1e-6 * span + 1e-6 * np.abs(action)).all()


@given(st.one_of(real_actions, whole_boxes), st.floats(-1e6, 1e6, width=32))
def test_decoded_actions_lie_in_the_space(space: spaces.Box, unit: float):
    codec = action_codec(space)
    decoded = codec.decode(np.full((2, codec.dim), unit, np.float32))
    assert decoded.dtype == space.dtype
    assert all(space.contains(np.asarray(action)) for action in decoded)


def test_continuous_actions_are_in_units_of_half_the_range_around_its_centre():
    codec = action_codec(spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, 1.0], np.float32)))
    units = np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [0.6, -0.5]], np.float32)
    expected = [[-2.0, 0.0], [0.5, 0.5], [3.0, 1.0], [2.0, 0.25]]
    np.testing.assert_allclose(codec.decode(units), expected, rtol=1e-6)
    np.testing.assert_allclose(codec.encode(np.array(expected, np.float32)), units, atol=1e-6)


def test_actions_beyond_the_bounds_are_clipped():
    codec = action_codec(spaces.Box(-2.0, 3.0, (1,)))
    assert codec.decode(np.array([[-7.0], [7.0]], np.float32)).tolist() == [[-2.0], [3.0]]


def test_a_whole_number_in_a_box_is_rounded_to_the_nearest():
    codec = action_codec(spaces.Box(0, 10, (1,), np.int32))
    units = (np.array([[2.6], [2.4], [10.0], [9.6]], np.float32) - 5) / 5
    assert codec.decode(units).tolist() == [[3], [2], [10], [10]]


@pytest.mark.parametrize(
    ("space", "nvec", "policys", "environments"),
    [
        (spaces.Discrete(3), (3,), [[2]], [2]),
        (spaces.Discrete(3, start=5), (3,), [[2]], [7]),
        (spaces.MultiDiscrete([2, 4]), (2, 4), [[1, 3]], [[1, 3]]),
        (spaces.MultiDiscrete([2, 4], start=[1, -1]), (2, 4), [[1, 3]], [[2, 2]]),
        (spaces.MultiBinary([2, 1]), (2, 2), [[1, 0]], [[[1], [0]]]),
    ],
)
def test_choices_are_counted_from_zero(space: Any, nvec: tuple[int, ...], policys: Any, environments: Any):
    codec = action_codec(space)
    assert codec.nvec == nvec
    decoded = codec.decode(np.array(policys, np.int32))
    assert decoded.tolist() == environments
    assert space.contains(decoded[0])
    assert codec.encode(decoded).tolist() == policys


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_bytes_come_in_any_type_that_holds_them_and_nothing_beyond(dtype: Any):
    limits = np.iinfo(dtype)
    encoder = obs_encoder(spaces.Box(limits.min, limits.max, (3,), dtype))
    ends = [limits.min, 0, limits.max]
    for kind in (dtype, np.int64, np.float64):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = encoder(np.array([ends], kind), 1)
        assert found.tolist() == [[0, -limits.min, 255]]
    for beyond in (limits.min - 1, limits.max + 1):
        with pytest.raises(InvalidStepError, match=f"observation has an entry {beyond}, which is outside"):
            encoder(np.array([[0, beyond, 0]], np.int64), 1)
