"""The shape annotations of rlox.core are enforced in every test."""

from jaxtyping import install_import_hook

install_import_hook("rlox.core", "typechecker.checked")
