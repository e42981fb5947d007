"""Position, surroundings and ways: on hand-made maps, recorded frames, and the games themselves."""

import random
import time
from pathlib import Path

import numpy as np
import pytest
from drawn_grids import VIEW, seen, view

from automem_jax import envs
from automem_jax.agent.compass import OFFSETS, bearing, direction_of, place
from automem_jax.agent.entities import Entities
from automem_jax.agent.level_map import LevelMap
from automem_jax.agent.navigation import Explore, GoalNav, Pose
from automem_jax.agent.observers import OBSERVERS, Scope
from automem_jax.agent.routes import step_kind
from automem_jax.agent.surroundings import GlyphMap
from automem_jax.agent.template import ObserverSpec
from automem_jax.config import EnvConfig
from automem_jax.envs.base import Percept
from automem_jax.envs.grid import Grid, Thing
from automem_jax.envs.nethack_grid import make_grid

GOLDEN = Path(__file__).parent.parent / "data" / "nle_text_dev.npz"
PLAYED = 160  # frames of games played; those after them are scrambled


def look(observer, *percepts):
    for percept in percepts:
        observer.update(percept)
    return observer.outputs()


def test_words():
    assert direction_of("Move North") == "north" and direction_of("far southwest") == "southwest"
    assert direction_of("search") == direction_of(None) == ""
    assert direction_of("go", {"go": "east"}) == "east" and direction_of("east", {}) == ""
    assert [bearing(*o) for o in ((0, 0), (5, 0), (5, 2), (5, 3), (-1, -9), (-4, 4))] == [
        *("", "east", "east", "southeast", "north", "southwest")
    ]
    assert (place(5, 2), place(0, -1), place(-3, 0)) == ("5 east 2 south", "1 north", "3 west")


def test_walls_doors_and_diagonals():
    #             the player stands on floor next to an open, a closed and a missing door
    told = look(GlyphMap(), seen(" #/+", " .@'", " #.#"))
    assert told["adjacent"]["north"] == "door open" and told["adjacent"]["southeast"] == "wall"
    assert told["passable"] == ("north", "east", "south", "west")
    assert told["doors"] == ("northeast",) and told["blocked"] == (
        *("southeast", "southwest", "northwest"),
    )
    assert "northwest" in look(GlyphMap(), seen(" '..", " .@.", " ..."))["passable"]
    assert "northwest" not in look(GlyphMap(), seen(" /..", " .@.", " ..."))["passable"]


def test_no_diagonal_out_of_an_open_door_but_out_of_a_doorway():
    for door, free in (("/", False), ("'", True)):
        observer = GlyphMap()
        look(observer, seen(" ...", f" #{door}#", " .@."))
        told = look(observer, seen(" ...", " #@#", " ...", action="north"))
        assert ("northeast" in told["passable"]) == free
        assert told["underfoot"] == ("doorway" if free else "door open")


def test_a_locked_door_is_learned():
    observer = GlyphMap()
    rows = (" ###", " .@+", " ###")
    assert look(observer, seen(*rows))["doors"] == ("east",)
    told = look(observer, seen(*rows, action="east", message="This door is locked."))
    assert told["doors"] == () and "east" in told["blocked"]
    assert told["adjacent"]["east"] == "locked door"


@pytest.mark.parametrize(
    ("row", "free"),
    [(" @0..", True), (" @0#.", False), (" @00.", False), (" @0j.", False), (" @0+.", False)]
    + [(" @0~.", True), (" @0 .", True), (" @0'.", True)],
)
def test_boulders(row, free):
    told = look(GlyphMap(), seen("     ", row, "     "))
    assert told["adjacent"]["east"] == "boulder"
    assert ("east" in told["passable"]) == free and ("east" in told["blocked"]) != free


def test_a_boulder_that_did_not_move_is_blocked_until_it_is_gone():
    observer, rows = GlyphMap(), (" ....", " @0..", " ....")
    look(observer, seen(*rows))
    message = "You try to move the boulder, but in vain."
    assert "east" in look(observer, seen(*rows, action="east", message=message))["blocked"]
    gone = (" ....", " @...", " ....")
    assert "east" in look(observer, seen(*gone, action="search"))["passable"]


