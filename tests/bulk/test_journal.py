"""The journal of a job that several processes share: what of it is counted."""

from captioner.bulk.journal import Journal


def test_whole_lines_of_every_process_of_the_shard_are_counted_once(tmp_path):
    (tmp_path / "1-of-2.0.jsonl").write_bytes(b"{}\n{}\n")  # of a run before
    tally = Journal(tmp_path, (1, 2)).tally(processes=2)
    assert tally() == 0
    with (tmp_path / "1-of-2.0.jsonl").open("ab") as one, (tmp_path / "1-of-2.1.jsonl").open("ab") as other:
        one.write(b"{}\n{")
        other.write(b"{}\n{}\n")
        (tmp_path / "2-of-2.0.jsonl").write_bytes(b"{}\n")  # of another shard
        one.flush(), other.flush()
        assert tally() == 3
        one.write(b"}\n")
        one.flush()
        assert tally() == tally() == 4
