"""Settings of one run: what its four sections may hold, and what each key is by default.

Names follow transformers' `TrainingArguments` and `GenerationConfig` where one exists there. Knows nothing about
torch: what a key does is decided by the module that reads it. `configs.py` reads them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from .files import replacing
from .search_rules import FOR_SETTINGS, RULES, contradiction

NEAR_DUPLICATE = 0.99  # cosine of features

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0)]


def _no(value: Any) -> Any:
    """YAML reads a plain `no` as false."""
    return "no" if value is False else value


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the key, the value and the remedy."""


class Section(BaseModel):
    """One section of the settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


def _at_home(value: Any) -> Any:
    """The value with "~" for what it stands for at the beginning of every path."""
    if isinstance(value, dict):
        return {key: _at_home(own) for key, own in value.items()}
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


class SectionWithPaths(Section):
    """One whose texts may be paths that begin with "~"."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, values: Any) -> Any:
        return _at_home(values)


class ModelSettings(SectionWithPaths):
    """What to build: parts from scratch (dicts), from pretrained weights (names), or a whole checkpoint."""

    image_encoder: dict[str, Any] | None = None  # {"name": timm model, "image_size": …, "pretrained": true|false|file}
    context_encoder: dict[str, Any] | str | None = None  # transformers config, or a pretrained name or directory
    encoders: dict[str, dict[str, Any] | str] = {}  # further modalities by name; see CaptionerConfig
    decoder: dict[str, Any] | str = Field(default_factory=dict)  # DecoderConfig, or a pretrained language model
    conditioning: Literal["concatenated", "separate"] = "concatenated"
    fusion: Literal["serial", "parallel", "hierarchical", "gated", "joint"] | None = None
    modality_order: list[str] = ["image", "context"]
    max_images: PositiveInt = 1  # of a sample
    context_window: dict[str, Any] | None = None  # {"length": tokens, "overlap": tokens}; null reads a context at once
    memory: dict[str, dict[str, Any]] = {}  # of long memories: pool, resampler, attention; see CaptionerConfig
    dropout: float | None = Field(default=None, ge=0, lt=1)  # of decoder and context encoder; null keeps theirs
    init_from: str | None = None  # a captioner to start from; the keys above may then only say what it is


class TokenizerSettings(Section):
    """The tokenizer trained on the captions and contexts when the decoder is new."""

    kind: Literal["bpe", "word"] = "bpe"
    vocab_size: PositiveInt = 8000
    min_frequency: PositiveInt = 2
    lowercase: bool = True


class DataSettings(SectionWithPaths):
    """Where samples come from and how they become tensors."""

    source: Literal["scenes", "datasets", "coco", "karpathy", "table", "flickr8k", "vqa", "sidecar"] = "datasets"
    task: Literal["captions", "questions", "translation", "sounds"] = "captions"  # its scores; which scenes
    path: str | None = None  # folder, file or Hub repository
    annotations: dict[str, str] | str | None = None  # annotation file, or one per split
    questions: dict[str, str] | str | None = None  # vqa only: the file of the questions, or one per split
    train_split: str = "train"
    validation_split: str = "validation"
    hold_out: float | None = Field(default=None, gt=0, lt=1)  # share of the training images that validation takes
    image_column: str | None = "image"  # null: texts only
    caption_column: str = "captions"
    context_column: str | None = None
    modality_columns: dict[str, str] = {}  # further modality → column with its numbers, or with paths of files
    id_column: str | None = None
    levels: list[NonNegativeInt] = [1, 2, 3]  # scenes only
    scenes: PositiveInt = 50_000  # scenes only: training scenes
    captions_per_image: PositiveInt = 1  # G, drawn anew each epoch
    max_caption_length: PositiveInt | None = None  # tokens, start and end included; null: 40, or what init_from has
    max_context_length: PositiveInt | None = None  # tokens; null: 64, or what init_from has
    augment: dict[str, Any] = Field(default_factory=dict)  # timm.data.create_transform's training options
    tokenizer: TokenizerSettings | str = Field(default_factory=TokenizerSettings)  # or a pretrained name
    limit: PositiveInt | None = None  # first samples of each split only
    retrieve: str | None = None  # a caption store: captions of images that look alike follow each context
    neighbours: PositiveInt = 4  # these images, one caption of each
    near_duplicate: float = Field(default=NEAR_DUPLICATE, gt=0)  # images with this cosine are the same
    feature_store: str | None = None  # folder for the features of a frozen image encoder, made if it is not there
    streaming: bool = False  # read Parquet or WebDataset shards while training; `source: datasets` only
    shuffle_buffer: PositiveInt = 1000  # streaming only: samples that wait in each worker
    max_bad_share: Share = 0.1  # of a split that may be left out, for what is missing or cannot be read
    modality_dropout: dict[str, Share] = {}  # modality → chance of hiding it in training; never all of a sample's

    @property
    def name(self) -> str:
        """The data set's name, without the folders of this machine."""
        return Path(self.path).name if self.path else self.source


