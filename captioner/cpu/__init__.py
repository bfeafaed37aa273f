"""The same numbers, faster on a processor: `prepared` makes a captioner that searches faster.

Takes only the layers it knows by their exact type and leaves all others as they are; knows nothing about searches.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "layouts": "LAYOUTS LayoutError",
        "preparing": "prepared",
        "products": "wide_products",
    },
)
