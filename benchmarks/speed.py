"""Captioning beside transformers, on the same weights with the same tokens out: `python benchmarks/speed.py [ROW …]`.

Peers: `VisionEncoderDecoderModel` (ViT + GPT-2) and BLIP, each at its best attention backend, in fp32 and eager mode.
Random weights in the real sizes, spread so that captions differ; no end token, 20 tokens; `load` adopts what the peer
has saved, in each of the layouts of `cpu.LAYOUTS`: "auto" is what `captioner caption` does by itself, "fast"
copies more. All take turns after two rounds of warming up, and a ratio is the median of the rounds' ratios. The
allocator keeps freed memory for all, unless `--default-allocator`. Prints Markdown; without rows, all of them.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    GPT2Config,
    GPT2Tokenizer,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)
from transformers.modeling_outputs import BaseModelOutput

from captioner import Captioner, load
from captioner.cpu import LAYOUTS, prepared
from captioner.search import SearchOptions, search

TOKENS = 20
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_MMAP_THRESHOLD_": "17179869184"}
SIZES = {  # width, layers and heads of the image encoder, then of the text decoder
    "base": ((768, 12, 12), (768, 12, 12)),  # ViT-B/16 + GPT-2 small
    "small": ((384, 12, 6), (384, 6, 6)),  # ViT-S/16 + 6 layers of 384
    "tiny": ((192, 12, 3), (256, 4, 4)),  # ViT-Ti/16 + 4 layers of 256, for training
}


class Row(NamedTuple):
    """One line of the table."""

    peer: str
    pixels: int
    images: int
    beams: int
    decoding_only: bool = False

    @property
    def name(self) -> str:
        what = "decoding" if self.decoding_only else "captioning"
        return f"{what}-{self.peer}-{self.pixels}px-{self.images}x{self.beams}"


ROWS = [
    *(Row(peer, 224, images, beams) for peer in ("base", "small") for images in (8, 1) for beams in (5, 1)),
    Row("base", 224, 8, 5, True),
    *(Row(peer, 224, 4, 10, True) for peer in ("base", "small")),
    *(Row(peer, 224, 4, 1, True) for peer in ("base", "small")),
    *(Row(peer, 384, 4, 5, True) for peer in ("base", "small")),
    Row("blip", 384, 4, 3),
    Row("blip", 384, 4, 1),
]


def encoder_decoder(size: str, pixels: int) -> tuple[VisionEncoderDecoderModel, ViTImageProcessor, GPT2Tokenizer]:
    """ViT + GPT-2 of a size in `SIZES`."""
    torch.manual_seed(0)
    vit, text = SIZES[size]
    shape = dict(zip(("hidden_size", "num_hidden_layers", "num_attention_heads"), vit, strict=True))
    vit_config = ViTConfig(**shape, intermediate_size=4 * vit[0], image_size=pixels)
    shape = dict(zip(("n_embd", "n_layer", "n_head"), text, strict=True))
    text_config = GPT2Config(**shape, n_positions=128, bos_token_id=0, eos_token_id=None, add_cross_attention=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit_config, text_config)
    config.decoder_start_token_id = config.pad_token_id = 0
    config._attn_implementation = "sdpa"
    model = VisionEncoderDecoderModel(config)
    spread(model.decoder, model.decoder.transformer.wte, model.decoder.transformer.wpe)
    tokens = model.generation_config
    tokens.bos_token_id = tokens.decoder_start_token_id = tokens.pad_token_id = 0
    return (
        model,
        ViTImageProcessor(size={"height": pixels, "width": pixels}),
        GPT2Tokenizer(_words(text_config.vocab_size), merges=[]),
    )


def blip(size: str, pixels: int) -> tuple[BlipForConditionalGeneration, BlipImageProcessor, BertTokenizer]:
    """BLIP base; it refuses SDPA in this version of transformers."""
    torch.manual_seed(0)
    config = BlipConfig(vision_config={"image_size": pixels})
    model = BlipForConditionalGeneration(config)
    embeddings = model.text_decoder.bert.embeddings
    spread(model.text_decoder, embeddings.word_embeddings, embeddings.position_embeddings)
    return (
        model,
        BlipImageProcessor(size={"height": pixels, "width": pixels}),
        BertTokenizer(vocab=_words(config.text_config.vocab_size)),
    )


PEERS = {**dict.fromkeys(SIZES, encoder_decoder), "blip": blip}


def _words(count: int) -> dict[str, int]:
    """A vocabulary: special tokens, and words that no one says."""
    special = ["<|endoftext|>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(count - len(special)))])}


@torch.no_grad()
def spread(decoder: nn.Module, tokens: nn.Embedding, positions: nn.Embedding) -> None:
    """Matrices times 3, positions times 10: with the library's own initialisation captions repeat a few tokens."""
    for parameter in decoder.parameters():
        if parameter.ndim == 2 and parameter is not tokens.weight and parameter is not positions.weight:
            parameter.mul_(3.0)
    positions.weight.mul_(10.0)


