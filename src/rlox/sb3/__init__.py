"""Stable-Baselines3 behind our protocol of learners: the only package that imports it, or PyTorch."""
