"""Train from a config: `accelerate launch train.py --config configs/x.yaml section.key=value …`."""

from captioner.cli import train_main

if __name__ == "__main__":
    train_main()