def test_squeezing_between_rocks():
    rows = (" #.", " @#", " ..")
    observer = GlyphMap()
    assert "northeast" in look(observer, seen(*rows))["passable"]
    tight = "You are carrying too much to get through."
    told = look(observer, seen(*rows, action="northeast", message=tight, items=(("a", "x"),)))
    assert "northeast" in told["blocked"]
    assert "northeast" not in look(GlyphMap(), seen(*rows, level="sokoban5"))["passable"]
    strict = GlyphMap()
    look(strict, seen(" ..0.", " .@..", " ...."))
    told = look(
        strict,
        seen(
            *(" ..0.", " .@..", " ...."),
            action="northeast",
            message="The boulder won't roll diagonally on this floor.",
        ),
    )
    assert "northeast" not in told["passable"]


def test_creatures_pets_and_dangers():
    told = look(GlyphMap(), seen(" jf^", " ~@!", " ..."))
    assert "north" in told["passable"] and told["adjacent"]["north"] == "tame kitten"
    assert "northwest" not in told["passable"] + told["blocked"]
    assert set(told["hazards"]) == {"northeast", "east", "west"}
    assert "northeast" in told["passable"] and "east" not in told["passable"]
    flying = look(GlyphMap(), seen(" ...", " ~@!", " ...", conditions=("Levitating",)))
    assert flying["hazards"] == () and "east" in flying["passable"]


def test_what_shows_nothing_next_to_the_player_is_rock_unless_blind():
    rows = ("    ", " ,@ ", "    ")
    told = look(GlyphMap(), seen(*rows))
    assert told["adjacent"]["north"] == "rock" and "north" in told["blocked"]
    blind = look(GlyphMap(), seen(*rows, conditions=("Blind",)))
    assert blind["adjacent"]["north"] == "unknown" and "north" not in blind["blocked"]


def test_underfoot_is_remembered_told_by_messages_and_by_stairs():
    observer = GlyphMap()
    assert look(observer, seen(" .@>"))["underfoot"] == "unknown"
    assert look(observer, seen(" ..@", action="east"))["underfoot"] == "stairs down"
    assert look(observer, seen(" .@.", action="down", level="2"))["underfoot"] == "stairs up"
    told = look(observer, seen(" ..@", action="up", level="1"))
    assert told["underfoot"] == "stairs down" and told["targets"] == ("stairs down here",)
    for message, word in (
        ("There is a staircase down here.\nYou see here a dagger.", "stairs down"),
        ("There is an altar to Anhur (chaotic) here.", "altar"),
        ("There is a broken door here.", "doorway"),
        ("There is a bear trap here.", "trap"),
        ("There is nothing here to pick up.", "unknown"),
    ):
        assert look(GlyphMap(), seen(" .@.", message=message))["underfoot"] == word
    fell = GlyphMap()
    look(fell, seen(" .@."))
    message = "A trap door opens up under you!  You fall through..."
    assert look(fell, seen(" .@.", action="down", level="2", message=message))["underfoot"] == (
        "unknown"
    )


def test_each_level_has_its_own_memory():
    observer = GlyphMap()
    look(observer, seen(" .@>", " #.."))
    told = look(observer, seen("    ", " @. ", action="read", level="mines2"))
    assert told["targets"] == () and "wall" not in told["adjacent"].values()
    back = look(observer, seen("    ", "   @", level="1"))
    assert back["targets"] == ("stairs down 1 north",) and back["adjacent"]["west"] == "floor"


def test_blank_rows_and_other_at_signs_do_not_move_the_player():
    rows = [" " * 20 for _ in range(21)]
    rows[0] = " " * 5 + "j" + " " * 14
    rows[15] = " " * 9 + ".@." + " " * 8
    told = look(Pose(), seen(*rows))
    assert (told["x"], told["y"], told["key"]) == (10, 15, "1,10,15")


def test_inside_a_creature_nothing_is_learned():
    observer = GlyphMap()
    before = look(observer, seen(" ....", " .@..", " ...."))
    inside = Grid(np.zeros((3, 5), np.uint8), 2, 1, (Thing("engulfer", "fog cloud", 2, 1),), "1")
    told = look(observer, Percept("", "", {"grid": inside}, (), step=1, action="north"))
    assert told["known"] == before["known"] and told["passable"] == told["blocked"] == ()


def test_the_drawing_and_its_legend():
    crop = look(GlyphMap(2), seen(" #####", " #.0.#", " #.@>#", " #..j#", " #####"))["crop"]
    *rows, legend = crop.split("\n")
    assert rows == ["#####", "#.0.#", "#.@>#", "#..M#", "#####"]
    assert "0 boulder" in legend and "> stairs down" in legend and "M jackal" in legend


