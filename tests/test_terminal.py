"""Whatever a trace, a model or a server says, the terminal only shows it."""

import io
import sys

import pytest

from automem_jax import terminal

HOSTILE = "\x1b[2J\x1b]0;owned\x07 [red]x[/red] \x9b31m\u202eabc\r\x00\ud800 é 漢"


def assert_inert(text):
    assert not any(ord(c) < 32 and c not in "\n\t" for c in text)
    assert not any(c in text for c in "\x7f\x9b\u202e\ud800\r")


def test_printable_keeps_text_and_shows_controls():
    shown = terminal.printable(HOSTILE)
    assert_inert(shown)
    assert "[red]x[/red]" in shown and "é 漢" in shown and "␛[2J" in shown
    assert terminal.printable("a\tb\nc") == "a\tb\nc"
    assert terminal.one_line(" a\n\tb ") == "a b"


def test_output_is_inert_while_open_and_as_before_afterwards(capsys):
    before = sys.stdout, sys.stderr
    with terminal.inert_output():
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        sys.stdout.writelines([HOSTILE])
        assert terminal.raw() is before[0]
        with terminal.inert_output():  # once is enough
            assert terminal.raw() is before[0]
    assert (sys.stdout, sys.stderr) == before
    out, err = capsys.readouterr()
    for text in (out, err):
        assert_inert(text)
        assert "[red]x[/red]" in text


def test_lines_above_a_live_display_are_plain_text():
    out = io.StringIO()
    console = terminal.console(out, force_terminal=True, width=200)
    stream = terminal.ConsoleStream(console)
    print(HOSTILE, "begun", end="", file=stream)
    stream.end()
    assert_inert(out.getvalue())
    assert "[red]x[/red]" in out.getvalue() and "begun" in out.getvalue()


def test_an_error_of_ours_is_shown_whole_and_inert(monkeypatch, capsys):
    from automem_jax.cli import status
    from automem_jax.cli.main import run

    def broken(arguments):
        raise KeyError(HOSTILE, "lost")

    class Told(Exception):
        def __str__(self):
            return HOSTILE

    monkeypatch.setattr(status, "command", broken)
    with pytest.raises(SystemExit) as stop:
        run(["automem", "status"])
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and "KeyError" in told
    assert_inert(told)
    monkeypatch.setattr(status, "command", lambda arguments: (_ for _ in ()).throw(Told()))
    with pytest.raises(SystemExit):
        run(["automem", "status"])
    told = capsys.readouterr().err
    assert "[red]x[/red]" in told
    assert_inert(told)


@pytest.mark.parametrize("stage", ["view", "status"])
def test_a_hostile_argument_is_shown_and_not_obeyed(stage, capsys):
    from automem_jax.cli.main import run

    with pytest.raises(SystemExit):
        run(["automem", stage, "/no/\x1b[31mred"])
    err = capsys.readouterr().err
    assert_inert(err)
    assert "x1b[31mred" in err
