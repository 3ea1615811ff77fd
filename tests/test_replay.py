"""The replay: every column of a transition carries the same id, so that mixed rows or streams show."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlox.algorithms import ALGORITHMS
from rlox.algorithms.awr import AWRConfig
from rlox.core import replay as replays
from rlox.core import rollout as rollouts
from rlox.core.programs import Mix, compile_programs
from rlox.core.replay import Replay
from rlox.core.transition import Layout, Transition
from rlox.core.update import init_state

ROWS = 7
DRAWS = (20_000,)
extend = jax.jit(replays.extend)
in_order = jax.jit(replays.in_order)
draw = jax.jit(replays.draw, static_argnums=2)
sample = jax.jit(replays.sample, static_argnums=2)
sample_mixed = jax.jit(replays.sample_mixed, static_argnums=4)
cut = jax.jit(replays.cut)


def write(replay: Replay, transition: Transition, valid: Any) -> Replay:
    """Add one row."""
    return extend(replay, jax.tree.map(lambda column: column[None], transition), np.asarray(valid)[None])


def coded(ids: Any) -> Transition:
    """Return transitions whose columns all follow from their ids."""
    ids = np.asarray(ids)
    column = ids.astype(np.float32)
    return Transition(
        obs=np.stack([column, -column], axis=-1),
        action=ids[..., None].astype(np.int32),
        reward=column + 0.5,
        next_obs=np.stack([column + 1, -column - 1], axis=-1),
        terminated=ids % 2 == 0,
        truncated=ids % 3 == 0,
    )


def ids_of(transition: Transition) -> Any:
    """Return the ids, after checking that all columns agree on them."""
    ids = np.asarray(transition.action)[..., 0]
    for name, found, expected in zip(Transition._fields, transition, coded(ids), strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=name)
    return ids


def empty(capacity: int, n: int) -> Replay:
    return replays.create(capacity, n, Layout(2, np.dtype(np.float32), 1, np.dtype(np.int32)))


def rings(n: int) -> Replay:
    return empty(ROWS * n, n)


def filled(replay: Replay, valid: Any) -> tuple[Replay, list[list[int]]]:
    """Write a row for each row of ``valid`` ``(steps, n)``; returns what each stream should hold, oldest first."""
    rows, n = replay.columns.reward.shape
    streams: list[list[int]] = [[] for _ in range(n)]
    for step, flags in enumerate(np.asarray(valid, bool)):
        ids = 1000 * np.arange(n) + step
        replay = write(replay, coded(ids), flags)
        for i in np.flatnonzero(flags):
            streams[i] = [*streams[i], int(ids[i])][-rows:]
    return replay, streams


def stored(replay: Replay) -> list[list[int]]:
    """Return the ids that each stream holds, oldest first."""
    rows, n = replay.columns.reward.shape
    found = []
    for i in range(n):
        size, position = int(replay.size[i]), int(replay.position[i])
        order = (position - size + np.arange(size)) % rows
        found.append(
            ids_of(jax.tree.map(lambda column, at=(order, i): np.asarray(column)[at], replay.columns)).tolist()
        )
    return found


@pytest.mark.parametrize("steps", [1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3])
@pytest.mark.parametrize("n", [1, 3])
def test_each_stream_keeps_its_latest_transitions_in_order(steps: int, n: int):
    replay, streams = filled(rings(n), np.ones((steps, n)))
    assert stored(replay) == streams
    assert replay.size.tolist() == [min(steps, ROWS)] * n


def test_the_ring_fills_up_to_its_last_row():
    replay, streams = filled(rings(3), np.ones((ROWS + 3, 3)))
    assert replay.size.tolist() == [ROWS] * 3
    assert streams[1] == [1003, 1004, 1005, 1006, 1007, 1008, 1009]
    assert set(ids_of(sample(replay, jax.random.key(0), DRAWS)).tolist()) == {i for stream in streams for i in stream}


@settings(max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=15))
def test_only_valid_transitions_are_written_and_drawn(valid: list[tuple[bool, bool, bool]]):
    replay, streams = filled(rings(3), valid)
    assert stored(replay) == streams
    assert replay.size.tolist() == [len(stream) for stream in streams]
    if any(streams):
        drawn = ids_of(sample(replay, jax.random.key(0), DRAWS))
        assert set(drawn.tolist()) == {i for stream in streams for i in stream}


@pytest.mark.parametrize("sizes", [[7], [5, 5, 5], [1, 7, 3], [0, 4, 2], [7, 0, 0], [2, 0, 5], [9, 12, 4]], ids=str)
def test_every_transition_is_drawn_equally_often(sizes: list[int]):
    n = len(sizes)
    replay, streams = filled(rings(n), np.arange(max(sizes))[:, None] < np.array(sizes))
    drawn = ids_of(sample(replay, jax.random.key(1), DRAWS))
    counts = [(drawn == i).sum() for stream in streams for i in stream]
    assert sum(counts) == len(drawn)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_minibatches_have_the_shape_asked_for_and_differ():
    replay, _ = filled(rings(1), np.ones((ROWS, 1)))
    ids = ids_of(sample(replay, jax.random.key(0), (3, 16)))
    assert ids.shape == (3, 16)
    assert len({tuple(row) for row in ids.tolist()}) == 3


def test_a_key_decides_the_draw():
    replay, _ = filled(rings(1), np.ones((ROWS, 1)))
    first, same, other = (ids_of(sample(replay, jax.random.key(k), (16,))).tolist() for k in (0, 0, 1))
    assert first == same
    assert first != other


def test_one_stored_transition_is_enough_to_sample():
    replay, _ = filled(rings(3), [[False, True, False]])
    assert ids_of(sample(replay, jax.random.key(0), DRAWS)).tolist() == [1000] * DRAWS[0]


@pytest.mark.parametrize(("capacity", "n", "rows"), [(10, 1, 10), (10, 2, 5), (11, 2, 5), (2, 3, 1), (1, 4, 1)])
def test_capacity_is_shared_evenly_and_a_stream_has_at_least_one_row(capacity: int, n: int, rows: int):
    replay, streams = filled(empty(capacity, n), np.ones((3, n)))
    assert replay.columns.reward.shape == (rows, n)
    assert stored(replay) == streams


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_observations_are_stored_and_drawn_in_their_own_type(dtype: Any):
    replay = replays.create(4, 1, Layout(2, np.dtype(dtype), 1, np.dtype(np.float32)))
    obs, next_obs = np.array([[7, 255]]).astype(dtype), np.array([[0, 128]]).astype(dtype)
    replay = write(replay, coded([0])._replace(obs=obs, next_obs=next_obs), np.ones(1, bool))
    assert replay.columns.obs.dtype == replay.columns.next_obs.dtype == dtype
    batch = sample(replay, jax.random.key(0), (2,))
    assert batch.obs.dtype == batch.next_obs.dtype == dtype
    np.testing.assert_array_equal(batch.obs, np.repeat(obs, 2, axis=0))
    np.testing.assert_array_equal(batch.next_obs, np.repeat(next_obs, 2, axis=0))


@pytest.mark.parametrize("steps", [3, ROWS, ROWS + 2])
def test_cut_marks_each_streams_last_transition_truncated(steps: int):
    replay = rings(3)
    for step in range(steps):
        neither_terminated_nor_truncated = 6 * step + np.array([1, 5, 7])
        replay = write(replay, coded(neither_terminated_nor_truncated), np.ones(3, bool))
    assert not np.asarray(replay.columns.truncated).any()
    truncated = np.asarray(cut(replay).columns.truncated)
    assert truncated[(steps - 1) % ROWS].all()
    assert truncated.sum() == 3


def test_cut_leaves_a_terminated_transition_and_an_empty_stream_alone():
    replay = write(rings(3), coded([2, 1, 1]), np.array([True, True, False]))
    marked = cut(replay)
    assert np.argwhere(np.asarray(marked.columns.truncated)).tolist() == [[0, 1]]
    assert marked.size.tolist() == [1, 1, 0]


def test_cut_keeps_what_was_truncated():
    replay = write(rings(3), coded([3, 9, 15]), np.ones(3, bool))
    assert np.asarray(cut(replay).columns.truncated)[0].tolist() == [True] * 3


def test_cut_changes_nothing_else():
    replay, _ = filled(rings(3), np.ones((6, 3)))
    marked = cut(replay)
    for name in set(Transition._fields) - {"truncated"}:
        np.testing.assert_array_equal(getattr(marked.columns, name), getattr(replay.columns, name))
    assert marked.position.tolist() == replay.position.tolist()
    assert marked.size.tolist() == replay.size.tolist()


@pytest.mark.long
@pytest.mark.parametrize(("n", "obs_dim", "action_dim", "nvec"), [(1, 4, 1, (2,)), (1, 1, 1, ()), (3, 2, 2, (2, 3))])
def test_learning_copies_no_column_of_the_replay(n: int, obs_dim: int, action_dim: int, nvec: tuple[int, ...]):
    rows = 12_345
    action_dtype = np.dtype(np.int32 if nvec else np.float32)
    replay = replays.create(rows * n, n, Layout(obs_dim, np.dtype(np.float32), action_dim, np.dtype(action_dtype)))
    config = AWRConfig(hidden=2, batch_size=8)
    state = init_state(ALGORITHMS["awr"], config, obs_dim, nvec, action_dim, seed=0)
    new = jax.tree.map(lambda column: np.zeros(column.shape[1:], column.dtype), replay.columns)
    learn: Any = compile_programs(ALGORITHMS["awr"], config, n).learn
    program = learn.lower(state, replay, Mix(), new, np.ones(n, bool), new.obs).compile().as_text()
    moved = [line for line in program.splitlines() if re.search(rf"= \w+\[{rows},.*\bcopy\(", line)]
    assert f"[{rows},{n}]" in program
    assert not moved, moved


@pytest.mark.long
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_extending_is_writing_one_row_after_another(data: st.DataObject):
    n, k = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([4, ROWS + 2]))
    rollouts = data.draw(
        st.lists(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=k, max_size=k), max_size=4)
    )
    one, many, step = rings(n), rings(n), 0
    for rollout in rollouts:
        ids = 1000 * np.arange(n) + np.arange(step, step + k)[:, None]
        many = extend(many, coded(ids), np.array(rollout))
        for row, valid in zip(ids, rollout, strict=True):
            one = write(one, coded(row), np.array(valid))
        step += k
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.long
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_in_order_the_newest_step_of_each_stream_comes_last(data: st.DataObject):
    n = data.draw(st.integers(1, 3))
    valid = data.draw(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=3 * ROWS))
    replay, streams = filled(rings(n), valid)
    order, stored = map(np.asarray, in_order(replay))
    for stream, held in enumerate(streams):
        places = order[:, stream]
        assert stored[places].tolist() == [False] * (ROWS - len(held)) + [True] * len(held)
        assert ids_of(at(replay, places[ROWS - len(held) :])).tolist() == held


def test_places_drawn_are_those_of_stored_steps_and_all_are_as_likely():
    replay, streams = filled(rings(2), [[True, step < 3] for step in range(ROWS + 2)])
    place = np.asarray(draw(replay, jax.random.key(0), DRAWS))
    ids, counts = np.unique(ids_of(at(replay, place)), return_counts=True)
    assert ids.tolist() == sorted(streams[0] + streams[1])
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
def test_a_mix_has_its_share_of_the_data_and_the_rest_of_the_replay(share: float):
    replay, streams = filled(rings(3), np.ones((5, 3)))
    data, _ = filled(rings(1), np.ones((ROWS, 1)))
    data = data._replace(columns=jax.tree.map(jnp.asarray, coded(5000 + np.arange(ROWS)[:, None])))
    drawn = ids_of(sample_mixed(replay, data, share, jax.random.key(0), (4, *DRAWS)))
    assert (drawn >= 5000).mean(axis=1) == pytest.approx(share, abs=0.01)
    logged, seen = (np.unique(part, return_counts=True) for part in (drawn[drawn >= 5000], drawn[drawn < 5000]))
    assert logged[0].tolist() == ([*range(5000, 5000 + ROWS)] if share > 0 else [])
    assert seen[0].tolist() == (sorted(i for stream in streams for i in stream) if share < 1 else [])
    for _, counts in (logged, seen):
        assert not len(counts) or stats.chisquare(counts).pvalue > 1e-3
    # Which are the data's differs from minibatch to minibatch.
    assert share in (0.0, 1.0) or len(np.unique(drawn >= 5000, axis=0)) == 4


@pytest.mark.long
@pytest.mark.parametrize(
    ("total", "capacity", "n", "rows"),
    [(12, 12, 1, 12), (12, 30, 1, 30), (12, 5, 1, 12), (13, 0, 3, 5), (12, 20, 3, 7), (3, 10, 4, 3), (2, 0, 4, 1)],
)
def test_data_fill_each_stream_with_steps_that_follow_one_another(total: int, capacity: int, n: int, rows: int):
    ids = 6 * np.arange(total) + 1
    replay = replays.fill(coded(ids), capacity, n)
    assert replay.columns.reward.shape == (rows, n)
    stretch = -(-total // n)
    expected = [ids[stretch * i : stretch * (i + 1)].tolist() for i in range(n)]
    assert [len(stream) for stream in expected] == replay.size.tolist()
    # None of these ids has a flag of its own: what is marked is where the stretches end.
    ends = {stream[-1] for stream in expected if stream}
    order, there = map(np.asarray, in_order(replay))
    for i, stream in enumerate(expected):
        steps = at(replay, [place for place in order[:, i] if there[place]])
        assert steps.truncated.tolist() == [j in ends for j in stream]
        assert ids_of(steps._replace(truncated=np.zeros(len(stream), bool))).tolist() == stream
    # What comes next takes an empty row, or else the oldest.
    grown = write(replay, coded(np.full(n, 6001)), np.ones(n, bool))
    for i, stream in enumerate(expected):
        assert np.asarray(grown.columns.action)[:, i, 0].tolist().count(6001) == 1
        kept = [*stream, 6001][-rows:]
        places = [place for place in np.asarray(in_order(grown)[0])[:, i] if np.asarray(in_order(grown)[1])[place]]
        assert at(grown, places).action[:, 0].tolist() == kept


def test_a_trimmed_replay_has_the_rows_in_use_and_is_refilled_to_what_it_was():
    for steps in (3, ROWS, ROWS + 2):
        replay, streams = filled(rings(2), [[True, step % 2 == 0] for step in range(steps)])
        kept = replays.trim(replay)
        assert len(kept.columns.reward) == min(steps, ROWS)
        again = replays.refill(ROWS, kept)
        assert stored(again) == streams
        for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(replay), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_a_rollout_is_cut_where_each_stream_has_its_last_step():
    rollout = rollouts.create(4, 4, Layout(2, np.dtype(np.float32), 1, np.dtype(np.int32)))
    flags = {
        "terminated": [[0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]],
        "valid": [[1, 1, 0, 1], [1, 1, 0, 1], [0, 1, 0, 0]],
    }
    for terminated, valid in zip(*(np.array(rows, bool) for rows in flags.values()), strict=True):
        step = coded([1, 5, 7, 11])._replace(terminated=terminated, truncated=np.zeros(4, bool))
        rollout = rollouts.append(rollout, step, valid)
    marked, elsewhere = rollouts.cut(rollout, np.ones(4, bool))
    assert elsewhere.tolist() == [False, False, True, False]
    assert np.argwhere(marked.steps.truncated).tolist() == [[2, 1]]
    for streams, places in (([1, 0, 1, 1], []), ([0, 1, 0, 0], [[2, 1]])):
        marked, elsewhere = rollouts.cut(rollout, np.array(streams, bool))
        assert elsewhere.tolist() == [False, False, bool(streams[2]), False]
        assert np.argwhere(marked.steps.truncated).tolist() == places
    assert not rollout.steps.truncated.any(), "the buffers of the run are left alone"


def test_some_streams_are_cut_and_others_not():
    replay = write(rings(3), coded([1, 5, 7]), np.ones(3, bool))
    marked = cut(replay, np.array([True, False, True]))
    assert np.asarray(marked.columns.truncated)[0].tolist() == [True, False, True]


def at(replay: Replay, places: Any) -> Transition:
    """Return the steps at places of the flattened columns."""
    return jax.tree.map(lambda column: np.asarray(column)[places], replays.flatten(replay))


def test_the_bytes_of_a_replay_are_those_of_its_columns():
    layout = Layout(5, np.dtype(np.float32), 2, np.dtype(np.int32))
    assert 21 * layout.n_bytes == sum(column.nbytes for column in replays.create(21, 3, layout).columns)
