"""Records of captions for people: prefix and suffix around captions, a line for each in the terminal."""

from collections.abc import Iterable
from typing import Any


def lines(record: dict[str, Any]) -> str:
    """An image and what it shows, a line per caption, whatever bytes the image's name has."""
    name = record["image"].encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
    said = record.get("captions") or [record.get("caption", f"({record.get('error')})")]
    scores = record.get("scores") or [record.get("score")] * len(said)
    return "\n".join(
        "\t".join([name, text, *([] if score is None else [f"{score:.4f}"])])
        for text, score in zip(said, scores, strict=True)
    )


def dressed(results: Iterable[tuple[Any, dict[str, Any]]], prefix: str, suffix: str) -> Iterable[tuple[Any, dict]]:
    """The same records, every caption between prefix and suffix."""
    for item, record in results:
        if "caption" in record:
            record["caption"] = f"{prefix}{record['caption']}{suffix}"
        if "captions" in record:
            record["captions"] = [f"{prefix}{text}{suffix}" for text in record["captions"]]
        yield item, record