class SelfCriticalSettings(Section):
    """The second stage, which starts best from a trained captioner (`model.init_from`)."""

    samples: int = Field(default=5, ge=2)  # K, per image
    candidates: Literal["samples", "beams"] = "samples"  # drawn, or the best of a beam search (arXiv 1912.08226)
    baseline: Literal["leave_one_out", "greedy"] = "leave_one_out"
    temperature: float = Field(default=1.0, gt=0)  # of captions that are drawn


class TrainingSettings(SectionWithPaths):
    """The loop. Names are those of transformers' `TrainingArguments`."""

    output_dir: str = "runs/captioner"
    objective: Literal["cross_entropy", "self_critical"] = "cross_entropy"
    self_critical: SelfCriticalSettings = Field(default_factory=SelfCriticalSettings)
    max_steps: PositiveInt = 1000
    per_device_train_batch_size: PositiveInt = 32  # images
    per_device_eval_batch_size: PositiveInt = 64
    gradient_accumulation_steps: PositiveInt = 1
    learning_rate: float = Field(default=1e-3, gt=0)
    image_encoder_learning_rate: float | None = Field(default=None, ge=0)  # null: learning_rate; 0 freezes
    context_encoder_learning_rate: float | None = Field(default=None, ge=0)
    encoders_learning_rate: Rate | dict[str, Rate] | None = None  # of further modalities: one for all, or by name
    decoder_learning_rate: float | None = Field(default=None, ge=0)
    cross_attention_learning_rate: float | None = Field(default=None, ge=0)  # with the encoders' projections
    lora: dict[str, Any] | None = None  # peft.LoraConfig; a part with adapters learns through them alone
    weight_decay: float = Field(default=0.01, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.98, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    lr_scheduler_type: str = "cosine"
    lr_scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)
    warmup_steps: int = Field(default=100, ge=0)
    label_smoothing_factor: float = Field(default=0.0, ge=0, lt=1)
    average_decay: float = Field(default=0.0, ge=0, lt=1)  # EMA of the weights used for validation; 0: off
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"] | None, BeforeValidator(_no)] = None  # the launcher's
    gradient_checkpointing: bool = False
    seed: int = Field(default=0, ge=0, lt=2**32)
    skip_nan_steps: bool = False  # a step without a finite loss or gradient is left out, where the run else stops
    logging_steps: PositiveInt = 50
    eval_steps: PositiveInt = 500
    save_steps: PositiveInt = 500
    save_total_limit: PositiveInt | None = 2  # checkpoints kept for --resume; null: all
    max_eval_samples: PositiveInt | None = None
    metric_for_best_model: str = "cider_d"
    java_metrics: list[Literal["meteor", "spice"]] = []  # need Java and pycocoevalcap
    clip_model: str | None = None  # a CLIP for CLIPScore and RefCLIPScore
    early_stopping_patience: PositiveInt | None = None  # validations without a better score; null: never stop early
    logged_samples: int = Field(default=4, ge=0)  # validation images with their captions in TensorBoard
    dataloader_num_workers: int = Field(default=2, ge=0)


class GenerationSettings(Section):
    """The search. Names are those of transformers' `GenerationConfig`."""

    num_beams: PositiveInt = 3
    max_new_tokens: PositiveInt = 30
    min_new_tokens: int = Field(default=0, ge=0)
    length_penalty: FiniteFloat = 1.0
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    repetition_penalty: FiniteFloat = Field(default=1.0, gt=0)
    bad_words: list[str] = []  # that may not come
    force_words: list[str] = []  # that must come, all of them; needs beams
    num_beam_groups: PositiveInt = 1  # diverse beams: groups that keep away from each other's words
    diversity_penalty: FiniteFloat = Field(default=0.0, ge=0)  # taken off a word per beam that takes it
    do_sample: bool = False
    temperature: FiniteFloat = Field(default=1.0, gt=0)
    top_k: int = Field(default=50, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    num_return_sequences: PositiveInt = 1

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        wrong = contradiction(self, [*RULES, *FOR_SETTINGS])
        if wrong is not None:
            raise ValueError(wrong)
        return self

    @classmethod
    def of(cls, **options: Any) -> Self:
        """The settings of these names and values.

        Raises:
            SettingsError: an unknown name, a bad value, or options that do not go together, in one line.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            raise SettingsError("; ".join(explain(error))) from error


class Settings(Section):
    """The settings of one run."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)

    def save(self, path: Path) -> None:
        """Write these settings as YAML, so that a run can be repeated from its output directory."""
        with replacing(path) as unfinished:
            text = yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)
            unfinished.write_text(text, encoding="utf-8")


def explain(error: ValidationError) -> list[str]:
    """What is wrong with each setting, a line each."""
    return [_line(".".join(map(str, item["loc"])), item) for item in error.errors()]


def _line(name: str, item: Mapping[str, Any]) -> str:
    if item["type"] == "value_error" and "error" in item.get("ctx", {}):  # of several settings that do not go together
        return f"{name}: {item['ctx']['error']}" if name else str(item["ctx"]["error"])
    remedy = "; write it in quotes" if item["type"] == "string_type" and item["input"] is not None else ""
    return f"setting {name!r} is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}{remedy}"
