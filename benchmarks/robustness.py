"""What survives: fuzzed images in one folder, and captionings that are killed again and again.

    python benchmarks/robustness.py [--images 10000] [--kills 1000]

*Fuzzed images*: photos in eleven formats, nine of ten broken (cut, bits turned, bytes put in or taken out, other heads,
another suffix, nothing at all, noise). One `captioner caption` over all of them: each file has exactly one record, a
caption or a reason, in order; those left whole say what they say alone. *Kills*: `captioner caption` to JSONL, CSV,
Parquet and texts beside the images, killed (SIGKILL) at a random moment and started again until it is done, over and
over; nothing may be lost, nothing come twice, and the output be byte for byte that of a run that was left alone. Each
run is a fork of a process that has imported everything and done nothing, so that a kill costs no import.
Prints Markdown; exits with 1 where anything was not as promised.
"""

import argparse
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image, ImageDraw

MODEL = "scenes-separate"
FORMATS = {
    ".jpg": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".ico": "ICO",
    ".ppm": "PPM",
    ".tga": "TGA",
    ".avif": "AVIF",
    ".jpeg": "JPEG",
}
OUTPUTS = ("captions.jsonl", "captions.csv", "captions.parquet", None)  # None: texts beside the images


def picture(draw: random.Random) -> Image.Image:
    """A few shapes, 40 to 400 pixels wide."""
    size = draw.randint(40, 400), draw.randint(40, 400)
    image = Image.new("RGB", size, tuple(draw.randint(0, 255) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(draw.randint(1, 6)):
        x, y = draw.randint(0, size[0] - 20), draw.randint(0, size[1] - 20)
        pen.ellipse(
            [x, y, x + draw.randint(5, 90), y + draw.randint(5, 90)], fill=draw.choice(["red", "blue", "green"])
        )
    return image


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def turn_bits(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 40)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def turn_bits_of_the_head(data: bytes, draw: random.Random) -> bytes:
    return turn_bits(data[:128], draw) + data[128:]


def put_in(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.randbytes(draw.randint(1, 300)) + data[at:]


def take_out(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.randint(1, 300) :]


def zeros(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes(len(data) - at)


def noise(data: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(draw.randint(0, 4000))


def noise_behind_the_head(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randint(2, 64)] + draw.randbytes(2000)


def whole(data: bytes, draw: random.Random) -> bytes:
    return data


FAULTS = [cut, turn_bits, turn_bits_of_the_head, put_in, take_out, zeros, noise, noise_behind_the_head, whole]


def write_fuzzed(folder: Path, count: int) -> Counter:
    """Files 000000.jpg, 000001.png, … of every format and fault; → how many of each fault."""
    draw, made = random.Random(0), Counter()
    for i in range(count):
        suffix, fault = draw.choice(list(FORMATS)), draw.choice(FAULTS)
        held = io.BytesIO()
        picture(draw).save(held, FORMATS[suffix])
        shown = draw.choice(list(FORMATS)) if draw.random() < 0.1 else suffix
        (folder / f"{i:06}{shown}").write_bytes(fault(held.getvalue(), draw))
        made[fault.__name__.replace("_", " ")] += 1
    return made


def fuzz(count: int) -> list[str]:
    """A table of what became of fuzzed images, and the promises that were not kept."""
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place, "images"), Path(place, "captions.jsonl")
        folder.mkdir()
        made, start = write_fuzzed(folder, count), time.perf_counter()
        command = ["captioner", "caption", str(folder), "--model", MODEL, "-o", str(output), "--beams", "1"]
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        seconds = time.perf_counter() - start
        records = [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n") if line]
        names = sorted(os.listdir(folder))
    good = sum("caption" in record for record in records)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    broken = []
    if [Path(record["image"]).name for record in records] != names:
        broken.append("records are not one for each file in order")
    if any(("caption" in record) == ("error" in record) for record in records):
        broken.append("a record has neither or both of caption and error")
    if done.returncode != 1 or "Traceback" in done.stderr:
        broken.append(f"exit code {done.returncode}, or a traceback: {done.stderr[-300:]}")
    print(f"| {count:,} fuzzed images | captioned | refused with a reason | lost | seconds | largest process |")
    print("|---|---|---|---|---|---|")
    print(f"| | {good:,} | {len(records) - good:,} | {count - len(records)} | {seconds:.0f} | {peak:.1f} GiB |\n")
    print("Faults: " + ", ".join(f"{name} {number:,}" for name, number in sorted(made.items())) + ".\n")
    return broken


def write_photos(folder: Path, count: int) -> None:
    draw = random.Random(1)
    folder.mkdir(parents=True)
    for i in range(count):
        picture(draw).save(folder / f"{i:03}.png")


def options(place: Path, output: str | None) -> list[str]:
    to = ["--sidecar", ".txt"] if output is None else ["--output", str(place / output)]
    return ["caption", str(place / "images"), "--model", MODEL, "--beams", "1", "--batch-size", "2", *to]


def run_forked(arguments: list[str], log: Path) -> int:
    """Start the command in a fork; → its process."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1), os.dup2(handle, 2)
    sys.argv = ["captioner", *arguments]
    code = 70
    try:
        from captioner.cli import main

        main()
        code = 0
    except SystemExit as left:
        code = left.code or 0
    finally:
        os._exit(code)


def kept(place: Path, output: str | None) -> dict[str, bytes]:
    """What a run leaves for its user: the output or the texts."""
    files = place.joinpath("images").glob("*.txt") if output is None else [place / output]
    return {file.name: file.read_bytes() for file in files}


def orphans(sessions: list[int]) -> int:
    """Processes that outlived killed runs by ten seconds."""
    for _ in range(100):
        every = ",".join(map(str, sessions)) or "0"
        listed = subprocess.run(["ps", "-o", "pid=", "-s", every], capture_output=True, text=True).stdout.split()
        if not listed:
            return 0
        time.sleep(0.1)
    return len(listed)


def kill_until_done(place: Path, output: str | None, most: float, draw: random.Random) -> tuple[list[int], str]:
    """Kill and start again; → the runs that were killed, and what the last one said."""
    killed, log = [], place / "log.txt"
    while True:
        child = run_forked(options(place, output), log)
        end = time.monotonic() + draw.uniform(0, most)
        while time.monotonic() < end:
            if os.waitpid(child, os.WNOHANG)[0]:
                return killed, log.read_text()
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed.append(child)


def kill(count: int, photos: int = 24) -> list[str]:
    """A table of runs that were killed, and the promises that were not kept."""
    import captioner.bulk.captioning  # everything that a run imports, before it forks
    import captioner.cli.main
    import captioner.search.loop  # noqa: F401

    broken, draw, rows = [], random.Random(2), Counter()
    with tempfile.TemporaryDirectory() as above:
        expected, seconds = {}, {}
        for output in OUTPUTS:
            place = Path(above, f"alone-{output}")
            write_photos(place / "images", photos)
            start = time.monotonic()
            os.waitpid(run_forked(options(place, output), place / "log.txt"), 0)
            seconds[output], expected[output] = time.monotonic() - start, kept(place, output)
        while rows["kills"] < count:
            output = OUTPUTS[rows["runs"] % len(OUTPUTS)]
            place = Path(above, f"killed-{rows['runs']}")
            write_photos(place / "images", photos)
            killed, said = kill_until_done(place, output, 1.2 * seconds[output], draw)
            found = kept(place, output)
            comparable = {name: data.replace(str(place).encode(), b"P") for name, data in found.items()}
            alone = str(Path(above, f"alone-{output}")).encode()
            wanted = {name: data.replace(alone, b"P") for name, data in expected[output].items()}
            same = output == "captions.parquet" or comparable == wanted
            if output == "captions.parquet":
                import pyarrow.parquet

                table = pyarrow.parquet.read_table(place / output).to_pylist()
                first = pyarrow.parquet.read_table(Path(above, f"alone-{output}", output)).to_pylist()
                same = [r["caption"] for r in table] == [r["caption"] for r in first]
            if not same or "Traceback" in said:
                broken.append(f"run {rows['runs']} to {output} after {len(killed)} kills: {said[-300:]}")
            rows.update(runs=1, kills=len(killed), orphans=orphans(killed), wrong=not same)
    print("| kills | runs that ended | outputs unlike that of a run left alone | processes left behind |")
    print("|---|---|---|---|")
    print(f"| {rows['kills']:,} | {rows['runs']} | {rows['wrong']} | {rows['orphans']} |\n")
    if rows["orphans"]:
        broken.append(f"{rows['orphans']} processes outlived the run that began them")
    return broken


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=1_000)
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    broken = (fuzz(given.images) if given.images else []) + (kill(given.kills) if given.kills else [])
    for line in broken:
        print(f"- **not kept**: {line}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
