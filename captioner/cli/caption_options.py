"""The options of `captioner caption`: names that users of other captioners type, and what they mean."""

from pathlib import Path
from typing import Annotated, Literal

import typer

INPUT, CONTEXT, SEARCH, OUTPUT, RUN = (
    {"rich_help_panel": title} for title in ("Input", "Context", "Search", "Output", "Run")
)

Text = str | None
Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH…",
        help="Images, folders, globs, lists of paths (.txt), tables (.csv, .tsv, .jsonl, .parquet) with a column of "
        "images, or datasets repositories. With --merge: outputs of shards.",
    ),
]
Model = Annotated[
    Text, typer.Option("--model", "-m", "--model-id", help="Name, directory, Hub repository; default: BLIP.", **RUN)
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders of folders.", **INPUT)]
ImageColumn = Annotated[Text, typer.Option(help="Column of a table that holds images or their paths.", **INPUT)]
Split = Annotated[Text, typer.Option(help="Split of a datasets repository; default: train.", **INPUT)]
Limit = Annotated[int | None, typer.Option("--limit", "--input-limit", min=1, help="Images at most.", **INPUT)]
MaxPixels = Annotated[int | None, typer.Option(min=1, help="Refuse images of more pixels.", **INPUT)]
ContextText = Annotated[
    Text,
    typer.Option(help='Text to read beside every image, or a template: "{title}: {tags} in {directory}".', **CONTEXT),
]
ContextFile = Annotated[
    Text,
    typer.Option(help="Read the lines of a file, one after the other, in place of images; - is the input.", **CONTEXT),
]
ContextColumn = Annotated[Text, typer.Option(help="Read a column of the table beside each image.", **CONTEXT)]
ContextExt = Annotated[Text, typer.Option("--context-ext", help="Read photo.txt beside photo.jpg: .txt.", **CONTEXT)]
ContextMetadata = Annotated[bool, typer.Option("--context-metadata", help="Read EXIF, IPTC and XMP.", **CONTEXT)]
Retrieve = Annotated[
    Text, typer.Option(help="A caption store: captions of images that look alike follow each context.", **CONTEXT)
]
Neighbours = Annotated[int | None, typer.Option(min=1, help="Images that captions come from; default: 4.", **CONTEXT)]
Beams = Annotated[
    int | None, typer.Option("--beams", "--num-beams", min=1, help="Default: 3; 1 is greedy search.", **SEARCH)
]
Captions = Annotated[
    int, typer.Option("--captions", "--num-return-sequences", "--num-captions", min=1, help="Per image.", **SEARCH)
]
MaxTokens = Annotated[int, typer.Option("--max-new-tokens", "--max-length", min=1, **SEARCH)]
MinTokens = Annotated[int, typer.Option("--min-new-tokens", "--min-length", min=0, **SEARCH)]
LengthPenalty = Annotated[float, typer.Option(help="Above 0, longer captions win more often.", **SEARCH)]
NoRepeat = Annotated[int, typer.Option("--no-repeat-ngram-size", min=0, **SEARCH)]
RepetitionPenalty = Annotated[float, typer.Option(**SEARCH)]
BadWords = Annotated[list[str] | None, typer.Option("--bad-words", help="Never say it; may be repeated.", **SEARCH)]
ForceWords = Annotated[list[str] | None, typer.Option("--force-words", help="Say it; may be repeated.", **SEARCH)]
BeamGroups = Annotated[int, typer.Option("--num-beam-groups", min=1, help="Of diverse beams.", **SEARCH)]
Diversity = Annotated[float, typer.Option("--diversity-penalty", min=0, help="Between groups of beams.", **SEARCH)]
Temperature = Annotated[float | None, typer.Option(help="Draw words; so do --top-k and --top-p.", **SEARCH)]
TopK = Annotated[int | None, typer.Option(min=0, **SEARCH)]
TopP = Annotated[float | None, typer.Option(**SEARCH)]
Seed = Annotated[int, typer.Option(help="Of drawn words; each image has its own from it.", **SEARCH)]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help=".jsonl, .csv or .parquet; without, the terminal.", **OUTPUT)
]
Sidecar = Annotated[
    Text,
    typer.Option(
        "--sidecar", "--caption-ext", "--caption-extension", help="Write photo.txt beside photo.jpg: .txt.", **OUTPUT
    ),
]
Existing = Annotated[
    Literal["skip", "overwrite", "append", "prepend", "fail"],
    typer.Option(help="What to do with captions that are there already.", **OUTPUT),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="The same as --existing overwrite.", **OUTPUT)]
Prefix = Annotated[str, typer.Option("--prefix", "--prepend", help="Put before every caption.", **OUTPUT)]
Suffix = Annotated[str, typer.Option("--suffix", "--append", help="Put after every caption.", **OUTPUT)]
Scores = Annotated[bool, typer.Option("--scores", help="Write each caption's log-probability per token.", **OUTPUT)]
Errors = Annotated[Path | None, typer.Option(help="Where to list failed images; default: by the output.", **OUTPUT)]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines in the terminal.", **OUTPUT)]
Shard = Annotated[Text, typer.Option(help="i/n: caption the i-th of n shares of the input.", **RUN)]
Merge = Annotated[bool, typer.Option("--merge", help="Join the outputs of shards in --output.", **RUN)]
Device = Annotated[Text, typer.Option(help="cpu, cuda:1, …; default: what there is.", **RUN)]
Layout = Annotated[
    Literal["small", "auto", "fast"],
    typer.Option(help="On a CPU: fast copies weights to read them faster, small holds least memory.", **RUN),
]
Dtype = Annotated[Text, typer.Option("--dtype", "--precision", help="float32, bfloat16 or float16.", **RUN)]
