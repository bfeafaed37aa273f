"""Captions of images that look alike, as a context.

A caption store holds features, captions and the encoder that made the features; `write_store` makes one, a
`Retriever` finds in it, and `retrieved` gives a split whose contexts go on with what was found.

Knows nothing about training or pages.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "caption_store": "CaptionStore import_faiss write_store",
        "retrieval": "Retriever check_has_context join retrieved",
        "store_encoder": "StoreEncoder",
    },
)
