"""What each lever brings on Flickr8k: `python benchmarks/flickr8k_levers.py DATA FOLDER [LEVER …]`.

One short run of `configs/flickr8k.yaml` per lever, with one thing changed against the base, same steps and seed.
Trains what is not in FOLDER yet, then prints the table of flickr8k.md from all that is there.
"""

import json
import os
import sys
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captioner.adopt import assemble
from captioner.base import Settings, load_settings
from captioner.data import CaptionDataset, Collator, load_split
from captioner.training import train

DATA, FOLDER = sys.argv[1], Path(sys.argv[2])
STEPS, WORD_STEPS = 300, 150
BASE = [f"training.{name}={value}" for name, value in {
    "max_steps": STEPS, "warmup_steps": 40, "average_decay": 0.98, "eval_steps": STEPS, "save_steps": STEPS,
    "dataloader_num_workers": 0,
}.items()]  # fmt: skip
VIT = "name: vit_tiny_patch16_224, image_size: 112, embed_dim: 192, depth: 4, num_heads: 4, class_token: false"
WORDS = "word pretraining"
LEVERS = {
    "base": [],
    "two captions a photo and step, not five": ["data.captions_per_image=2"],
    "no augmentation": ["data.augment={}"],
    "no averaging of weights": ["training.average_decay=0"],
    "no dropout": ["model.dropout=0"],
    "no label smoothing": ["training.label_smoothing_factor=0"],
    "plain ViT": [f"model.image_encoder={{{VIT}}}"],
    "ViT with a convolutional stem": [f"model.image_encoder={{{VIT}, stem: convolutional}}"],
    WORDS: [f"model.image_encoder={{name: resnet10t, image_size: 112, pretrained: {FOLDER / 'words.safetensors'}}}"],
}


def settings_for(lever: str, directory: Path) -> Settings:
    changes = [f"data.path={DATA}", f"training.output_dir={directory}", *BASE, *LEVERS[lever]]
    return load_settings("configs/flickr8k.yaml", changes)


def pretrain_on_words(weights: Path) -> None:
    """Teach a new image encoder which words the five captions of a photo hold, and keep its weights."""
    settings = settings_for("base", FOLDER)
    samples = load_split(settings.data, settings.data.train_split)
    model, processor = assemble(
        settings.model, settings.data, lambda: (c for t in samples.texts for c in t["captions"])
    )
    encoder, vocabulary = model.encoder.image.train(), model.config.decoder.vocab_size
    head = nn.Linear(encoder.width, vocabulary)
    nn.init.constant_(head.bias, -5.0)  # most words are absent from most photos
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=settings.training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, WORD_STEPS)
    collator = Collator(processor, settings.data.captions_per_image, settings.data.augment, seed=1)
    loader = DataLoader(CaptionDataset(samples), 32, shuffle=True, drop_last=True, collate_fn=collator)
    for step, batch in enumerate(islice(loader, WORD_STEPS), start=1):
        logits = head(encoder(batch["pixel_values"]).mean(1))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, words(batch["labels"], logits)) * vocabulary
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"words, step {step}: loss {loss.item():.2f}", flush=True)
    save_file(encoder.backbone.state_dict(), weights)


def words(labels: Tensor, logits: Tensor) -> Tensor:
    """(N, T) ids of all captions → (B, V), 1 where a photo's captions hold the word."""
    ids = labels.reshape(logits.shape[0], -1).clamp(min=0)
    return torch.zeros_like(logits).scatter_(1, ids, 1.0)


def row(lever: str) -> str:
    lines = [json.loads(line) for line in (FOLDER / lever / "metrics.jsonl").read_text().splitlines()]
    scores = next(line for line in lines if "cider_d" in line)
    loss = next(line["loss"] for line in reversed(lines) if "loss" in line)
    minutes = max(line.get("minutes", 0) for line in lines)
    cells = [f"{scores[name]:.3f}" for name in ("bleu_1", "bleu_4", "rouge_l", "cider_d")]
    return f"| {lever} | {' | '.join(cells)} | {loss:.2f} | {minutes:.1f} |"


torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
FOLDER.mkdir(parents=True, exist_ok=True)
for lever in sys.argv[3:] or LEVERS:
    if lever == WORDS and not (FOLDER / "words.safetensors").exists():
        torch.manual_seed(0)
        pretrain_on_words(FOLDER / "words.safetensors")
    if not (FOLDER / lever / "last").exists():
        train(settings_for(lever, FOLDER / lever))
print("| changed against the base | BLEU-1 | BLEU-4 | ROUGE-L | CIDEr-D | last loss | minutes |")
print("|---|---|---|---|---|---|---|")
for lever in LEVERS:
    if (FOLDER / lever / "last").exists():
        print(row(lever))
