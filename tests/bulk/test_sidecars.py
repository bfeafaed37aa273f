"""Texts beside the images: joined in any encoding, never in the way of the other images."""

import os

import pytest

from captioner.base import OccupiedError
from captioner.bulk.sidecars import SidecarError, Sidecars


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize(("existing", "text"), [("append", "Häuser, new"), ("prepend", "new, Häuser")])
def test_texts_are_joined_in_the_encoding_they_have(tmp_path, encoding, existing, text):
    path, sidecars = tmp_path / "a.txt", Sidecars(".txt", existing)
    path.write_bytes("Häuser\r\n".encode(encoding))
    made, _ = sidecars.compose(path, ["new"])
    sidecars.write(path, made)
    assert path.read_bytes() == text.encode()


@pytest.mark.parametrize("existing", ["append", "prepend", "overwrite"])
def test_what_is_no_text_is_left_and_is_the_error_of_its_image(tmp_path, existing):
    path = tmp_path / "a.mov"
    path.write_bytes(b"\0\1\2\xff\xfe\0" * 99)
    with pytest.raises(SidecarError, match=r"a\.mov"):
        Sidecars(".mov", existing).compose(path, ["new"])


@pytest.mark.parametrize("content", [b"", b" \r\n", b"\xef\xbb\xbf", b"\xff\xfe", "\ufeff \n".encode("utf-16-le")])
def test_a_text_without_a_word_is_no_text(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    assert not Sidecars(".txt").has_text(str(tmp_path / "a.png"))
    (tmp_path / "a.txt").write_bytes(content + b"x")
    assert Sidecars(".txt").has_text(str(tmp_path / "a.png"))


def test_a_folder_a_link_and_a_long_name_are_errors_of_their_image(tmp_path):
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "b.txt").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "c.txt")
    for name, why in {"a": "is no file", "b": "is a link", "c": "is no file", "x" * 252: "File name too long"}.items():
        with pytest.raises(SidecarError, match=why):
            Sidecars(".txt").compose(tmp_path / f"{name}.txt", ["new"])
        assert not Sidecars(".txt").has_text(str(tmp_path / f"{name}.png"))


@pytest.mark.parametrize("extension", [".jpg", ".JPG", ".a.png", ".mpo", ".", "..", ". ", "./../x.txt", ".x\0"])
def test_extensions_that_name_images_or_other_folders_are_refused(extension):
    with pytest.raises(OccupiedError, match="--sidecar"):
        Sidecars(extension)


def test_two_of_a_kind_in_one_run_are_refused(tmp_path):
    files = [str(tmp_path / "a.svg"), str(tmp_path / "a.txt")]
    with pytest.raises(OccupiedError, match=r"would replace .*a\.txt"):
        Sidecars(".txt").check_free(files, [])
    with pytest.raises(OccupiedError, match=r"would replace .*a\.txt"):
        Sidecars(".txt").check_free(files[:1], [tmp_path / "a.txt"])
    Sidecars(".txt").check_free(files[:1], [tmp_path / "b.txt"])
