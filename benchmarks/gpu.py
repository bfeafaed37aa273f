"""Everything that is to be known about a GPU, in one run of at most eight minutes: `python benchmarks/gpu.py`.

From a bare checkout with torch, torchvision, timm, transformers, accelerate, datasets and pillow. What is right comes
first (empty memories on each of SDPA's kernels, the ids of every mode beside `generate`'s, autocast), then what is
fast, beside transformers in bfloat16 with SDPA on the same device: captioning, training, a folder of JPEGs to text.
A part that fails says why and the next goes on. Prints one table last and writes every figure to `--output`. Without a
GPU it runs in a small size on the processor, to show that it runs.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from speed import Row, both, images_of, our_call, peer_call

from captioner import Captioner, CaptionerConfig
from captioner.model import MODES, CrossAttention, DecoderConfig
from captioner.search import SearchOptions, search

Figures = dict[str, float | str | bool]
KERNELS = (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION)
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
SECONDS = 450  # after which no further part is begun


def settled() -> float:
    """The time, once the device has done what it was given."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def median_seconds(call: Callable[[], object], rounds: int = 5 if CUDA else 1, warm: int = 2 if CUDA else 1) -> float:
    """Of one call."""
    times = []
    for turn in range(warm + rounds):
        began = settled()
        call()
        if turn >= warm:
            times.append(settled() - began)
    return statistics.median(times)


def empty_memories() -> Iterator[Figures]:
    """Rows with nothing to attend to: exactly zero, with finite gradients, on every kernel in every dtype."""
    for kernel in KERNELS:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            torch.manual_seed(0)
            decoder = DecoderConfig(vocab_size=50, hidden_size=128, num_layers=1, num_heads=2)
            decoder._attn_implementation = "sdpa"
            attention = CrossAttention(decoder, 128, 0).to(DEVICE, dtype)
            x, states = (torch.randn(*shape, 128, device=DEVICE, dtype=dtype) for shape in ((4, 8), (4, 16)))
            mask = torch.ones(4, 16, dtype=torch.bool, device=DEVICE)
            mask[1] = False
            mask[2, 5:] = False
            name = f"{kernel.name}, {str(dtype).removeprefix('torch.')}"
            try:
                with sdpa_kernel(kernel):
                    y = attention(x.requires_grad_(), states.requires_grad_(), mask, None)
                    y.float().square().sum().backward()
            except RuntimeError as error:
                yield {"what": name, "refused": str(error).splitlines()[0][:80]}
                continue
            gradients = [x.grad, states.grad, *(p.grad for p in attention.parameters() if p.grad is not None)]
            yield {
                "what": name,
                "zero": bool((y[1] == 0).all()),
                "finite": bool(all(g.isfinite().all() for g in gradients)),
            }


