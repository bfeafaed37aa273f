"""The commands: one file each, and what they share. Knows everything, and is known by nobody."""

from .main import main, train_main

__all__ = ["main", "train_main"]