def test_pose_counts_visits_stillness_and_vain_moves():
    pose = Pose()
    look(pose, seen(" #..", " #@."))
    told = look(pose, seen(" #..", " #@.", action="west"))
    assert (told["failed"], told["moved"], told["still"]) == (("west",), False, 1)
    assert look(pose, seen(" #..", " #.@", action="east"))["failed"] == ()
    told = look(pose, seen(" #..", " #@.", action="west"))
    assert (told["visits"], told["failed"], told["moved"], told["still"]) == (2, ("west",), True, 0)
    assert "no way west" in told["text"]


def test_attacks_and_pets_in_the_way_are_no_vain_moves():
    for rows, message in (
        ((" .@j",), "You miss the jackal."),
        ((" .@f",), "You stop.  Your kitten is in the way!"),
        ((" .@.",), "You are still in a pit."),
    ):
        pose = Pose()
        look(pose, seen(*rows))
        assert look(pose, seen(*rows, action="east", message=message))["failed"] == ()


def test_a_teleport_is_a_move_and_a_question_takes_no_direction():
    pose = Pose()
    look(pose, seen(" @......"))
    told = look(pose, seen(" ......@", action="read"))
    assert told["moved"] and told["x"] == 7
    look(pose, seen(" ......@", action="kick", prompt="choice"))
    assert look(pose, seen(" ......@", action="east"))["failed"] == ()


def test_dead_reckoning_over_uniform_ground_and_against_obstacles():
    pose = Pose()
    look(pose, seen(*VIEW, relative=True))
    assert look(pose, seen(*VIEW, relative=True, action="Move East"))["key"] == ",1,0"
    told = look(pose, seen(*view((5, 3, "Z")), relative=True, action="Noop"))
    assert not told["moved"]
    told = look(pose, seen(*view((6, 3, "Z")), relative=True, action="Move East"))
    assert (told["x"], told["moved"], told["failed"]) == (1, False, ())  # the zombie stood there
    look(pose, seen(*view((4, 2, "T")), relative=True, action="Move South"))
    told = look(pose, seen(*view((4, 2, "T")), relative=True, action="Move North"))
    assert (told["moved"], told["failed"]) == (False, ("north",))
    asleep = seen(*VIEW, relative=True, action="Sleep", sleeping=True)
    look(pose, asleep)
    assert not look(pose, seen(*VIEW, relative=True, action="Move East"))["moved"]


def test_views_that_tell_more_than_the_ground_ahead_decide():
    pose = Pose()
    look(pose, seen(*view((5, 3, "Z"), (7, 1, "T"), (1, 5, "T")), relative=True))
    # The zombie left before the player stepped: the trees show it.
    told = look(pose, seen(*view((6, 1, "T"), (0, 5, "T")), relative=True, action="Move East"))
    assert told["moved"] and told["x"] == 1


def test_explore_finds_the_edge_of_what_is_known():
    rows = (" #######", " #....@#", " #.#####", " #'#    ", "        ")
    told = look(Explore(), seen(*rows))
    assert told["around"] == {"west": 0} and told["least_visited"] == "west"
    assert (told["frontier"], told["frontier_distance"]) == ("west", 5)
    walk = Explore()
    look(walk, seen(" ###", " @.#", " ###"), seen(" ###", " .@#", " ###", action="east"))
    told = walk.outputs()
    assert told["around"] == {"west": 1} and told["unvisited"] == ()
    closed = look(Explore(), seen(" ####", " #.@#", " ####"))
    assert closed["frontier"] == "" and "no unexplored edge" in closed["text"]


def test_goal_nav_goes_around_lava_and_water_and_never_through():
    rows = (" #######", " #..!..#", " #@.!.>#", " #..~..#", " #.....#", " #######")
    told = look(GoalNav(["stairs down"]), seen(*rows))
    assert (told["seen"], told["goal"], told["x"], told["y"]) == (True, "stairs down", 6, 2)
    assert (told["straight"], told["detour"], told["distance"]) == (4, False, 4) or told["detour"]
    where = (2, 2)
    for word in told["path"]:
        where = where[0] + OFFSETS[word][0], where[1] + OFFSETS[word][1]
        assert rows[where[1]][where[0]] in ".>"
    assert where == (6, 2) and told["direction"] == told["path"][0]
    cut = look(GoalNav(["stairs down"]), seen(" #.@!>#"))
    assert cut["seen"] and not cut["direction"] and "no way" in cut["text"]
    flown = look(GoalNav(["stairs down"]), seen(" #.@!>#", conditions=("Flying",)))
    assert flown["path"] == ("east", "east")


