"""Boxoban: reading levels, choosing by seed, playing, fetching."""

import random
import zipfile

import pytest

from automem_jax import envs
from automem_jax.config import EnvConfig
from automem_jax.envs import boxoban

EASY = "##########\n#@ $.    #\n#        #\n##########\n"
OTHER = "##########\n#@       #\n# $.  $. #\n##########\n"
TASKS = ("MiniHack-Boxoban-Hard-v0", "MiniHack-Boxoban-Medium-v0")


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("levels")
    for folder in ("hard", "medium/train"):
        (directory / folder).mkdir(parents=True)
        # No blank line after the last level; files sort by name, not by age.
        (directory / folder / "001.txt").write_text(f"; 0\n{OTHER}")
        (directory / folder / "000.txt").write_text(f"; 0\n{EASY}\n; 1\n{OTHER}")
    return str(directory)


def test_levels_are_read_in_the_order_of_sorted_names(levels):
    easy, other = tuple(EASY.splitlines()), tuple(OTHER.splitlines())
    assert boxoban.read_levels(levels, "hard", "") == (easy, other, other)


def test_a_seeds_level_is_fixed():
    assert [boxoban.pick(seed, 1000) for seed in (0, 1, 42, 43)] == [40, 913, 637, 936]
    assert {boxoban.pick(seed, 3) for seed in range(30)} == {0, 1, 2}


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_gives_the_same_episode_and_global_randomness_plays_no_part(task, levels):
    def play(seed):
        random.seed()
        env = envs.make(EnvConfig(task=task, slots=1, levels_dir=levels, max_steps=40))
        assert env.actions == ("north", "east", "south", "west")
        texts = [env.reset([0], [seed])[0].long_text]
        script = random.Random(seed)
        for _ in range(40):
            percept = env.step({0: script.choice(env.actions)})[0]
            texts.append(percept.long_text)
            if percept.done:
                break
        env.close()
        return texts

    first = {seed: play(seed) for seed in range(4)}
    assert all("boulder" in texts[0] and "fountain" in texts[0] for texts in first.values())
    assert first == {seed: play(seed) for seed in range(4)}


def test_the_easy_level_is_solved_by_one_push(levels):
    seed = next(seed for seed in range(99) if boxoban.pick(seed, 3) == 0)
    env = envs.make(EnvConfig(task=TASKS[0], slots=1, levels_dir=levels))
    env.reset([0], [seed])
    env.step({0: "east"})
    solved = env.step({0: "east"})[0]
    env.close()
    assert (solved.end_reason, solved.reward, solved.progression) == ("task solved", 1.0, 1.0)


def test_missing_or_damaged_levels_say_what_to_do(tmp_path):
    with pytest.raises(boxoban.LevelsError, match="levels_dir is empty.*download"):
        envs.make(EnvConfig(task=TASKS[0], slots=1))
    with pytest.raises(boxoban.LevelsError, match="no level files in .*medium/train.*download"):
        envs.make(EnvConfig(task=TASKS[1], slots=1, levels_dir=str(tmp_path)))
    (tmp_path / "hard").mkdir()
    (tmp_path / "hard" / "000.txt").write_text("; 0\n####\n#@$#\n####\n")
    with pytest.raises(boxoban.LevelsError, match=r"000.txt:5: .* needs one player"):
        envs.make(EnvConfig(task=TASKS[0], slots=1, levels_dir=str(tmp_path)))


def test_download_checks_the_hash_and_writes_nothing_when_it_differs(tmp_path):
    archive = tmp_path / "master.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("boxoban-levels-master/README.md", "levels")
        out.writestr("boxoban-levels-master/hard/000.txt", f"; 0\n{EASY}")
    url, target = archive.as_uri(), tmp_path / "levels"
    with pytest.raises(boxoban.LevelsError, match="expected 00"):
        boxoban.download(target, sha256="00", url=url)
    assert not target.exists()
    found = boxoban.download(target, url=url)
    assert found == boxoban.levels_hash({"hard/000.txt": f"; 0\n{EASY}".encode()})
    assert len(boxoban.read_levels(str(target), "hard", "")) == 1
    assert boxoban.download(target, sha256=found, url=url) == found
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("other/hard/000.txt", f"; 0\n{OTHER}")
    with pytest.raises(boxoban.LevelsError, match="delete it to accept"):
        boxoban.download(target, url=url)
    with pytest.raises(boxoban.LevelsError, match="could not fetch .*internet"):
        boxoban.download(target, url=(tmp_path / "absent.zip").as_uri())
