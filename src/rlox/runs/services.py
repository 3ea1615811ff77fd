"""Loggers of services: Trackio, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib.util
import math
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlox.errors import ConfigError
from rlox.files import as_name


class TrackioLogger:
    """Sends records to Trackio, which keeps them on this machine unless ``space_id`` is given.

    Args:
        project: its name there.
        name: of the run; by default the run folder's. A few letters are added, since Trackio finds runs by their names.
        options: of ``trackio.init``, such as ``space_id``.

    Raises:
        ConfigError: the extra rlox[trackio] is missing.
    """

    def __init__(self, project: str = "rlox", *, name: str | None = None, **options: Any):
        _require("trackio")
        self._project, self._name, self._run = project, name, None
        self._options = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False, **options}

    def open(self, run: Mapping[str, Any], resume_id: str | None) -> str | None:
        import trackio

        name = resume_id or f"{self._name or _name_of(run)}-{secrets.token_hex(3)}"
        resume = "allow" if resume_id else "never"
        self._run: Any = trackio.init(self._project, name=name, config=dict(run), resume=resume, **self._options)
        return name

    def log(self, record: Mapping[str, float], *, offline: bool) -> None:
        if self._run:
            step, values = over_steps(record, offline=offline)
            self._run.log(values, step=step)

    def close(self) -> None:
        if self._run:
            self._run.finish()
            self._run = None


class WandbLogger:
    """Sends records to Weights & Biases, over ``env_steps``; those of offline learning are ``offline/...``.

    Args:
        project: its name there.
        name: of the run; by default the run folder's.
        options: of ``wandb.init``, such as ``mode="offline"``, ``entity`` or ``tags``.

    Raises:
        ConfigError: the extra rlox[wandb] is missing.
    """

    def __init__(self, project: str = "rlox", *, name: str | None = None, **options: Any):
        _require("wandb")
        self._project, self._name, self._options, self._run = project, name, options, None

    def open(self, run: Mapping[str, Any], resume_id: str | None) -> str | None:
        import wandb

        # "create_new" leaves a run that the caller has open alone.
        how = {"reinit": "create_new", "resume": "allow" if resume_id else None, **self._options}
        name = self._name or _name_of(run)
        self._run: Any = wandb.init(project=self._project, name=name, id=resume_id, config=dict(run), **how)
        self._run.define_metric("*", step_metric="env_steps")
        self._run.define_metric("offline/*", step_metric="gradient_steps")
        return self._run.id

    def log(self, record: Mapping[str, float], *, offline: bool) -> None:
        if self._run:
            _, values = over_steps(record, offline=offline)
            self._run.log({**values, **{name: record[name] for name in ("env_steps", "gradient_steps")}})

    def close(self) -> None:
        if self._run:
            self._run.finish()
            self._run = None


class MLflowLogger:
    """Sends records to MLflow.

    Args:
        experiment: its name there.
        name: of the run; by default the run folder's.
        tracking_uri: such as ``"sqlite:///mlflow.db"`` or ``"http://localhost:5000"``; by default as MLflow has it.

    Raises:
        ConfigError: the extra rlox[mlflow] is missing.
    """

    def __init__(self, experiment: str = "rlox", *, name: str | None = None, tracking_uri: str | None = None):
        _require("mlflow")
        self._experiment, self._name, self._uri = experiment, name, tracking_uri
        self._client: Any = None
        self._id = ""

    def open(self, run: Mapping[str, Any], resume_id: str | None) -> str | None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=self._uri)
        if resume_id and self._goes_on(client, resume_id):
            self._client, self._id = client, resume_id
            return resume_id
        experiment = client.get_experiment_by_name(self._experiment)
        where = experiment.experiment_id if experiment else client.create_experiment(self._experiment)
        self._id = client.create_run(where, run_name=self._name or _name_of(run)).info.run_id
        client.log_batch(self._id, params=[Param(name, str(value)[:500]) for name, value in _flat(run)][:100])
        self._client = client
        return self._id

    def _goes_on(self, client: Any, run_id: str) -> bool:
        """Open a run again; returns whether it is there."""
        from mlflow.exceptions import MlflowException

        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def log(self, record: Mapping[str, float], *, offline: bool) -> None:
        from mlflow.entities import Metric

        if self._client:
            step, values = over_steps(record, offline=offline)
            now = int(1000 * time.time())
            self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        if self._client:
            self._client.set_terminated(self._id)
            self._client = None


def over_steps(record: Mapping[str, float], *, offline: bool) -> tuple[int, dict[str, float]]:
    """Return the step of a record, and its finite metrics; those of offline learning are ``offline/...``.

    The two are over different steps, environment steps and gradient steps, and would be one broken curve otherwise.
    """
    step = int(record["gradient_steps" if offline else "env_steps"])
    before = "offline/" if offline else ""
    found = {f"{before}{name}": float(x) for name, x in record.items() if "/" in name and math.isfinite(x)}
    return step, found


def _require(name: str) -> None:
    # Found, not imported: that takes seconds.
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"The {name} logger needs the extra rlox[{name}]: pip install '.[{name}]' in a clone of rlox."
        )


def _name_of(run: Mapping[str, Any]) -> str:
    if run["run_dir"] is not None:
        return Path(run["run_dir"]).name
    source = run["env"] or Path(run["dataset"] or "data").stem
    return as_name(f"{run['algorithm']}-{source}-{run['seed']}")


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Return the entries of nested mappings, with names such as ``config.beta``."""
    found = []
    for name, value in values.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else [(before + name, value)]
    return found
