from automem_jax.progress import Progress


def test_without_a_terminal_plain_lines_are_printed(capsys):
    with Progress("rollout", 2, "episodes", plain_every_s=0.0) as progress:
        progress.update(1, {"steps/s": 1234.5, "progression": 0.25})
        progress.update(2, {"progression": 0.5})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("rollout: 1/2 episodes")
    assert "steps/s 1,234" in lines[0] and "progression 0.250" in lines[0]
    assert lines[-1].startswith("rollout: 2/2 episodes")
    assert not any("\x1b" in line for line in lines)


def test_an_interruption_is_said(capsys):
    try:
        with Progress("rollout", 2, "episodes"):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert "(interrupted)" in capsys.readouterr().out
