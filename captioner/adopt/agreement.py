"""Do the settings of a run say of its captioner what the checkpoint says that it starts from?

What they say otherwise would have no effect. Knows settings and configurations; knows nothing about weights.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..base import DataSettings, ModelSettings
from ..model import CaptionerConfig
from .locating import AdoptError
from .pretrained import load_part
from .vocabulary import disagreement

FROM_ELSEWHERE = ("pretrained",)  # says where weights come from, which `init_from` says too
LENGTHS = ("max_caption_length", "max_context_length")


def check_agreement(
    model: ModelSettings, data: DataSettings, config: CaptionerConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse settings that a checkpoint contradicts; what agrees with it may stand, as in the config of its own run.

    Args:
        config, tokenizer: of the checkpoint, whose captions that tokenizer spells.

    Raises:
        AdoptError: the keys that differ, with both values.
    """
    given = model.model_dump(exclude={"init_from"}, exclude_defaults=True)
    found = {name: getattr(config, name) for name in given if name != "dropout"}
    if "dropout" in given:
        found["dropout"] = config.decoder.dropout
        given = {name: _without_dropout(value) for name, value in given.items()}
    differing = [f"model.{key} is {ours!r}, there {theirs!r}" for key, ours, theirs in _differing(given, found)]
    differing += _of_tokenizer(data, tokenizer)
    if differing:
        raise AdoptError(
            f"`model.init_from` is {model.init_from}, a captioner that is otherwise than the settings say: "
            f"{'; '.join(differing)}; leave them out (null for an encoder, {{}} for the decoder), or make them equal"
        )


def _without_dropout(value: Any) -> Any:
    """The shape of a part without its own dropout, which `model.dropout` overrides."""
    return {k: v for k, v in value.items() if "dropout" not in k} if isinstance(value, dict) else value


def _differing(given: Any, found: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where a setting says other than a configuration: dotted key, value here, value there.

    A dict says something of the keys that it has alone; a name of a pretrained part fits the part that is there, unless
    that remembers another name.
    """
    if isinstance(given, dict) and found is not None:
        for key, value in given.items():
            if key not in FROM_ELSEWHERE:
                yield from _differing(value, _look_up(found, key), f"{path}.{key}" if path else key)
    elif isinstance(given, str) and found is not None and not isinstance(found, str | int | float):
        known = _look_up(found, "_name_or_path")
        if known and known != given:
            yield path, given, known
    elif isinstance(given, list) and isinstance(found, list | tuple):
        if given != list(found)[: len(given)]:
            yield path, given, list(found)
    elif given != found:
        yield path, given, found


def _look_up(found: Any, key: str) -> Any:
    return found.get(key) if isinstance(found, Mapping) else getattr(found, key, None)


def _of_tokenizer(data: DataSettings, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    if isinstance(data.tokenizer, str):
        named = load_part(AutoTokenizer, data.tokenizer)
        return [] if named.get_vocab() == tokenizer.get_vocab() else ["data.tokenizer has another vocabulary"]
    asked = data.model_dump(include={"tokenizer"}, exclude_defaults=True).get("tokenizer", {})
    return [f"data.tokenizer.{key} is {asked[key]!r}, there {value}" for key, value in disagreement(tokenizer, asked)]
