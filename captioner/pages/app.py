"""The Gradio page of `captioner app`: caption, take modalities away, see what each word looked at and read.

Needs the extra `app`. Everything stays on this machine: nothing is sent anywhere, no font or script is fetched. Knows
components and what happens when one is pressed; what a captioner does then is said in `studio.py`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from signal import SIGTERM, Signals, default_int_handler, signal
from tempfile import TemporaryDirectory
from threading import current_thread, main_thread
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from PIL import Image

from ..adopt import shipped_names
from ..explain import METHODS, Look, enlarged, overlay, reduced
from ..model import FILES
from ..scenes import Scenes
from .cards import word_maps
from .html import style
from .studio import AS_GIVEN, Given, Studio, StudioError, treatments

UPLOAD_LIMIT = "20mb"
KEEP_UPLOADS = (600, 86_400)  # seconds: how often old ones are deleted, and from which age
MEAN = "all"  # layers
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
CSS = """
.maps figure { margin: 0; }
.maps figure:hover { z-index: 2; }
.maps figure:hover .map { transform: scale(2.2); box-shadow: 0 2px 14px #0009; }
"""
BARS = {  # one softmax over all modalities? → what the bars compare
    True: "one softmax over image and context: a bar is cut by its mass",
    False: "an attention for each modality: a bar compares what each adds to the stream",
}


def explained(step: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """A step of the page whose `StudioError` becomes a message on it."""

    @wraps(step)
    def tried(*values: Any) -> Iterator[Any]:
        try:
            yield from step(*values)
        except StudioError as error:
            raise gr.Error(str(error), title="Cannot caption this", print_exception=False) from error

    return tried


class Listeners:
    """What happens when something on the page is pressed; values in and out are those of its components."""

    def __init__(self, studio: Studio):
        self.studio = studio

    def caption(self, *values: Any) -> Iterator[tuple]:
        """`_inputs` and `_view` → captions, state, word, overlay, maps; captions first, while they come."""
        *inputs, beams, count, method, layer = values
        names = ["image", "context", *self.studio.processor.further]
        (file, text, *files), treated = inputs[: len(names)], inputs[len(names) :]
        features = dict(zip(names[2:], files, strict=True))
        given = self.studio.given(file, text, dict(zip(names, treated, strict=True)), features)
        captions: list[str] = []
        for captions in self.studio.captions(given, int(beams), int(count)):
            yield gr.Radio(choices=captions, value=captions[0]), None, gr.Slider(), None, ""
        yield gr.Radio(), *next(self.choose_caption(captions[0] if captions else "", (given, None), method, layer))

    def choose_caption(self, caption: str, state: tuple[Given, Look], method: str, layer: str) -> Iterator[tuple]:
        """Another of the captions → state, word, overlay, maps."""
        given, _ = state
        seen = self.studio.look(given, caption)
        words = gr.Slider(maximum=max(2, len(seen.found.words)), value=1)
        yield (given, seen), words, *self._draw(seen, 1, method, layer)

    def choose_view(self, state: tuple[Given, Look] | None, word: int, method: str, layer: str) -> tuple:
        """Another method or layer → overlay, maps."""
        return (None, "") if state is None else self._draw(state[1], word, method, layer)

    def choose_word(self, state: tuple[Given, Look] | None, word: int, method: str, layer: str) -> Any:
        """Another word → overlay."""
        return None if state is None else self._overlay(state[1], word, method, layer)

    def _draw(self, seen: Look, word: int, method: str, layer: str) -> tuple:
        return self._overlay(seen, word, method, layer), word_maps(seen, **_choice(method, layer))

    def _overlay(self, seen: Look, word: int, method: str, layer: str) -> Any:
        """The photo under the veil of one word, named; without a photo nothing."""
        number = min(int(word), len(seen.found.words)) - 1
        label = f"“{seen.found.words[number].text}”"
        if seen.photo is None:
            return gr.Image(value=None, label=f"{label}: no image was given")
        base = enlarged(reduced(seen.photo, 640), 320)
        return gr.Image(value=overlay(base, seen.found.heat(**_choice(method, layer))[number]), label=label)


def _choice(method: str, layer: str) -> dict[str, Any]:
    """The layer is one of the attention's; other methods go through all."""
    return {"method": method, "layer": None if layer == MEAN or method != "attention" else int(layer) - 1}


def build(name: str, examples: Path | None = None) -> gr.Blocks:
    """The page for one captioner.

    Args:
        examples: a folder for the pictures of its examples; None: it has none.

    Raises:
        AdoptError: a captioner that cannot be loaded.
    """
    studio = Studio(name)
    listeners = Listeners(studio)
    with gr.Blocks(title=f"captioner · {name}", analytics_enabled=False, delete_cache=KEEP_UPLOADS) as page:
        gr.Markdown(f"# captioner\n`{name}` · {studio.mode} · takes {', '.join(studio.modalities)}")
        with gr.Row():
            with gr.Column(scale=2):
                inputs = _inputs(studio)
                button = gr.Button("Caption", variant="primary", elem_id="caption")
                if examples is not None:
                    _examples(studio, inputs[:2], examples)
            with gr.Column(scale=3):
                captions = gr.Radio(label="Captions, best first", choices=[], elem_id="captions")
                word = gr.Slider(1, 2, step=1, value=1, label="Word", elem_id="word")
                shown = gr.Image(label="Where it looked", interactive=False, buttons=[], elem_id="overlay")
                green = "".join(f", took from the {name} (green)" for name in studio.processor.further)
                gr.Markdown(f"What each word looked at (blue), read (orange){green}; point at one to enlarge it.")
                maps = gr.HTML(elem_id="maps")
                view = _view(studio)
        state = gr.State()
        one_by_one = {"concurrency_limit": 1, "concurrency_id": "captioner", "api_visibility": "private"}
        at_once = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        outputs = [captions, state, word, shown, maps]
        triggers = [button.click] + ([inputs[1].submit] if "context" in studio.modalities else [])
        gr.on(triggers, explained(listeners.caption), [*inputs, *view], outputs, **one_by_one)
        captions.input(explained(listeners.choose_caption), [captions, state, *view], outputs[1:], **one_by_one)
        word.input(listeners.choose_word, [state, word, *view], shown, **at_once)
        for control in view:
            control.input(listeners.choose_view, [state, word, *view], [shown, maps], **at_once)
    return page


def _inputs(studio: Studio) -> list[gr.components.Component]:
    """Photo, context, a file for each further modality; what is done to each; beams and captions.

    An image or a context that the captioner cannot take is hidden.
    """
    further = list(studio.processor.further)
    takes = {name: name in studio.modalities for name in ("image", "context")} | dict.fromkeys(further, True)
    photo = gr.Image(
        label="Image", sources=["upload", "clipboard"], height=260, visible=takes["image"], elem_id="photo"
    )
    photo.preprocess = lambda upload: None if upload is None else upload.path  # reading it, or saying why not, is ours
    text = gr.Textbox(
        label="Context",
        placeholder="What is known about the image",
        lines=2,
        max_lines=6,
        submit_btn=False,
        visible=takes["context"],
        elem_id="context",
    )
    files = [gr.File(label=f"{name} ({', '.join(FILES)})", height=120, elem_id=name) for name in further]
    with gr.Row():
        treated = [
            gr.Radio(list(treatments(modality)), value=AS_GIVEN, label=f"The {modality} is", visible=visible)
            for modality, visible in takes.items()
        ]
    with gr.Row():
        beams = gr.Slider(1, 8, value=3, step=1, label="Beams", info="1 writes word by word", elem_id="beams")
        count = gr.Slider(1, 8, value=1, step=1, label="Captions", info="as many as beams at most", elem_id="count")
    return [photo, text, *files, *treated, beams, count]


def _view(studio: Studio) -> list[gr.components.Component]:
    """By which method, and of which layer."""
    config = studio.model.config
    layers = [MEAN, *(str(i + 1) for i in range(config.decoder.num_layers))]
    with gr.Row():
        method = gr.Radio(list(METHODS), value="attention", label="Weights by", info=BARS[config.mode.one_softmax])
        layer = gr.Dropdown(layers, value=MEAN, label="Layer of the attention")
    return [method, layer]


def _examples(studio: Studio, inputs: list[gr.components.Component], folder: Path) -> None:
    """Scenes, for the captioners that know them."""
    if studio.name not in shipped_names():
        return
    rows = []
    unseen = Scenes("test", [1, 2, 3], 3)
    for sample in (unseen[i] for i in range(len(unseen))):
        file = folder / f"{sample['id']}.png"
        enlarged(Image.fromarray(sample["image"]), 256).save(file)
        rows.append([str(file), sample["context"]])
    gr.Examples(rows, inputs, label="Examples", cache_examples=False)


def serve(name: str, port: int | None = None, open_browser: bool = False) -> tuple[str, Callable[[], None]]:
    """Start the page on this machine.

    Args:
        port: None: the first free one from 7860.

    Returns:
        The address, and a function that waits until the page is stopped (Ctrl-C or SIGTERM) and
        removes the pictures of its examples.

    Raises:
        AdoptError: a captioner that cannot be loaded.
        OSError: no such port is free.
    """
    folder = TemporaryDirectory(prefix="captioner-examples-")
    try:
        address, page = _launched(build(name, Path(folder.name)), port, open_browser)
    except BaseException:
        folder.cleanup()
        raise

    def wait() -> None:
        with folder, _interrupted_by(SIGTERM):
            page.block_thread()

    return address, wait


def _launched(page: gr.Blocks, port: int | None, open_browser: bool) -> tuple[str, gr.Blocks]:
    _, address, _ = page.queue(default_concurrency_limit=None).launch(
        server_name="127.0.0.1",
        server_port=port,
        inbrowser=open_browser,
        share=False,
        quiet=True,
        show_error=True,
        max_file_size=UPLOAD_LIMIT,
        footer_links=[],
        ssr_mode=False,
        prevent_thread_lock=True,
        theme=gr.themes.Default(**FONTS),
        css=style("maps.css") + CSS,
    )
    return address, page


@contextmanager
def _interrupted_by(number: Signals) -> Iterator[None]:
    """Meanwhile a signal is Ctrl-C; in a thread, where no signal arrives, nothing changes."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal(number, default_int_handler)
    try:
        yield
    finally:
        signal(number, before)
