"""Logged data: columns, file formats, checks, datasets, and what they hold."""
