"""`captioner caption` as a person types it: on folders and tables, killed and resumed, over processes and shards."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from captioner.bulk.outputs import read_records
from captioner.cli.main import app
from captioner.scenes import Scenes

MODEL = ["--model", "scenes-separate", "--num-workers", 0, "--beams", 2, "--max-new-tokens", 12]
COUNT = 24
COPIES = 8  # of each image, where a run of several processes must last long enough to be killed
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def run(*arguments):
    return CliRunner().invoke(app, ["caption", *map(str, arguments)])


def text(result):
    return " ".join(result.output.split())


def start(folder, *arguments, processes=1):
    """The command in a process of its own, or under a launcher in several."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "captioner", "caption", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, text=True, stderr=subprocess.PIPE)


def wait_for_records(folder, least, processes=1):
    """Until every process has written some lines; → how many all have."""
    for _ in range(12_000):
        counts = [file.read_bytes().count(b"\n") for file in folder.glob("*.parts/*.jsonl")]
        if len(counts) == processes and min(counts) >= least:
            return sum(counts)
        time.sleep(0.01)
    raise TimeoutError(f"no {least} records came in two minutes")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    (folder / "in").mkdir()
    scenes = Scenes("test", [2], COUNT)
    for i in range(COUNT):
        Image.fromarray(scenes[i]["image"]).save(folder / "in" / f"{i:02}.png")
    (folder / "in/13.png").write_bytes(b"")
    return folder


@pytest.fixture
def here(pictures, tmp_path, monkeypatch):
    """One stands beside the folder `in` of images, one of them bad."""
    (tmp_path / "in").mkdir()
    for file in (pictures / "in").iterdir():
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def expected(pictures):
    """The output of a run that nothing interrupts."""
    before = os.getcwd()
    os.chdir(pictures)
    try:
        result = run("in", *MODEL, "--output", "all.jsonl")
    finally:
        os.chdir(before)
    assert result.exit_code == 1, result.output
    content = (pictures / "all.jsonl").read_bytes()
    records = [json.loads(line) for line in content.splitlines()]
    assert [record["image"] for record in records] == [f"in/{i:02}.png" for i in range(COUNT)]
    assert [record["image"] for record in records if "error" in record] == ["in/13.png"]
    return content