def test_goal_nav_takes_a_trap_only_where_there_is_no_other_way():
    around = look(GoalNav(["stairs down"]), seen(" .....", " .@^>.", " ....."))
    assert around["distance"] == 2 and "east" != around["direction"]
    through = look(GoalNav(["stairs down"]), seen(" #####", " .@^>.", " #####"))
    assert through["path"] == ("east", "east")


def test_goal_nav_through_doors_is_never_diagonal():
    rows = (" #####", " #@..#", " ##/##", " #..>#", " #####")
    told = look(GoalNav(["stairs down"]), seen(*rows))
    assert told["path"] == ("east", "south", "south", "east")
    assert told["detour"]
    doorless = look(GoalNav(["stairs down"]), seen(*(r.replace("/", "'") for r in rows)))
    assert doorless["path"] == ("southeast", "southeast")


def test_goal_nav_preferences_things_and_nothing_seen():
    rows = (" .@.*.", " .....")
    assert look(GoalNav(["gem"]), seen(*rows))["distance"] == 2
    told = look(GoalNav(["stairs down", "gem"]), seen(*rows))
    assert told["goal"] == "gem"
    told = look(GoalNav(["stairs down"]), seen(*rows))
    assert told["seen"] is False and told["direction"] == "" and "not seen" in told["text"]
    on_it = GoalNav(["stairs up"])
    look(on_it, seen(" @<"))
    told = look(on_it, seen(" .@", action="east"))
    assert told["here"] and told["distance"] == 0 and told["path"] == ()


def test_goal_nav_faces_what_it_cannot_stand_on():
    told = look(GoalNav(["tree"]), seen(*view((6, 3, "T")), relative=True))
    assert told["path"] == ("east", "east") and told["straight"] == 2
    pose_blocked = GoalNav(["tree"])
    look(pose_blocked, seen(*view((5, 3, "T")), relative=True))
    told = look(pose_blocked, seen(*view((5, 3, "T")), relative=True, action="Move East"))
    assert told["path"] == ("east",)


def test_entities():
    rows = (" .j...", " ..@.f", " *...j")
    told = look(Entities(radius=1), seen(*rows))
    assert told["visible"] == ("jackal 1 west 1 north", "jackal 2 east 1 south")
    assert (told["nearest"], told["distance"], told["direction"]) == ("jackal", 1, "northwest")
    assert told["within"] == 1
    assert look(Entities(kinds=["pet"]), seen(*rows))["visible"] == ("kitten 2 east",)
    assert look(Entities(names=["gem"]), seen(*rows))["nearest"] == "gem"
    told = look(Entities(names=["tree"]), seen(*view((6, 3, "T"), (4, 2, "T")), relative=True))
    assert told["visible"] == ("tree 1 north", "tree 2 east")
    told = look(Entities(), seen(*rows, conditions=("Hallucinating",)))
    assert "hallucinate" in told["text"]
    assert look(Entities(), seen(" .@."))["text"] == "none in sight"


def test_without_a_grid_every_output_is_there_and_empty():
    percept = Percept("", "", {}, (), step=0)
    for observer in (GlyphMap(), Pose(), Explore(), GoalNav(["tree"]), Entities()):
        told = look(observer, percept)
        assert set(told) == set(type(observer).OUTPUTS)
        assert not any(value for name, value in told.items() if name != "text")


def test_recorded_frames_player_neighbours_and_text():
    """Adjacent words of recorded frames against what the recorded text says is adjacent."""
    words = {"stairs down": "stairs down", "stairs up": "stairs up", "vertical wall": "wall"}
    words |= {"horizontal wall": "wall", "doorway": "doorway"}
    checked = 0
    with np.load(GOLDEN) as archive:
        frames = zip(
            archive["glyphs"][:PLAYED],
            archive["blstats"][:PLAYED],
            archive["text_glyphs"][:PLAYED],
            strict=True,
        )
        for glyphs, stats, text in frames:
            grid = make_grid(glyphs, stats.tolist(), False)
            told = look(GlyphMap(), Percept("", "", {"grid": grid}, (), step=0))
            for line in str(text).split("\n"):
                name, adjacent, where = line.partition(" adjacent ")
                if adjacent and name in words:
                    for direction in (
                        where.replace(", and ", " and ").replace(", ", " and ").split(" and ")
                    ):
                        assert told["adjacent"][direction] == words[name], line
                        checked += 1
    assert checked > 50


