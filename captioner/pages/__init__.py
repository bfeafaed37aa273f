"""What people look at in a browser: the page of an evaluation, the demo and its page, the app.

Measured data become one HTML file that needs nothing beside it; the app is a page that is served. Knows nothing about
commands.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "app": "serve",
        "demo": "SCENE SIGNED run_demo",
        "evaluation_page": "report",
        "live_training": "live_settings",
    },
)
