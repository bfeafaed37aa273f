"""Captions of images that look alike, as a context.

Knows nothing about training or pages.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "caption_store": "CaptionStore import_faiss write_store",
        "retrieval": "Retriever check_reads join retrieved",
        "store_encoder": "StoreEncoder",
    },
)