def tiny(mode: tuple[str, str | None], attention: dict | None = None) -> Captioner:
    """A captioner of random weights that looks and reads."""
    torch.manual_seed(0)
    config = CaptionerConfig(
        image_encoder={"name": "vit_tiny_patch16_224", "image_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 2},
        context_encoder={
            "model_type": "bert",
            "vocab_size": 100,
            "hidden_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 128,
        },
        decoder={"vocab_size": 100, "hidden_size": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.0},
        conditioning=mode[0],
        fusion=mode[1],
        memory=None if attention is None else {"image": {"attention": attention["kind"], **attention["options"]}},
    )
    model = Captioner(config)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return model.to(DEVICE).eval()


def batch() -> dict[str, torch.Tensor]:
    """Of four samples, one without a context."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[2] = False
    made = {
        "pixel_values": torch.randn(4, 3, 64, 64, generator=draw),
        "context_input_ids": torch.randint(3, 100, (4, 7), generator=draw),
        "context_attention_mask": mask,
    }
    return {name: x.to(DEVICE) for name, x in made.items()}


def same_ids() -> Iterator[Figures]:
    """Greedy and beams of the fast search beside `generate`, in float32."""
    for mode in MODES:
        model, given = tiny(mode), batch()
        for beams in (1, 4):
            options = SearchOptions(num_beams=beams, max_new_tokens=12)
            found = [best.ids for best, *_ in search(model, model.encode(**given), options)]
            ids = model.generate(**given, num_beams=beams, max_new_tokens=12, do_sample=False)[:, 1:].tolist()
            ended = model.generation_config.eos_token_id
            wanted = [row[: row.index(ended) + 1] if ended in row else row for row in ids]
            yield {"what": f"{mode[1] or mode[0]}, {beams} beams", "same ids": found == wanted}


def autocast() -> Iterator[Figures]:
    """A training step of every mode and kind of attention under bfloat16 autocast: finite loss and gradients."""
    kinds = {"softmax": None, "linear": {"kind": "linear", "options": {}}}
    kinds["topk"] = {"kind": "topk", "options": {"block_size": 4, "blocks": 2}}
    for mode in MODES:
        for name, attention in kinds.items():
            shown = f"{mode[1] or mode[0]}, {name}"
            try:
                model = tiny(mode, attention).train()
            except ValueError:
                continue  # a kind that does not go with one softmax over all modalities
            try:
                labels = torch.randint(3, 100, (4, 9), device=DEVICE)
                with torch.autocast(DEVICE.type, torch.bfloat16):
                    loss = model(**batch(), labels=labels).loss
                loss.backward()
                finite = all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
                yield {"what": shown, "finite": bool(loss.isfinite() and finite)}
            except RuntimeError as error:
                yield {"what": shown, "failed": str(error).splitlines()[0][:80]}


def captioning(small: bool) -> Iterator[Figures]:
    """Whole calls beside transformers, both in bfloat16 on the device."""
    sizes = [("tiny", 224, 1, 2)] if small else None
    for peer, pixels, images, beams in sizes or [
        ("base", 224, 1, 5),
        ("base", 224, 64, 5),
        ("base", 224, 256, 1),
        ("blip", 384, 1, 5),
        ("blip", 384, 64, 5),
        ("blip", 384, 64, 1),
    ]:
        row = Row(peer, pixels, images, beams)
        theirs, ours = (model.to(DEVICE, torch.bfloat16) for model in both(peer, pixels))
        given = images_of(row).to(DEVICE, torch.bfloat16)
        with torch.inference_mode():
            slow, fast = (median_seconds(call(m, row, given)) for call, m in ((peer_call, theirs), (our_call, ours)))
        yield {
            "what": row.name,
            "transformers images/s": images / slow,
            "ours images/s": images / fast,
            "ratio": slow / fast,
        }


def training(small: bool) -> Iterator[Figures]:
    """A step of forward, backward and AdamW under bfloat16 autocast, five captions an image."""
    size, images = ("tiny", 2) if small else ("base", 64)
    theirs, ours = (model.to(DEVICE).train() for model in both(size, 224))
    pixels = torch.randn(images, 3, 224, 224, device=DEVICE)
    labels = torch.randint(3, 50_000, (5 * images, 20), device=DEVICE)

    def step(model: torch.nn.Module, rows: torch.Tensor, **options: bool) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=CUDA)

        def call() -> None:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = model(pixel_values=rows, labels=labels, **options).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return call

    slow = median_seconds(step(theirs, pixels.repeat_interleave(5, dim=0)))
    fast = median_seconds(step(ours, pixels, loss_only=True))
    yield {
        "what": f"{size}, {images} images",
        "transformers captions/s": len(labels) / slow,
        "ours captions/s": len(labels) / fast,
        "ratio": slow / fast,
    }


def pipeline(small: bool) -> Iterator[Figures]:
    """A folder of JPEGs to text by what `captioner caption` runs, with the share of the time that it waited."""
    from captioning import write_photos

    from captioner.base import GenerationSettings
    from captioner.bulk import Captioning, CaptioningOptions, find_inputs

    size, count, workers = ("tiny", 4, 1) if small else ("base", 1500, 14)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
        folder.mkdir()
        write_photos(folder, count)
        _, ours = both(size, 224)
        from speed import PEERS

        from captioner import load

        parts, saved = PEERS[size](size, 224), Path(place, "peer")
        for part in parts:
            part.save_pretrained(saved)
        _, processor = load(saved)
        options = CaptioningOptions(
            generation=GenerationSettings(num_beams=1, max_new_tokens=20), batch_size=64, workers=workers
        )
        job = Captioning(ours.to(DEVICE, torch.bfloat16).eval(), processor, options)
        began = settled()
        done = sum("caption" in record for _, record in job.run(find_inputs([str(folder)])))
        seconds = settled() - began
    yield {"what": f"{count} photos", "images/s": done / seconds, "waiting": job.waited / seconds}


def run(parts: dict[str, Callable[[], Iterator[Figures]]]) -> dict[str, list[Figures]]:
    """Every part, whatever becomes of the others."""
    began, figures = time.perf_counter(), {}
    for name, part in parts.items():
        figures[name] = rows = []
        if time.perf_counter() - began > SECONDS:
            rows.append({"what": "left out", "why": "no time was left"})
            continue
        try:
            for row in part():
                rows.append(row)
                print(name, row, flush=True)
        except Exception as error:  # the next part goes on
            traceback.print_exc()
            rows.append({"what": "stopped", "why": f"{type(error).__name__}: {error}"[:200]})
    return figures


def shown(value: float | str | bool) -> str:
    """A cell of the table."""
    return f"{value:.3g}" if isinstance(value, float) else {True: "yes", False: "**no**"}.get(value, str(value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="gpu.json")
    parser.add_argument("--small", action="store_true", help="tiny sizes; so without a GPU")
    given = parser.parse_args()
    small = given.small or not CUDA
    device = torch.cuda.get_device_name() if CUDA else "processor"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    figures = run(
        {
            "empty memories": empty_memories,
            "same ids": same_ids,
            "autocast": autocast,
            "captioning": lambda: captioning(small),
            "training": lambda: training(small),
            "pipeline": lambda: pipeline(small),
        }
    )
    Path(given.output).write_text(json.dumps({"device": device, "versions": versions, "figures": figures}, indent=1))
    print(f"\n{device}, {versions}\n\n| part | what | figures |\n|---|---|---|")
    for name, rows in figures.items():
        for row in rows:
            cells = ", ".join(f"{key} {shown(value)}" for key, value in row.items() if key != "what")
            print(f"| {name} | {row['what']} | {cells} |")


if __name__ == "__main__":
    main()