@pytest.mark.parametrize(
    ("name", "task"),
    [("nethack", ""), ("minihack", "MiniHack-Corridor-R3-v0")]
    + [("minihack", "MiniHack-Sokoban1a-v1"), ("minihack", "MiniHack-MazeWalk-15x15-v0")],
)
def test_what_is_said_of_a_step_is_what_the_game_does(name, task):
    """Random walks: blocked never moves, free always does, but for pets that will not swap."""
    config = EnvConfig(name=name, task=task or "NetHack", slots=1, max_steps=10_000)
    env = envs.make(config)
    counts = {"free": [0, 0], "blocked": [0, 0]}
    surprises = 0
    for seed in (1, 2):
        rng = random.Random(seed)
        percept, where, action = env.reset([0], [seed])[0], LevelMap(), "east"
        where.update(percept)
        for _ in range(200):
            asked = percept.fields["prompt"]
            if rng.random() < 0.4 or not where.moved:
                action = rng.choice(list(OFFSETS))
            played = "esc" if asked and "esc" in env.actions else action
            kind = "" if asked else step_kind(where, action)
            dx, dy = OFFSETS[action]
            pet = where.creature_at(where.x + dx, where.y + dy) is not None
            percept = env.step({0: played})[0]
            if percept.done:
                break
            where.update(percept)
            if kind in counts and not pet:
                counts[kind][where.moved] += 1
                surprises += where.moved != (kind == "free")
    env.close()
    assert counts["free"][1] > 50 and counts["blocked"][0] > 20
    assert counts["blocked"][1] == 0 and surprises <= 3  # a boulder's far side may be hidden


def test_reckoned_positions_are_the_worlds_own():
    env = envs.make(EnvConfig(name="craftax_classic", slots=4, max_steps=0))
    moves = [a for a in env.actions if a.startswith("Move")]
    steps = 0
    for seed in range(5, 15):
        rng, pose = random.Random(seed), Pose()
        percept = env.reset([0], [seed])[0]
        start = np.array(env.snapshot(0).state.player_position)
        pose.update(percept)
        action = moves[0]
        while not percept.done and steps < 200:
            action = action if rng.random() < 0.7 else rng.choice([*moves, "Do", "Sleep"])
            percept = env.step({0: action})[0]
            pose.update(percept)
            row, column = (np.array(env.snapshot(0).state.player_position) - start).tolist()
            told = pose.outputs()
            assert (told["x"], told["y"]) == (column, row)
            steps += 1
    env.close()
    assert steps == 200


def test_a_search_over_a_whole_level_stays_cheap():
    rows = ["." * 79 for _ in range(21)]
    rows = [" " + row[1:] for row in rows]
    for y in range(1, 20, 2):  # a maze of one long way
        rows[y] = " " + ("#" * 77 + "." if y % 4 == 1 else "." + "#" * 77)
    rows[0] = " @" + rows[0][2:]
    rows[20] = rows[20][:40] + ">" + rows[20][41:]
    observer = GoalNav(["stairs down"])
    observer.update(seen(*rows))
    assert observer.outputs()["distance"] > 700
    best = min(_timed(observer) for _ in range(3))
    assert best < 0.05  # two orders below what a step of a model takes


def _timed(observer):
    begin = time.thread_time()
    observer.outputs()
    return time.thread_time() - begin


def test_observers_that_share_a_map_tell_what_each_would_alone():
    specs = {
        "diff": ObserverSpec("obs_diff"),
        "ground": ObserverSpec("glyph_map"),
        "pose": ObserverSpec("pose"),
        "explore": ObserverSpec("explore"),
        "way": ObserverSpec("goal_nav", {"goals": ("stairs down",)}),
    }
    scope = Scope(specs)
    alone = {name: OBSERVERS[spec.type](**spec.params) for name, spec in specs.items()}
    frames = [
        seen(" #####", " #@.>#", " #####"),
        seen(" #####", " #.@>#", " #####", action="east", step=1),
        seen(" #####", " #.@>#", " #####", action="south", step=2),
        seen(" #####", " #.<@#", " #####", action="east", step=3),
        seen(" #####", " #@..#", " #####", action="down", level="2", step=4),
    ]
    for frame in frames:
        scope.update(frame)
        for name, observer in alone.items():
            observer.update(frame)
            told = observer.outputs()
            assert set(told) == set(observer.OUTPUTS)
            for output, value in told.items():
                assert scope.resolve(f"{name}.{output}") == value, (name, output, frame.step)
    assert scope.resolve("pose.level") == "2" and scope.where is not None
    assert Scope({"last": ObserverSpec("action_window")}).where is None
