"""Words of Stable-Baselines3 and d3rlpy are answered with ours, in one line."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlox import Dataset, Policy, Trainer
from rlox.cli import main
from rlox.errors import ConfigError

SMALL = {"hidden": 8, "batch_size": 16}


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer("bc", dataset="pendulum-random", config=SMALL)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"verbose": 1}, r"Trainer has no argument 'verbose': progress shows by itself"),
        ({"policy": "MlpPolicy"}, r"no argument 'policy': networks follow from the spaces, .*'hidden': \(64, 64\)"),
        ({"tensorboard_log": "tb"}, r"no argument 'tensorboard_log': run_dir='runs/1' is a new folder"),
        ({"learning_rate": 0.001}, r"'learning_rate': it is a setting, config=\{'learning_rate': 0\.001\}\."),
        ({"lr": 1e-4}, r"no argument 'lr'\. Did you mean 'learning_rate'\?"),
        ({"datasets": "x"}, r"no argument 'datasets'\. Did you mean 'dataset'\?"),
        ({"policy_kwargs": {}, "env": "CartPole-v1"}, "networks are set by config"),
    ],
)
def test_arguments_of_other_libraries_are_told_ours(given: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as error:
        Trainer("bc", dataset="pendulum-random", **given) if "env" not in given else Trainer("bc", **given)
    assert "\n" not in str(error.value)


def test_methods_of_other_libraries_are_told_ours(trainer: Trainer):
    for name, ours in [("learn", "train(total_timesteps="), ("fit", "train_offline"), ("save_model", "save('folder/')"),
                       ("num_timesteps", "env_steps"), ("set_env", "Trainer(..., env=...)"),
                       ("save_replay_buffer", "trainer.save('folder/')")]:  # fmt: skip
        with pytest.raises(AttributeError) as error:
            getattr(trainer, name)
        assert str(error.value).startswith(f"Trainer has no '{name}': ")
        assert ours in str(error.value)
    assert not hasattr(trainer, "learn")
    with pytest.raises(AttributeError, match="'Trainer' object has no attribute 'lern'"):
        getattr(trainer, "lern")  # noqa: B009
    with pytest.raises(ConfigError, match="train has no argument 'callback': callbacks are given as Trainer"):
        trainer.train_offline(5, callback=None)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match=r"train has no argument 'log_intervals'\. Did you mean 'log_interval'"):
        trainer.train_offline(5, log_intervals=3)  # pyright: ignore[reportCallIssue]


def test_arguments_of_an_evaluation_there_are_told_ours(trainer: Trainer):
    evaluate: Any = trainer.evaluate
    with pytest.raises(ConfigError, match=r"evaluate has no argument 'n_eval_episodes': evaluate\(n_episodes=...\)"):
        evaluate(n_eval_episodes=3)
    with pytest.raises(ConfigError, match=r"evaluate has no argument 'n_episode'\. Did you mean 'n_episodes'"):
        evaluate(n_episode=3)


def test_an_action_that_is_taken_apart_is_refused(trainer: Trainer):
    policies: list[Any] = [trainer, trainer.policy]
    for policy in policies:
        with pytest.raises(ConfigError, match=r"the action alone, since policies have no memory: action = predict"):
            _action, _state = policy.predict([1.0, 0.0, 0.0])
        with pytest.raises(ConfigError, match="the action alone"):
            _, _ = policy.predict(np.zeros((3, 3)), deterministic=False)
        with pytest.raises(ConfigError, match="predict has no argument 'state': policies have no memory"):
            policy.predict([1.0, 0.0, 0.0], state=None)
        (first,) = policy.predict([1.0, 0.0, 0.0])
        assert first == policy.predict([1.0, 0.0, 0.0])[0]
        assert policy.predict([1.0, 0.0, 0.0]).shape == (1,)


def test_several_actions_may_be_taken_apart(trainer: Trainer):
    policies: list[Any] = [trainer, trainer.policy]
    for policy in policies:
        first, second = list(map(policy.predict, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        assert (first.shape, second.shape) == ((1,), (1,))
        first, second = (policy.predict(obs) for obs in np.eye(3)[:2])
        assert (first.shape, second.shape) == ((1,), (1,))


def test_an_action_of_two_may_be_taken_apart():
    table = {
        "observations": np.zeros((6, 1)),
        "actions": np.zeros((6, 2)),
        "rewards": np.zeros(6),
        "terminals": [1] * 6,
    }
    dataset = Dataset.from_arrays(table, action_space=spaces.Box(-1, 1, (2,)))
    policy = Trainer("bc", dataset=dataset, config=SMALL).policy
    steer, gas = policy.predict([0.0])
    assert isinstance(policy, Policy)
    assert float(steer) == policy.predict([0.0])[0]
    assert float(gas) == policy.predict([0.0])[1]


def test_choices_are_refused_too_where_python_would_say_that_they_cannot_be_iterated():
    policy: Any = Trainer("bc", dataset="cartpole-random", config=SMALL).policy
    with pytest.raises(ConfigError, match=r"^predict returns the action alone"):
        _action, _state = policy.predict([0.0] * 4, deterministic=True)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["learn", "--env", "CartPole-v1"], "'learn' is not a command of rlox. Did you mean 'train'?"),
        (["train", "awr", "--verbose", "1"], "'--verbose' is not a flag of `rlox train awr`. Progress shows by itself"),
        (["train", "awr", "--tensorboard-log=x"], "TensorBoard events are in the run's folder, which --run-dir names."),
        (["train", "awr", "--policy", "MlpPolicy"], "Networks follow from the spaces, their widths from --hidden."),
    ],
)
def test_commands_and_flags_of_other_libraries(command: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(command)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
