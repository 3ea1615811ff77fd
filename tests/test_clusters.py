"""The files of the page on clusters, as Ray's own launcher and autoscaler read them, and the commands in them."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
yaml = pytest.importorskip("yaml")

PAGE = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text()
pytestmark = pytest.mark.filterwarnings("ignore")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def file(name: str) -> Any:
    (text,) = (code for code in blocks("yaml") if code.startswith(f"# {name}\n"))
    return yaml.safe_load(text)


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Return a cluster file with Ray's defaults, as `ray up` uses it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_the_file_for_plain_machines_is_one_of_ray_s():
    config = file("cluster.yaml")
    prepared = check(config)
    (node,) = prepared["available_node_types"].values()
    assert prepared["max_workers"] == node["max_workers"] == len(config["provider"]["worker_ips"])
    with pytest.raises(Exception, match="setup_command"):
        check({**config, "setup_command": []})


def test_the_manifest_for_kubernetes_is_one_that_ray_s_autoscaler_takes():
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    cluster = file("raycluster.yaml")
    cluster["metadata"]["namespace"] = "default"
    found = _derive_autoscaling_config_from_ray_cr(cluster)
    check(found)
    types = found["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert (types["runs"]["resources"]["CPU"], types["runs"]["min_workers"], types["runs"]["max_workers"]) == (4, 0, 16)


def test_the_image_has_the_ray_and_the_python_of_the_manifest():
    import ray

    (text,) = blocks("dockerfile")
    version = re.search(r"FROM rayproject/ray:([\d.]+)-py3\d+\n", text)
    assert version is not None
    assert version[1] == file("raycluster.yaml")["spec"]["rayVersion"]
    assert version[1].split(".") <= ray.__version__.split(".")


def commands() -> Iterator[list[str]]:
    """Yield the words of every command on the page, in its blocks and in its files."""
    cluster, manifest = file("cluster.yaml"), file("raycluster.yaml")
    lines = [line for code in blocks("bash") for line in code.splitlines()]
    for name in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        lines += cluster[name]
    (worker,) = manifest["spec"]["workerGroupSpecs"]
    (container,) = worker["template"]["spec"]["containers"]
    lines.append(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    lines += re.findall(r"`(ray [^`]+)`", PAGE)
    for line in lines:
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        if words[:2] == ["kubectl", "exec"]:
            words = words[words.index("--") + 1 :]
        yield words


def test_ray_has_the_commands_of_the_page():
    from ray.scripts.scripts import cli

    found = [words for words in commands() if words[0] == "ray"]
    assert {words[1] for words in found} == {"start", "stop", "up", "down", "attach", "get-auth-token"}
    for words in found:
        # Click parses every flag and its type, and runs nothing.
        cli.commands[words[1]].make_context(words[1], words[2:])


def test_ray_takes_the_parameters_of_the_manifest():
    from ray.scripts.scripts import cli

    spec = file("raycluster.yaml")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        flags = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        cli.commands["start"].make_context("start", flags)


def test_rlox_has_the_commands_of_the_page():
    from rlox.cli import app

    found = [words[1:] for words in commands() if words[0] == "rlox"]
    assert len(found) == 8
    for words in found:
        _, bound, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
        assert bound.arguments
    with pytest.raises(Exception, match="rays"):
        app.parse_args([*found[0], "--rays", "auto"], exit_on_error=False, print_error=False)
