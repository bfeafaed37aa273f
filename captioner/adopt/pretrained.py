"""What lies under a name or in a directory: pretrained parts, and their weights for the same parts of a captioner.

Knows how weights are named and loaded; knows nothing about how parts are joined.
"""

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from ..base import one_line, some
from ..model import Captioner, TransformersEncoder, build_backbone, local_folder, text_encoder_class
from .checking import LONGEST_REASON, broken_file, misplaced, reason
from .language_models import FAMILIES
from .locating import SHIPPED, AdoptError

IMAGE_ENCODER = "encoder.image.backbone."  # in a captioner's weights
TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as timm calls them in a folder
MISSING_SHARE = 0.5  # of a part's tensors at most


class PartsError(ValueError):
    """A part that is missing or cannot be used; the message says what would work."""


def load_part(auto: type, name: str, **options: Any) -> Any:
    """Load a part by name or directory with one of transformers' auto classes; code that lies beside it is not run.

    Raises:
        PartsError: no such part there, or one that is broken.
    """
    try:
        return auto.from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:
        raise PartsError(
            f"cannot load the pretrained part {name!r}: give a local directory or a Hub repository that can be "
            f"reached ({reason(name, error)})"
        ) from error


def load_weights(auto: type, name: str, **options: Any) -> Any:
    """Load a model as `load_part` does, most of whose weights are there; a head that is missing stays new.

    Raises:
        PartsError: also where the weights are those of another model.
    """
    model, info = load_part(auto, name, output_loading_info=True, **options)
    lacking, most = len(info["missing_keys"]), len(model.state_dict())
    if lacking > MISSING_SHARE * most:
        raise PartsError(
            f"the weights in {name!r} are not those of its config.json: {lacking} of {most} tensors are missing "
            f"({some(sorted(info['missing_keys']), 3)}); save both of one model"
        )
    return model


def whole_model(kind: type, source: str, strict: bool = True, **options: Any) -> Any:
    """Load a model of transformers whose weights are all there, in the shapes that its configuration says.

    Args:
        kind: the class of the model.
        strict: weights that the model has no place for are refused too.
        options: for `from_pretrained`; with `ignore_mismatched_sizes`, shapes may differ.

    Raises:
        AdoptError: weights that are missing, too many or of another shape.
    """
    asked = {"ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = kind.from_pretrained(source, **options | asked)
    if options.get("ignore_mismatched_sizes"):
        info = {**info, "mismatched_keys": ()}
    why = misplaced(model, info, strict)
    if why is not None:
        raise AdoptError(f"the weights in {source} are not those of its config.json: {why}; save both of one captioner")
    return model


def load_timm_weights(backbone: nn.Module, image_encoder: dict[str, Any]) -> None:
    """Weights from the Hub (`pretrained: true`) or a local file (`pretrained: path`), resized to the image size.

    Where it names a captioner, those of its image encoder as they are.

    Args:
        backbone: the timm model that gets them.
        image_encoder: what it was built from, with `pretrained`.

    Raises:
        PartsError: weights that are not there or do not fit.
    """
    weights = image_encoder["pretrained"]
    places = [place / "model.safetensors" for place in (Path(str(weights)), SHIPPED / str(weights))]
    captioner = next((file for file in places if file.is_file()), None)
    if captioner is not None:
        _load_captioners_image_encoder(backbone, captioner)
        return
    options = {k: v for k, v in image_encoder.items() if k != "pretrained"}
    folder = local_folder(options["name"])
    file = weights if isinstance(weights, str) else None if folder is None else _weights_of_timm(folder)
    given = None if file is None else _timm_weights(Path(file))
    try:
        source = build_backbone(options, True, given)
    except (OSError, RuntimeError) as error:
        raise PartsError(
            f"cannot load the weights of {options['name']!r}: the Hub must be reachable, or `image_encoder.pretrained` "
            f"the path of a local file ({one_line(error)[:LONGEST_REASON]})"
        ) from error
    backbone.load_state_dict(source.state_dict())


def _weights_of_timm(folder: Path) -> Path:
    """The weights in a folder that timm saved a model in; a file of safetensors rather than a pickle."""
    return next((file for name in TIMM_WEIGHTS if (file := folder / name).is_file()), folder / TIMM_WEIGHTS[0])


def _timm_weights(file: Path) -> dict[str, Any]:
    """What timm is told to load: tensors that were read here without running anything that a pickle asks for.

    Raises:
        PartsError: no file, or one that holds no tensors.
    """
    if not file.is_file():
        raise PartsError(
            f"`image_encoder.pretrained` is {str(file)!r}, which is no file and no captioner; give one, true or false"
        )
    if file.suffix == ".npz":
        return {"file": str(file)}
    from timm.models import load_state_dict

    try:
        return {"state_dict": load_state_dict(str(file), weights_only=True)}
    except Exception as error:
        raise PartsError(
            f"cannot read the weights in {file}: {reason(file, error)}; give a file of safetensors, or a checkpoint of "
            "torch with tensors alone"
        ) from error


def _load_captioners_image_encoder(backbone: nn.Module, file: Path) -> None:
    """The image encoder's weights in a captioner's file."""
    why = broken_file(file)
    if why is not None:
        raise PartsError(f"{why}; save or copy it anew")
    with safe_open(file, "pt") as tensors:
        names = [name for name in tensors.keys() if name.startswith(IMAGE_ENCODER)]  # noqa: SIM118
        weights = {name.removeprefix(IMAGE_ENCODER): tensors.get_tensor(name) for name in names}
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise PartsError(
            f"{file} has no image encoder of this shape; set `model.image_encoder` as its config.json has it "
            f"({one_line(error)[:LONGEST_REASON]})"
        ) from error


def load_context_weights(captioner: Captioner, name: str) -> None:
    """Those of a pretrained text encoder."""
    config = captioner.config.context_encoder
    source = load_weights(text_encoder_class(config), name, config=config)
    captioner.encoder.context.model.load_state_dict(source.state_dict(), strict=False)


def load_modality_weights(encoder: TransformersEncoder, name: str) -> None:
    """Those of a pretrained encoder of a further modality."""
    source = load_weights(AutoModel, name)
    source = source.get_encoder() if source.config.is_encoder_decoder else source
    encoder.model.load_state_dict(source.state_dict(), strict=False)


def load_decoder_weights(captioner: Captioner, name: str) -> None:
    """Those of a pretrained language model, its vocabulary head included."""
    source = load_weights(AutoModelForCausalLM, name)
    fill(captioner, FAMILIES[source.config.model_type].weights(source))


def fill(captioner: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put translated weights in; what they do not name (the cross-attention) stays new.

    Raises:
        PartsError: weights that the captioner has no place for.
    """
    unexpected = captioner.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise PartsError(f"weights without a place in the captioner: {unexpected}")
