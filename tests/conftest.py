"""The shape annotations of rlox.core are enforced in every test."""

import hypothesis
import jaxtyping
import pytest

jaxtyping.install_import_hook("rlox.core", "typechecker.checked")

hypothesis.settings.register_profile("rlox", deadline=None, derandomize=True, database=None, max_examples=60)
hypothesis.settings.load_profile("rlox")


@pytest.fixture
def without_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let arguments of a wrong type reach the function, as they do outside the tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
