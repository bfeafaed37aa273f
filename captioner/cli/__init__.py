"""The commands: one file each, and what they share. Knows everything, and is known by nobody."""

from .main import main
from .train import train_main

__all__ = ["main", "train_main"]
