"""Files of captions and references in every form that people have, scored by id or refused by name."""

import json

import pytest

from captioner.evaluation import score_files
from captioner.evaluation.scoring import ScoringError

PREDICTED = {"1": "a red circle", "2": "two dogs run"}
REFERRED = {"1": ["a red circle on blue", "a circle"], "2": ["two dogs are running"]}


def lines(path, rows, encoding="utf-8"):
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(encoding))
    return path


def predicted(folder):
    return lines(folder / "p.jsonl", [{"id": name, "caption": text} for name, text in PREDICTED.items()])


def referred(folder):
    return lines(folder / "r.jsonl", [{"id": name, "captions": texts} for name, texts in REFERRED.items()])


@pytest.fixture
def expected(tmp_path):
    return score_files(predicted(tmp_path), referred(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_jsonl_is_read_in_any_encoding_and_with_signs_that_look_like_line_ends(tmp_path, expected, encoding):
    rows = [{"id": 1, "caption": "a red\u2028circle"}, {"id": 2, "caption": "two\x85dogs run"}]
    assert score_files(lines(tmp_path / "x", rows, encoding), referred(tmp_path)) == expected


def test_results_and_annotations_of_coco_are_read(tmp_path, expected):
    results = tmp_path / "p.json"
    results.write_text(json.dumps([{"image_id": int(name), "caption": text} for name, text in PREDICTED.items()]))
    notes = [{"id": 7, "image_id": int(name), "caption": text} for name, own in REFERRED.items() for text in own]
    annotations = tmp_path / "r.json"
    annotations.write_text(json.dumps({"images": [{"id": 1}, {"id": 2}], "annotations": notes}))
    assert score_files(results, annotations) == expected


def test_tables_are_read_a_row_per_caption_or_per_image(tmp_path, expected):
    (tmp_path / "p.csv").write_text("image;caption\n1;a red circle\n2;two dogs run\n")
    (tmp_path / "r.tsv").write_text(
        "image_name\tcomment\n1\ta red circle on blue\n2\ttwo dogs are running\n1\ta circle\n"
    )
    assert score_files(tmp_path / "p.csv", tmp_path / "r.tsv") == expected
    (tmp_path / "r.csv").write_text("id,captions\n1,\"['a red circle on blue', 'a circle']\"\n2,two dogs are running\n")
    assert score_files(tmp_path / "p.csv", tmp_path / "r.csv") == expected


def test_one_reference_on_each_line_of_an_id_is_one_of_its_references(tmp_path, expected):
    rows = [{"id": name, "caption": text} for name, texts in REFERRED.items() for text in texts]
    assert score_files(predicted(tmp_path), lines(tmp_path / "x", rows)) == expected


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"id": "1", "captions": ["x", None]}, "r.jsonl, line 1: a caption is null; write a text, or leave it out"),
        ({"id": "1", "captions": ["x", 3]}, "r.jsonl, line 1: a caption is 3; write"),
        ({"id": "1", "captions": []}, "r.jsonl, line 1: the id '1' has no captions; give it one"),
        ({"id": "1", "captions": None}, "r.jsonl, line 1 must be an object with `id` and `captions` (a list), but has"),
        ({"key": "1", "captions": ["x"]}, "but has key, captions"),
        (["x"], "r.jsonl, entry 0 must be an object with `id`"),
        (
            {"id": "1", "captions": ["x"], "score": float("nan")},
            "r.jsonl, line 1 is not JSON: it has no NaN; write null",
        ),
    ],
)
def test_a_reference_that_is_none_is_named_by_its_line(tmp_path, reference, message):
    with pytest.raises(ScoringError) as caught:
        score_files(predicted(tmp_path), lines(tmp_path / "r.jsonl", [reference]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_and_missing_files_are_named(tmp_path):
    for content in (b"\x89PNG\r\n\0\0\0", "собака бежит".encode("cp1251")):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ScoringError, match="x is neither UTF-8"):
            score_files(predicted(tmp_path), tmp_path / "x")
    with pytest.raises(ScoringError, match="cannot read .*none: No such file"):
        score_files(predicted(tmp_path), tmp_path / "none")


def test_captions_without_spaces_between_words_are_said_to_be_such(tmp_path):
    for language in ("一只狗在草地上奔跑", "หมากำลังวิ่งเล่นอยู่ในสวน"):
        rows = [{"id": number, "caption": language + str(number), "captions": [language]} for number in range(2)]
        both = lines(tmp_path / "x", rows)
        with pytest.warns(UserWarning, match="2 of 2 references have no spaces between words"):
            score_files(both, both)
    divided = lines(
        tmp_path / "y", [{"id": 1, "caption": "一 只 狗 在 草地 上 奔跑", "captions": ["一 只 狗 在 草地 上 奔跑"]}]
    )
    with pytest.warns(UserWarning, match="has 1 image") as seen:
        score_files(divided, divided)
    assert len(seen) == 1
