"""What `captioner caption` is asked to search for: options that do not go together are named as they are typed."""

import pytest
import typer

from captioner.base import GenerationSettings
from captioner.cli.caption_options import SearchGroup


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"min_new_tokens": 40, "max_new_tokens": 5}, "`--min-new-tokens` 40 is more than `--max-new-tokens` 5"),
        ({"min_new_tokens": 31}, "`--min-new-tokens` 31 is more than `--max-new-tokens` 30"),
        ({"diversity_penalty": 0.5}, "set `--num-beam-groups` to 2 or more"),
        ({"beams": 4, "num_beam_groups": 2}, "without `--diversity-penalty`"),
        ({"beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "`--beams` 4 is no multiple of 3 groups"),
        ({"temperature": 0.0}, "setting '--temperature' is 0.0: input should be greater than 0"),
        ({"top_p": 1.5}, "setting '--top-p' is 1.5"),
        ({"top_k": 5, "force_words": ["dog"]}, "`--force-words` takes beams"),
        ({"repetition_penalty": float("inf")}, "setting '--repetition-penalty' is inf"),
        ({"force_words": ["dog", "dog"]}, "`--force-words` ['dog', 'dog'] names a word twice"),
        ({"bad_words": [""]}, "one is blank"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line_with_the_names_of_options(typed, message, capsys):
    with pytest.raises(typer.Exit) as left:
        SearchGroup(**typed).generation()
    said = capsys.readouterr().err
    assert left.value.exit_code == 2
    assert message in said
    assert said.count("\n") == 1


def test_without_options_the_search_is_the_default():
    assert SearchGroup().generation() == GenerationSettings()
