"""Tokens to the words that they spell: of a caption, and of a context with its special tokens.

Knows tokenizers and ids; knows nothing about captioners.
"""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase


class Word(NamedTuple):
    """A word and the places of its tokens, counted from 0."""

    text: str
    tokens: tuple[int, ...]


def group_words(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[Word]:
    """Sub-tokens to the words that they spell; a word is what stands between spaces in the decoded text.

    A token belongs to the last word of the text up to it, whatever marks the tokenizer uses; so scripts without
    spaces come out as one word.
    """
    words = tokenizer.decode(ids).split()
    places: list[list[int]] = [[] for _ in words]
    last = 0
    for i in range(len(ids)):
        spelt = len(tokenizer.decode(ids[: i + 1]).split())
        last = min(max(last, spelt - 1), len(words) - 1)
        places[last].append(i)
    return [Word(text, tuple(own)) for text, own in zip(words, places, strict=True) if own]


def context_words(ids: Sequence[int], mask: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[Word]:
    """The words of a context of L tokens; each special token is a word, padding is left out.

    Args:
        ids: L of them.
        mask: L of them, 0 for padding.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    plain = [i for i, token in enumerate(ids) if mask[i] and token not in special]
    words = [
        Word(word.text, tuple(plain[i] for i in word.tokens))
        for word in group_words([ids[i] for i in plain], tokenizer)
    ]
    marks = [
        Word(tokenizer.convert_ids_to_tokens(token), (i,))
        for i, token in enumerate(ids)
        if mask[i] and token in special
    ]
    return sorted(words + marks, key=lambda word: word.tokens)