def test_a_run_that_was_stopped_by_ctrl_c_goes_on_and_gives_the_same_output(here, expected):
    arguments = ["in", *MODEL, "--batch-size", 1, "--output", "out.jsonl"]
    process = start(here, *arguments)
    wait_for_records(here, 3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert not (here / "out.jsonl").exists()
    assert wait_for_records(here, 3) < COUNT
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    result = run(*arguments)
    assert result.exit_code == 1
    assert f"{COUNT - 1} of {COUNT} images captioned, 1 failed" in text(result)
    assert (here / "out.jsonl").read_bytes() == expected
    assert sorted(os.listdir(here)) == ["in", "out.errors.jsonl", "out.jsonl", "out.settings.json"]


def test_two_processes_killed_and_started_again_caption_each_image_once_in_order(here, expected):
    names = {f"{i:02}-{j}.png": f"in/{i:02}.png" for i in range(COUNT) for j in range(COPIES)}
    (here / "many").mkdir()
    for name, source in names.items():
        (here / "many" / name).symlink_to(here / source)
    arguments = ["many", *MODEL, "--batch-size", 1, "--num-workers", 1, "--output", "out.jsonl"]
    process = start(here, *arguments, processes=2)
    wait_for_records(here, 2, processes=2)
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        one.kill()
    process.wait()
    assert wait_for_records(here, 2, processes=2) < len(names)
    again = start(here, *arguments, processes=2)
    _, said = again.communicate(timeout=200)
    assert again.returncode == 1, said
    assert f"{len(names) - COPIES} of {len(names)} images captioned, {COPIES} failed" in said
    assert said.count("images captioned") == 1
    alone = {record["image"]: record.get("caption") for record in map(json.loads, expected.splitlines())}
    records = [(record["image"], record.get("caption")) for record in read_records(here / "out.jsonl")]
    assert records == [(f"many/{name}", alone[source]) for name, source in names.items()]


def test_shards_merge_to_the_same_output_and_say_what_is_missing(here, expected):
    for shard in ("1/3", "3/3"):
        result = run("in", *MODEL, "--shard", shard, "--output", "out.jsonl")
        assert result.exit_code in (0, 1), result.output
        assert "captioner caption --merge --output out.jsonl" in text(result)
    result = run("--merge", "--output", "out.jsonl")
    assert result.exit_code == 1
    assert "shard 2 lacks 8" in text(result)
    run("in", *MODEL, "--shard", "2/3", "--output", "out.jsonl")
    result = run("--merge", "--output", "out.jsonl")
    assert f"{COUNT - 1} of {COUNT} images captioned, 1 failed" in text(result)
    assert (here / "out.jsonl").read_bytes() == expected


def test_a_second_run_captions_only_what_is_new_and_tries_bad_images_again(here, expected):
    (here / "out.jsonl").write_bytes(expected)
    (here / "in/13.png").write_bytes((here / "in/12.png").read_bytes())
    Image.open(here / "in/12.png").save(here / "in/new.png")
    result = run("in", *MODEL, "--output", "out.jsonl")
    assert result.exit_code == 0, result.output
    records = list(read_records(here / "out.jsonl"))
    assert [r["image"] for r in records] == [f"in/{i:02}.png" for i in range(COUNT)] + ["in/new.png"]
    assert records[12]["caption"] == records[13]["caption"] == records[24]["caption"]
    before = (here / "out.jsonl").read_bytes()
    assert run("in", "--model", "scenes-separate", *MODEL[2:], "--output", "out.jsonl").exit_code == 0
    assert (here / "out.jsonl").read_bytes() == before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_in_and_tables_out_with_a_context_per_row(here, suffix):
    (here / "t.csv").write_text("file_name,facts\n01.png,anna is the red circle\n02.png,\n")
    os.rename("t.csv", "in/t.csv")
    output = here / f"out{suffix}"
    options = ["--context", "{facts}", "--scores", "--captions", 2, "--prefix", "[", "--suffix", "]"]
    result = run("in/t.csv", *MODEL, *options, "--output", output)
    assert result.exit_code == 0, result.output
    first, second = read_records(output)
    assert (first["image"], first["context"]) == ("01.png", "anna is the red circle")
    assert "context" not in second
    assert len(first["captions"]) == len(first["scores"]) == 2
    assert all(caption.startswith("[") and caption.endswith("]") for caption in first["captions"])


def test_names_that_users_of_other_captioners_type_work_with_hyphen_and_underscore(here):
    options = ["--num_beams", 1, "--max-length", 5, "--min_length", 2, "--caption_extension", "caption"]
    result = run("in", *options, "--model_id", "scenes-separate", "--no_repeat_ngram_size", 2, "--input_limit", 2)
    assert result.exit_code == 0, result.output
    assert "2 of 2 images captioned" in text(result)
    assert [file.name for file in sorted((here / "in").glob("*.caption"))] == ["00.caption", "01.caption"]


def test_texts_beside_the_images_follow_existing(here):
    (here / "in/00.txt").write_text("tag")
    base = ["in", *MODEL, "--limit", 2, "--sidecar", ".txt"]
    result = run(*base)
    assert result.exit_code == 0, result.output
    assert "1 of 2 images captioned, 1 left alone" in text(result)
    assert (here / "in/00.txt").read_text() == "tag"
    caption = (here / "in/01.txt").read_text()
    assert run(*base, "--existing", "fail").exit_code == 2
    assert run(*base, "--context-ext", "txt", "--existing", "prepend").exit_code == 0
    assert (here / "in/00.txt").read_text().endswith(", tag")
    assert run(*base, "--overwrite").exit_code == 0
    assert (here / "in/01.txt").read_text() == caption
    assert not list(here.glob("in/*.parts"))


def test_a_captioner_that_cannot_be_loaded_leaves_nothing_behind(here):
    result = run("in", "--model", "no/such", "--output", "out.jsonl", "--shard", "1/1")
    assert result.exit_code == 2
    assert "cannot load a captioner from 'no/such'" in text(result)
    assert os.listdir(here) == ["in"]


def test_failed_images_are_listed_with_their_reasons_for_the_terminal_too(here):
    result = run("in/12.png", "in/13.png", *MODEL, "--errors", "bad.csv")
    assert result.exit_code == 1
    assert "1 of 2 images could not be read" in text(result)
    (record,) = read_records(here / "bad.csv")
    assert record["image"] == "in/13.png"
    assert "the file is empty (0 bytes)" in record["error"]


def test_json_lines_in_the_terminal_name_any_file(here):
    os.rename("in/00.png", b"in/00\xff\n.png")
    result = run("in", *MODEL, "--limit", 1, "--json")
    (line,) = result.stdout.splitlines()
    assert os.fsencode(json.loads(line)["image"]) == b"in/00\xff\n.png"
    plain = run("in", *MODEL, "--limit", 1, "--scores")
    (line,) = plain.stdout.splitlines()
    assert line.split("\t")[0] == r"in/00\udcff\n.png"
    assert float(line.split("\t")[2]) < 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "--output", "out.xml"], "must end in .jsonl, .csv, .parquet"),
        (["in", "--errors", "bad.txt"], "`--errors` must end in .jsonl, .csv, .parquet"),
        (["in", "--existing", "append"], "is for the texts of `--sidecar`"),
        (["in", "--shard", "3/2", "--output", "out.jsonl"], "`--shard` must be i/n with i from 1 to n"),
        (["in", "--shard", "1/2", "--sidecar", "txt"], "`--shard` needs `--output`"),
        (["in", "--sidecar", ".txt", "--context-ext", ".txt"], "captions would replace the contexts"),
        (["in", "--context", "x", "--context-metadata"], "give one of --context, --context-metadata"),
        (["in", "--context-column", "year"], "has the field {year}, but there is"),
        (["in", "--beams", "3", "--top-p", "0.9"], "top_p draw words instead of searching"),
        (["in", "--temperature", "0"], "temperature"),
        ([], "nothing to caption: give images, folders"),
        (["--merge"], "`--merge` needs `--output`"),
        (["--merge", "--output", "x.jsonl"], "nothing to merge"),
        (["in", "--overwrite"], "`--overwrite` would do nothing"),
        (["in", "--existing", "fail"], "`--existing` would do nothing"),
        (["in", "--output", "out.jsonl", "--json"], "`--json` would do nothing, since captions go to files"),
        (["in", "--sidecar", "txt", "--overwrite", "--existing", "append"], "`--existing append` says something else"),
        (["in", "--sidecar", "txt", "--scores"], "`--scores` would do nothing"),
        (["in", "--seed", "7"], "`--seed` would do nothing, since no words are drawn"),
        (["in", "--neighbours", "2"], "`--neighbours` would do nothing"),
        (["in/00.png", "--recursive"], "`--recursive` would do nothing"),
        (["in/00.png", "--split", "test"], "`--split` would do nothing"),
        (["in/00.png", "--image-column", "photo"], "`--image-column` would do nothing"),
        (["--context", "x", "--limit", "2"], "`--limit` would do nothing"),
        (["--merge", "--output", "x.jsonl", "--beams", "2"], "`--beams` would do nothing"),
        (["in", "--output", "out.jsonl", "--errors", "no/errors.jsonl"], "which is no folder; make it first"),
    ],
)
def test_wrong_use_is_one_line_before_any_captioner_is_loaded(here, monkeypatch, arguments, message):
    def load(*_):
        raise AssertionError("a captioner was loaded")

    monkeypatch.setattr("captioner.cli.caption._load", load)
    result = run(*arguments, "--model", "m")
    assert result.exit_code == 2, result.output
    assert message in text(result)
    assert not list(here.glob("*.parts"))
