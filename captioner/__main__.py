"""`python -m captioner` and `accelerate launch -m captioner` are the `captioner` command."""

from .cli import main

main()