def both(peer: str, pixels: int) -> tuple[nn.Module, Captioner]:
    """The peer, and what `load` makes of it."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        parts = PEERS[peer](peer, pixels)
        for part in parts:
            part.save_pretrained(folder)
        ours, _ = load(folder)
    return parts[0].eval(), ours


def images_of(row: Row) -> Tensor:
    """The same pixels for everyone, (B, 3, H, W)."""
    return torch.randn(row.images, 3, row.pixels, row.pixels, generator=torch.Generator().manual_seed(1))


def peer_call(model: nn.Module, row: Row, pixels: Tensor) -> Callable[[], Tensor]:
    """→ ids of the new tokens, (B, TOKENS)."""
    options = {"num_beams": row.beams, "max_new_tokens": TOKENS, "do_sample": False}
    if row.peer == "blip":  # its `generate` needs an end token: never allowed to come
        return lambda: model.generate(pixels, min_new_tokens=TOKENS, **options)[:, -TOKENS:]
    if row.decoding_only:
        states = model.encoder(pixels).last_hidden_state
        return lambda: model.generate(encoder_outputs=BaseModelOutput(states), **options)[:, -TOKENS:]
    return lambda: model.generate(pixels, **options)[:, -TOKENS:]


def our_call(model: Captioner, row: Row, pixels: Tensor) -> Callable[[], Tensor]:
    """→ ids of the new tokens, (B, TOKENS)."""
    ends = {"min_new_tokens": TOKENS} if row.peer == "blip" else {"eos_token_id": ()}
    options = SearchOptions(num_beams=row.beams, max_new_tokens=TOKENS, **ends)
    memory = model.encode(pixels) if row.decoding_only else None

    def call() -> Tensor:
        found = search(model, memory or model.encode(pixels), options)
        return torch.tensor([best.ids for best, *_ in found])

    return call


def race(
    calls: list[Callable[[], Tensor]], options: argparse.Namespace, warm: int = 2
) -> tuple[list[list[float]], bool]:
    """Seconds of each call in every round, and whether all calls gave the same."""
    seconds, same = [], True
    clock = time.thread_time if options.cpu_time else time.perf_counter
    for turn in range(warm + options.rounds):
        times, results = [], []
        for call in calls:
            began = clock()
            results.append(call())
            times.append(clock() - began)
        same &= all(torch.equal(result, results[0]) for result in results)
        if turn >= warm:
            seconds.append(times)
    return list(map(list, zip(*seconds, strict=True))), same


def line(row: Row, peer: nn.Module, ours: Captioner, options: argparse.Namespace) -> str:
    """One row of the table."""
    pixels = images_of(row)
    contenders = [prepared(ours, row.images, row.beams, layout) for layout in options.layouts]
    calls = [peer_call(peer, row, pixels), *(our_call(model, row, pixels) for model in contenders)]
    (theirs, *own), same = race(calls, options)
    cells = [row.name, f"{statistics.median(theirs):.3f}"]
    for seconds in own:
        cells += [f"{statistics.median(seconds):.3f}", ratio(theirs, seconds)]
    return f"| {' | '.join(cells)} | {'yes' if same else '**no**'} |"


def rounded_line(row: Row, peer: nn.Module, ours: Captioner, options: argparse.Namespace) -> str:
    """The same with ours in bfloat16, which changes numbers: with the share of captions that stay what they were."""
    pixels = images_of(row)
    short = deepcopy(ours).to(torch.bfloat16)
    calls = [peer_call(peer, row, pixels), our_call(short, row, pixels.bfloat16())]
    (theirs, own), _ = race(calls, options)
    stay = (calls[0]() == calls[1]()).all(dim=1).float().mean()
    cells = [f"{row.name}, bfloat16", f"{statistics.median(theirs):.3f}", f"{statistics.median(own):.3f}"]
    cells += [ratio(theirs, own), *["–"] * 2 * (len(options.layouts) - 1), f"{stay:.0%} of captions"]
    return f"| {' | '.join(cells)} |"


def ratio(theirs: list[float], ours: list[float]) -> str:
    """The median of the rounds' ratios, with the smallest and the largest."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def conditions(arguments: argparse.Namespace) -> str:
    """What the figures depend on."""
    allocator = ", ".join(f"{name}={os.environ[name]}" for name in ALLOCATOR if name in os.environ) or "default"
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, "
        f"{arguments.threads} threads; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; fp32, {arguments.rounds} rounds of "
        f"{'processor' if arguments.cpu_time else 'wall-clock'} time; "
        f"allocator: {allocator}; load at the start: {os.getloadavg()[0]:.1f}"
    )


def start(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the options that all benchmarks of speed have, set what they say, and print what the figures depend on."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="one thread's processor time: for a busy machine")
    parser.add_argument("--default-allocator", action="store_true")
    arguments = parser.parse_args()
    arguments.threads = 1 if arguments.cpu_time else arguments.threads
    if not arguments.default_allocator and not ALLOCATOR.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    torch.set_num_threads(arguments.threads)
    print(conditions(arguments), end="\n\n", flush=True)
    return arguments


def table(*heads: str) -> None:
    """The head of a table."""
    print("| ", " | ".join(heads), " |\n", "|---" * len(heads), "|", sep="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", choices=[[], *(row.name for row in ROWS)], metavar="ROW")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=["auto", "fast"])
    parser.add_argument("--bf16", action="store_true", help="also each row with ours in bfloat16, beside the same peer")
    arguments = start(parser)
    table("row", "peer, s", *(head for name in arguments.layouts for head in (f"{name}, s", "ratio")), "same ids")
    chosen = [row for row in ROWS if row.name in arguments.rows or not arguments.rows]
    with torch.inference_mode():
        for peer, pixels in dict.fromkeys((row.peer, row.pixels) for row in chosen):
            models = both(peer, pixels)
            for row in chosen:
                if (row.peer, row.pixels) == (peer, pixels):
                    print(line(row, *models, arguments), flush=True)
                    if arguments.bf16:
                        print(rounded_line(row, *models, arguments), flush=True)


if __name__ == "__main__":
    main()
