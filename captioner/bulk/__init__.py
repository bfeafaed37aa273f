"""Very many images to files of captions, whatever dies meanwhile.

Finds images, reads them in workers, captions them in batches, keeps each record at once and publishes all in order.
Knows nothing about commands, pages and training.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "captioning": "Captioning",
        "contexts": "Context METADATA_TEMPLATE",
        "inputs": "Inputs TABLE_SUFFIXES Texts find_inputs find_texts",
        "jobs": "Job Summary merge",
        "journal": "encode",
        "library": "caption",
        "options": "CaptioningOptions JobSettings",
        "outputs": "write_records",
        "sidecars": "Sidecars",
        "target": "Target remove_errors",
        "showing": "dressed lines",
    },
)
