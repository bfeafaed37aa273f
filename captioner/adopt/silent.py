"""Which tokens a captioner never says: those that would be searched like a word and then be missing from the text.

They stand in `generation_config.suppress_tokens`, so `generate`, every search and whoever reads a saved captioner go by
the same list. Knows nothing about how captions are searched.
"""

from ..model import Captioner, CaptionerProcessor


def keep_silent(model: Captioner, processor: CaptionerProcessor) -> None:
    """Forbid what leaves no trace in the text, unless the captioner has a list of its own; an empty one is a list."""
    tokens = model.generation_config
    if tokens.suppress_tokens is None:
        ends = tokens.eos_token_id
        ends = {*ends} if isinstance(ends, list) else {ends}
        rows = model.config.decoder.vocab_size
        tokens.suppress_tokens = [token for token in processor.silent_ids if token not in ends and token < rows]


def leave_as_trained(model: Captioner) -> None:
    """Let a captioner of another architecture say what it says there."""
    if model.generation_config.suppress_tokens is None:
        model.generation_config.suppress_tokens = []
