"""A search for settings: its space, its trials, Optuna's study of them, and what it comes to."""
