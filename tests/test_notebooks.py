"""How things look: in a notebook that is really executed, and in a terminal."""

import copy
import json
import pickle
import re
from typing import Any

import numpy as np
import pytest

from rlox import Dataset, Trainer
from rlox.tables import Results, as_html, as_line, shown

TINY: dict[str, Any] = {"hidden": 8, "batch_size": 16, "learning_starts": 20, "buffer_size": 200}

CELLS = {
    "train": """
        import time
        from rlox import Dataset, Trainer
        config = {"hidden": 8, "batch_size": 16, "learning_starts": 20}
        trainer = Trainer("awr", "CartPole-v1", config=config, callbacks=lambda *_: time.sleep(0.05))
        metrics = trainer.train(400, log_interval=20, eval_interval=200, n_eval_episodes=1)
    """,
    "metrics": "metrics",
    "trainer": "trainer",
    "policy": "trainer.policy",
    "dataset": "Dataset.load('cartpole-random')",
    "hidden": "trainer.train(20, progress=False); None",
    "printed": "print(trainer)",
}


@pytest.fixture(scope="module")
def outputs() -> dict[str, list[Any]]:
    """Return the outputs of each cell, after Jupyter's own client has run them."""
    pytest.importorskip("ipykernel")
    nbclient = pytest.importorskip("nbclient")
    import textwrap

    import nbformat.v4 as notebooks

    cells = [notebooks.new_code_cell(textwrap.dedent(code)) for code in CELLS.values()]
    notebook = notebooks.new_notebook(cells=cells)
    shows: list[str] = []

    class Client(nbclient.NotebookClient):
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            shows.append(msg["msg_type"])
            return super().process_message(msg, cell, cell_index)

    Client(notebook, timeout=120, kernel_name="python3").execute()
    found: dict[str, list[Any]] = dict(zip(CELLS, (cell.outputs for cell in cells), strict=True))
    found["messages"] = shows
    return found


@pytest.mark.long
def test_progress_in_a_notebook_is_one_line_that_changes(outputs: dict[str, list[Any]]):
    (line,) = outputs["train"]
    assert line.output_type == "display_data"
    assert line.data["text/plain"].startswith("400/400 steps | ")
    assert "return" in line.data["text/plain"]
    assert outputs["messages"].count("update_display_data") >= 3
    assert outputs["hidden"] == []


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("metrics", ["mean_reward", "actor/loss", "env_steps", "400"]),
        ("trainer", ["Trainer", "awr", "CartPole-v1", "400", "last return"]),
        ("policy", ["Policy", "Discrete(2)", "Box("]),
        ("dataset", ["Dataset", "cartpole-random", "episodes", "mean return"]),
    ],
)
def test_values_are_tables_in_a_notebook(cell: str, wanted: list[str], outputs: dict[str, list[Any]]):
    (output,) = outputs[cell]
    assert output.output_type == "execute_result"
    page = output.data["text/html"]
    texts = re.findall(r">([^<]+)<", page)
    for word in wanted:
        assert any(word in text for text in texts), word
    assert "color" not in page
    assert "<table" not in output.data["text/plain"]


def test_a_trainer_is_printed_on_one_line(outputs: dict[str, list[Any]]):
    (printed,) = outputs["printed"]
    assert re.fullmatch(
        r"Trainer\(algorithm: awr, env: CartPole-v1, env_steps: 420, gradient_steps: 401, last return: [\d.]+\)\n",
        printed.text,
    )


def test_a_trainer_says_where_it_learns_and_writes(tmp_path: Any):
    run = tmp_path / "<b>run"
    with Trainer("bc", dataset="cartpole-random", config={"hidden": 8, "batch_size": 16}, run_dir=run) as trainer:
        assert repr(trainer) == (
            f"Trainer(algorithm: bc, dataset: cartpole-random, env_steps: 0, gradient_steps: 0, run_dir: {shown(run)})"
        )
        page = trainer._repr_html_()
    assert "&lt;b&gt;run" in page
    assert "<b>run" not in page
    columns = {"observations": np.zeros((4, 2)), "actions": [0, 1, 0, 1], "rewards": [1.0] * 4, "terminals": [0, 1] * 2}
    given = Trainer("bc", lambda: __import__("gymnasium").make("CartPole-v1"), config=TINY)
    assert repr(given).startswith("Trainer(algorithm: bc, env: given, env_steps: 0")
    given.close()
    data = Dataset.from_arrays(columns, name="<i>mine")
    assert repr(data).startswith("Dataset(name: <i>mine, steps: 4, episodes: 2, mean return: 2, observations: Box(")
    assert "\n" not in repr(data)
    assert "&lt;i&gt;mine" in data._repr_html_()


def test_results_are_a_dict_that_reads_as_a_table():
    plain = {"mean_reward": 23.456789, "env_steps": 1234567, "a/b": float("nan"), "seconds": 12345.678}
    results = Results(plain)
    assert repr(results) == "mean_reward  23.46\nenv_steps    1,234,567\na/b          nan\nseconds      12,346"
    assert repr(Results()) == "{}"
    del results["a/b"], plain["a/b"]
    assert results == plain
    assert plain == results
    assert json.loads(json.dumps(results)) == plain
    assert pickle.loads(pickle.dumps(results)) == copy.deepcopy(results) == plain
    assert type(pickle.loads(pickle.dumps(results))) is Results
    assert {**results} == plain
    assert "<td" in results._repr_html_()
    assert "1,234,567" in results._repr_html_()


def test_train_and_evaluate_return_results_of_plain_numbers():
    with Trainer("awr", "CartPole-v1", config=TINY) as trainer:
        for results in (trainer.train(40), trainer.evaluate(1)):
            assert isinstance(results, Results)
            assert {type(value) for value in results.values()} <= {int, float}


def test_long_and_strange_values_stay_on_one_line_and_are_escaped():
    assert shown("a\n  b") == "a b"
    assert len(shown("x" * 1000)) <= 125
    assert shown(True) == "True"
    assert shown(-1234.5) == "-1,234"
    assert shown(1e20) == "1e+20"
    assert as_line("A", {"b": "c"}) == "A(b: c)"
    assert "<script>" not in as_html("<script>", {"<script>": "<script>"})
