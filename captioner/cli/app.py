"""`captioner app`: a page in the browser, on this machine only."""

from typing import Annotated

import typer

from ..base import say
from .options import ModelOption
from .terminal import fail, quiet, teaching


@teaching
def app_command(
    model: ModelOption,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser window.")] = True,
) -> None:
    """Caption in the browser and see what each word looked at and read; offline, on 127.0.0.1."""
    try:
        import gradio  # noqa: F401
    except ImportError:
        fail("the app needs gradio: pip install 'captioner[app]'", code=2)
    from ..pages import serve

    quiet()
    say(f"loading {model}")
    try:
        address, wait = serve(model, port, open_browser)
    except OSError as error:
        fail(f"cannot serve on port {port or '7860…'}: {' '.join(str(error).split())}; name a free `--port`", code=2)
    say(f"the page: {address}; stop with Ctrl+C")
    wait()
