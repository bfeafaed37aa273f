"""The model card of a checkpoint: what it is made of, what it was trained on, how well it does, how to use it.

Knows configurations, not weights; the format of the metadata is `huggingface_hub`'s.
"""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .configuration import CaptionerConfig

CARD_FILE = "README.md"
GENERIC = "This model card has been automatically generated."  # in the card that transformers makes
TASK = "image-to-text"

TEXT = """
# Image captioner, {mode}

An image captioner that looks and reads: it attends to {modalities}. Made with `captioner`.

| part | |
|---|---|
{parts}

## Data

{data}

## Metrics

{metrics}

## Use

```python
from captioner import load

model, processor = load("{name}")
inputs = processor({inputs})
ids = model.generate(**inputs, num_beams=3, max_new_tokens={tokens})
print(processor.batch_decode(ids)[0])
```
{command}"""


def write_card(
    directory: Path,
    config: CaptionerConfig,
    data: str | None = None,
    metrics: Mapping[str, float] | None = None,
    base: str | None = None,
) -> None:
    """Write `README.md` into a checkpoint's directory.

    Args:
        data: what the captioner was trained on, in a few words.
        metrics: scores of a validation by name; `step` is the step at which they were measured.
        base: path or Hub id of the captioner that it was made from.
    """
    model_card(config, data, metrics, base).save(Path(directory) / CARD_FILE)


def replace_generic_card(directory: str | Path, config: CaptionerConfig) -> None:
    """Write our card in the place of the one that transformers makes for a repository without any."""
    file = Path(directory) / CARD_FILE
    if file.exists() and GENERIC in file.read_text(encoding="utf-8"):
        write_card(Path(directory), config)


def model_card(
    config: CaptionerConfig,
    data: str | None = None,
    metrics: Mapping[str, float] | None = None,
    base: str | None = None,
    name: str = "PATH_OR_HUB_ID",
) -> ModelCard:
    """The card; arguments as of `write_card`, and under which `name` the captioner will be loaded."""
    scores = {key: value for key, value in (metrics or {}).items() if key != "step"}
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["captioner", "image-captioning", mode_name(config).replace(", ", "-")],
        model_name="captioner" if scores else None,
        eval_results=[_result(key, value, data) for key, value in scores.items()] or None,
    )
    text = TEXT.format(
        mode=mode_name(config),
        modalities=" and ".join(f"an {m}" if m == "image" else f"a {m}" for m in config.modalities),
        parts="\n".join(f"| {part} | {what} |" for part, what in _parts(config).items()),
        data="\n\n".join(_origin(data, base)),
        metrics=_table(scores, (metrics or {}).get("step")),
        name=name,
        inputs=", ".join(EXAMPLES.get(own, f"{own}=values") for own in config.modalities),
        tokens=min(30, config.decoder.max_positions - 1),
        command=COMMAND.format(name=name) if config.image_encoder is not None else "",
    )
    return ModelCard(f"---\n{metadata}\n---\n{text}")


def mode_name(config: CaptionerConfig) -> str:
    """The conditioning mode in words: "concatenated", or "separate, serial"."""
    return ", ".join(filter(None, (config.conditioning, config.fusion)))


EXAMPLES = {"image": 'images="photo.jpg"', "context": 'context="what is known about it"'}
COMMAND = """
On the command line: `captioner caption photo.jpg --model {name}`
"""


def _parts(config: CaptionerConfig) -> dict[str, str]:
    decoder, context = config.decoder, config.context_encoder
    return {
        "conditioning": mode_name(config),
        "image encoder": "none" if config.image_encoder is None else f"{config.image_encoder['name']} (timm)",
        "context encoder": "none" if context is None else f"{context.model_type} (transformers)",
        **{
            f"{name} encoder": shape.get("model_type", "features made before")
            for name, shape in config.encoders.items()
        },
        "decoder": f"{decoder.num_layers} layers of width {decoder.hidden_size}, {decoder.vocab_size} tokens",
    }


def _origin(data: str | None, base: str | None) -> list[str]:
    made = [] if base is None else [f"Made from `{base}` with `captioner convert`; not trained since."]
    return made + ([f"Trained on {data}."] if data else [] if made else ["Not stated."])


def _result(metric: str, value: float, data: str | None) -> EvalResult:
    dataset = data or "not stated"
    return EvalResult(TASK, dataset, dataset, metric, round(value, 4), dataset_split="validation")


def _table(scores: Mapping[str, float], step: float | None) -> str:
    if not scores:
        return "Not measured."
    rows = [f"| {name} | {value:.4f} |" for name, value in scores.items()]
    when = f" at step {step:g}" if step is not None else ""
    return "\n".join(
        [f"On the validation split{when}; CIDEr-D on its scale of 0 to 10.", "", "| | |", "|---|---|", *rows]
    )
