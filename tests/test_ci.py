"""`.ci/chromium`: there, installed, or told that it is not; never a failure."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "chromium"
TOOLS = ("bash", "env", "mktemp", "rm", "tail", "cat", "chmod")


@pytest.fixture
def stand(tmp_path):
    """A PATH with nothing but what the script needs, and stand-ins for what it asks."""
    place = tmp_path / "bin"
    place.mkdir()
    for tool in TOOLS:
        (place / tool).symlink_to(shutil.which(tool))

    def program(name, text):
        path = place / name
        path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    program("timeout", 'shift; "$@"')
    program("id", "echo 0")
    return place, program


def run(place):
    return subprocess.run(
        [shutil.which("bash"), str(SCRIPT)],
        env={"PATH": str(place), "PLACE": str(place), "TMPDIR": str(place)},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_one_that_is_there_is_left_alone(stand):
    place, program = stand
    program("chromium", "")
    program("apt-get", "echo asked >> $PLACE/asked")
    done = run(place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (place / "asked").exists()


def test_it_is_installed_after_the_lists_were_fetched(stand):
    place, program = stand
    program(
        "apt-get",
        'echo "$1" >> $PLACE/asked\n[ "$1" = update ] && exit 0\n'
        'case "$(cat $PLACE/asked)" in *update*) ;; *) exit 100;; esac\n'
        'echo > "$PLACE/chromium"; chmod +x "$PLACE/chromium"',
    )
    done = run(place)
    assert done.returncode == 0 and "warning" not in done.stderr
    assert (place / "asked").read_text().split() == ["install", "update", "install"]


@pytest.mark.parametrize("user", [0, 1000])
def test_where_it_cannot_be_installed_the_tests_go_on_without(stand, user):
    place, program = stand
    program("id", f"echo {user}")
    program("apt-get", "echo no network; exit 100")
    done = run(place)
    assert done.returncode == 0
    assert "warning: no chromium here" in done.stderr and "skipped" in done.stderr
    assert os.listdir(place).count("chromium") == 0


def test_the_check_runs_it_first():
    lines = (SCRIPT.parent / "run").read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if ".ci/chromium" in line)
    assert first < next(n for n, line in enumerate(lines) if "launch/test.sh" in line)
