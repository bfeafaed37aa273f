"""What people look at in a browser: evaluation pages, the demo, the app.

Knows nothing about commands.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "app": "serve",
        "demo": "run_demo",
        "evaluation_page": "report",
    },
)
