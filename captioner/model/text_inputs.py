"""Contexts, captions and prompts to the ids of a batch, and ids back to text.

Knows tokenizers and special tokens; knows nothing about other inputs. Letters: B, G, N = B·G, T as in every file; L
context tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase as AnyTokenizer

IGNORED_LABEL = -100
PLAIN_TEXT = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}


def first_given(*values: int | None) -> int | None:
    """The first that is not None."""
    return next((value for value in values if value is not None), None)


def encode_contexts(
    tokenizer: AnyTokenizer, contexts: Sequence[str | None], most: int
) -> tuple[dict[str, Tensor], int | None]:
    """B texts, None or blank where one is absent, with the special tokens that their tokenizer adds.

    Cut here and not by the tokenizer, whose truncation would be saved with it from then on.

    Args:
        most: L at most, special tokens included; longer ones are cut before the closing ones.

    Returns:
        `context_input_ids` and `context_attention_mask` (B, L), and how long the first was that is cut, if any is.

    Raises:
        ValueError: one that is no text.
    """
    wrong = next((text for text in contexts if not isinstance(text, str | None)), None)
    if wrong is not None:
        raise ValueError(f"a context must be a text, or None where there is none, but one is {wrong!r}")
    rows: list[list[int]] = [[] for _ in contexts]
    cut = None
    present = [i for i, text in enumerate(contexts) if text and text.strip()]
    if present:
        encoded = tokenizer([contexts[i] for i in present], return_special_tokens_mask=True, verbose=False)
        for i, ids, special in zip(present, encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
            rows[i] = _shortened(ids, special, most)
            if cut is None and rows[i] and len(ids) > most:
                cut = len(ids)
    ids, mask = _pad(rows, first_given(tokenizer.pad_token_id, tokenizer.eos_token_id, 0))
    return {"context_input_ids": ids, "context_attention_mask": mask}, cut


def _shortened(ids: list[int], special: list[int], most: int) -> list[int]:
    """Cut text to fit, keeping the closing special tokens; without any text, nothing remains."""
    if all(special):
        return []
    end = len(ids) - special[::-1].index(0)
    excess = max(0, len(ids) - most)
    return (ids[: max(0, end - excess)] + ids[end:])[:most]


def encode_captions(
    tokenizer: AnyTokenizer, captions: Sequence[Sequence[str]], most: int, start: int, eos: int, pad: int
) -> dict[str, Tensor]:
    """G captions of each of B samples, between a start token and an end token.

    Args:
        most: T at most, EOS included; longer captions are cut before it.
        start, eos, pad: ids of the special tokens.

    Returns:
        `decoder_input_ids`, `decoder_attention_mask` and `labels`, (N, T) each.

    Raises:
        ValueError: an unequal number of captions, none, or one that is no text.
    """
    sizes = [len(group) for group in captions]
    if len(set(sizes)) > 1 or 0 in sizes:
        raise ValueError(f"every image needs the same number of captions, at least 1, but they have {sizes}")
    texts = [text for group in captions for text in group]
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None or None in texts:
        raise ValueError(f"captions must be text, but one is {wrong!r}; leave its sample out")
    rows = tokenizer(texts, **PLAIN_TEXT)["input_ids"] if texts else []
    rows = [row[: most - 1] for row in rows]
    inputs, mask = _pad([[start, *row] for row in rows], pad)
    labels, _ = _pad([[*row, eos] for row in rows], IGNORED_LABEL)
    return {"decoder_input_ids": inputs, "decoder_attention_mask": mask, "labels": labels}


def encode_prompt(tokenizer: AnyTokenizer, prompt: str, start: int) -> Tensor:
    """The start token and the prompt's tokens, (1, T); no EOS, since the caption goes on."""
    return torch.tensor([[start, *tokenizer(prompt, **PLAIN_TEXT)["input_ids"]]])


def decode_caption(tokenizer: AnyTokenizer, ids: Sequence[int] | Tensor, start: int, eos: int) -> str:
    """Ids (T,) to text: what stands between start token and first EOS, without special tokens."""
    row: list[Any] = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    row = row[1:] if row[:1] == [start] else row
    row = row[: row.index(eos)] if eos in row else row
    row = [token for token in row if token != IGNORED_LABEL]
    return tokenizer.decode(row, skip_special_tokens=True).strip()


def _pad(rows: list[list[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Rows of ids to ids and mask (rows, width), width at least 1; the mask knows lengths, not ids."""
    width = max([1, *map(len, rows)])
    ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return ids.view(len(rows), width), torch.arange(width) < lengths[:, None]
