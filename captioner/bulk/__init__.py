"""Very many images to files of captions, whatever dies meanwhile.

Knows nothing about commands and training.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "captioning": "Captioning caption",
        "contexts": "Context METADATA_TEMPLATE",
        "inputs": "Inputs Texts find_inputs find_texts",
        "jobs": "Job Summary Target merge",
        "journal": "encode",
        "outputs": "Sidecars write_records",
        "showing": "dressed lines",
    },
)
