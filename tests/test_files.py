import pytest

from automem_jax.files import write_atomically


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_bytes_and_text_arrive_unchanged(tmp_path):
    write_atomically(tmp_path / "d" / "a", "ä\n")
    write_atomically(tmp_path / "d" / "b", b"\x00\xff")
    assert (tmp_path / "d" / "a").read_bytes() == "ä\n".encode()
    assert (tmp_path / "d" / "b").read_bytes() == b"\x00\xff"
