"""NetHack as a text environment: engines, percepts, and the NetHackChallenge rules.

`NleTextEnv` runs any NLE engine by slot; `minihack.py` builds its own on it. Three things keep
episodes reproducible: both random generators are seeded before every reset, moon phase and
Friday the 13th come from the seed (NLE's fix_moon_phase), and so does the game's birthday, which
NetHack reads off the wall clock to name shopkeepers and people ant holes. A level that is made
inside the reset itself still sees the clock's birthday; only a custom MiniHack level with a shop or
an ant hole can tell. Engines are made on a slot's first reset and used again for later ones.

Pages that end in "--More--" are clicked away; their messages are joined, a line each. MiniHack's
engine clicks most of them itself, and the benchmark loses those; here they are kept.

Action names are BALROG's lower-case words: compass points spelt out ("northeast"), "far " before
the running ones, NLE's command names in lower case for the rest ("search", "kick", "open",
"pickup", "wait", "up", "down", "more", "esc"), characters typed at prompts by what they are
("0".."9", "space", "minus", "plus", "quote", "apos", "dollar", and for NetHack the letters that
answer "What do you want to eat? [d or ?*]").

Percept fields (see `percept_fields`):
  message, language, cursor, inventory, blstats_text: the texts that `nethack_text.describe` makes.
  map: the map rows of the terminal (rows 1..21), one string, no trailing blanks.
  screen: rows 1..23 as they stand, each with its line end: what the hybrid long text shows.
  glyphs: int16 [21, 79], row y, column x.   blstats: int64 [27], NLE's order.
  x, y: the player's column and row.   dlvl: depth.   hp, max_hp, energy, max_energy, ac, gold,
  turn, experience_level, experience_points, condition (bits of nle.nethack.BL_MASK_*),
  hunger (0 satiated, 1 normal, 2 hungry and on to 6 starved): numbers.
  prompt: what the game waits for: "" (a command), "choice" (one key), "text" (a line) or "more".
  question: what is asked at such a prompt: {"kind": prompt, "text", "options": action names}.
  grid: the typed map (envs.grid.Grid), absolute; its level is the depth, "mines3" and so on in a
  branch.   conditions: tuple of words.   hunger_word: hunger in a word.
  items: tuple of (letter, text), what is carried.
  how_done: NetHack's word for how the game ended ("died", "escaped", ...), "" while it runs.
"""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from automem_jax.config import EnvConfig
from automem_jax.envs import nethack_grid, nethack_text
from automem_jax.envs.base import Percept
from automem_jax.envs.branching import BranchError, ReplaySnapshot, digest
from automem_jax.envs.progression import nethack_progression

OBSERVATION_KEYS = (
    "glyphs",
    "blstats",
    "message",
    "tty_chars",
    "tty_colors",
    "tty_cursor",
    "inv_letters",
    "inv_strs",
)
MAX_STEPS = 100_000
NO_PROGRESS_LIMIT = 150
MAX_PAGES = 200  # clicked away in one step; a text that merely says "--More--" ends here
FIRST_BIRTHDAY, BIRTHDAYS = 946_684_800, 10**9  # seconds since 1970: 2000, and on by the seed

_COMPASS = {
    "N": "north",
    "E": "east",
    "S": "south",
    "W": "west",
    "NE": "northeast",
    "SE": "southeast",
    "SW": "southwest",
    "NW": "northwest",
}


def action_names(actions: Sequence[Any]) -> tuple[str, ...]:
    """The word for each of NLE's action enums; a key that has two meanings is told apart."""
    names: list[str] = []
    for action in actions:
        kind = type(action).__name__
        if kind.startswith("Compass"):
            name = ("far " if kind.endswith("Longer") else "") + _COMPASS[action.name]
        else:
            name = action.name.lower().removeprefix("num_")
        names.append(name)
    return tuple(names)


def long_text(text: nethack_text.NetHackText, screen: str | None, tty_cursor: Any) -> str:
    """BALROG's long-term context.

    Args:
      screen: the terminal below its top line, for the hybrid form; None gives the language form.
      tty_cursor: row and column of the terminal's cursor, told in the hybrid form.
    """
    parts = [("message", text.message), ("language observation", text.glyphs)]
    if screen is None:
        parts.append(("cursor", text.cursor))
    else:
        row, column = int(tty_cursor[0]), int(tty_cursor[1])
        parts += [("cursor", f"{text.cursor}\n(x={column}, y={row})"), ("map", screen)]
    return "\n".join(f"{title}:\n{words}\n" for title, words in parts)


def short_text(text: nethack_text.NetHackText, statistics: bool) -> str:
    """BALROG's short-term context; its language form has the statistics, which a map shows."""
    inventory = f"inventory:\n{text.inventory}\n"
    return f"statistics:\n{text.blstats}\n\n{inventory}" if statistics else inventory


def percept_fields(obs: Mapping[str, np.ndarray], text: nethack_text.NetHackText) -> dict[str, Any]:
    """The typed part of a percept; keys are listed in this module's docstring."""
    b = obs["blstats"].tolist()
    conditions = nethack_grid.condition_words(b[25])
    width = obs["tty_chars"].shape[1]
    chars = obs["tty_chars"][1:].tobytes().decode("latin-1")
    rows = [chars[i : i + width] for i in range(0, len(chars), width)]
    return {
        "message": text.message,
        "language": text.glyphs,
        "cursor": text.cursor,
        "inventory": text.inventory,
        "blstats_text": text.blstats,
        "map": "\n".join(row.rstrip() for row in rows[: nethack_text.ROWS]),
        "screen": "".join(f"{row}\n" for row in rows),
        "glyphs": obs["glyphs"].copy(),
        "blstats": obs["blstats"].copy(),
        "x": b[0],
        "y": b[1],
        "hp": b[10],
        "max_hp": b[11],
        "dlvl": b[12],
        "gold": b[13],
        "energy": b[14],
        "max_energy": b[15],
        "ac": b[16],
        "experience_level": b[18],
        "experience_points": b[19],
        "turn": b[20],
        "hunger": b[21],
        "condition": b[25],
        "conditions": conditions,
        "hunger_word": nethack_grid.hunger_word(b[21]),
        "items": nethack_grid.inventory_items(text.inventory),
        "grid": nethack_grid.make_grid(obs["glyphs"], b, "Hallucinating" in conditions),
    }


@dataclasses.dataclass
class Outcome:
    """What one engine step meant: whether the episode is over, why, and how far it got."""

    progression: float = 0.0
    end_reason: str | None = None


class Judge:
    """Rules of one episode: when it ends and what it is worth. One per slot, `begin` at a reset."""

    def begin(self, engine: Any, fields: Mapping[str, Any]) -> float:
        """Progression right after the reset."""
        raise NotImplementedError

    def tick(self, turn: int) -> None:
        """Called after every key the game got, pages clicked away included; `turn` is its clock."""

    def judge(
        self, engine: Any, fields: Mapping[str, Any], reward: float, done: bool, info: Mapping
    ) -> Outcome:
        """Called once a step with the newest live fields."""
        raise NotImplementedError


class _Slot:
    """One engine and its running episode."""

    def __init__(self, engine: Any, judge: Judge) -> None:
        self.engine = engine
        self.judge = judge
        self.percept: Percept | None = None
        self.seed = 0
        self.actions: list[str] = []
        self.frame: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.pages: list[str] = []
        # A finished game needs no quitting (a reset does it), and the last frame stays readable.
        engine._quit_game = lambda observation, done: None
        skip = engine._perform_known_steps

        def keep_pages(observation: Any, done: bool, exceptions: bool = True) -> Any:
            """Notes the pages that NLE clicks away, then lets it click."""
            if not done and observation[engine._internal_index][3]:
                raw = observation[engine._message_index].tobytes()
                self.pages.append(raw.partition(b"\0")[0].decode("latin-1").strip())
            return skip(observation, done, exceptions)

        engine._perform_known_steps = keep_pages


class NleTextEnv:
    """Slot-addressed episodes on NLE engines; see envs.base.TextEnv.

    Args:
      make_engine: builds one engine (NLE's own class, no wrappers).
      make_judge: builds the rules of one slot.
      slots: how many.
      max_steps: cap of an episode, 0 keeps the engine's own.
      instructions: the task in words; "{actions}" is replaced.
      fallback: name of the action that runs for an unknown one; the first of those that exist.
      letters: offer the letters that the engine can type as actions too, for prompts.
      prompt_mode: "hybrid" or "language", see `long_text`.
      numeric_distances: see nethack_text.describe.
    """

    def __init__(
        self,
        make_engine: Callable[[], Any],
        make_judge: Callable[[], Judge],
        slots: int,
        max_steps: int,
        instructions: str,
        fallback: Sequence[str] = ("esc", "wait", "search", "north"),
        letters: bool = False,
        prompt_mode: str = "hybrid",
        numeric_distances: bool = False,
    ) -> None:
        if prompt_mode not in ("hybrid", "language"):
            raise ValueError(f"env.prompt_mode: {prompt_mode!r} is none of hybrid, language")
        self.num_slots = slots
        self._hybrid = prompt_mode == "hybrid"
        self._numeric = numeric_distances
        self._make_engine = make_engine
        self._make_judge = make_judge
        self._slots: dict[int, _Slot] = {}
        first = self._slot(0)
        words = action_names(first.engine.actions)
        self._index = {name: i for i, name in reversed(list(enumerate(words)))}
        keys = {chr(a): i for i, a in enumerate(first.engine.actions) if chr(a).isalpha()}
        typed = sorted(key for key in keys if key.isascii() and key not in self._index)
        self._names = {chr(a): w for a, w in zip(first.engine.actions, words, strict=True)}
        if letters:
            self._names |= {key: key for key in keys}
            self._index |= {key: keys[key] for key in typed}
            self.actions = words + tuple(typed)
        else:
            self.actions = words
        self.fallback_action = next((n for n in fallback if n in self._index), self.actions[0])
        self.max_steps = max_steps or int(first.engine._max_episode_steps)
        self.instructions = instructions.replace("{actions}", ", ".join(words))

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> dict[int, Percept]:
        """Starts a new episode in each slot."""
        if len(slots) != len(seeds):
            raise ValueError(f"reset: {len(slots)} slots but {len(seeds)} seeds")
        return {
            slot: self._reset_safely(slot, int(seed))
            for slot, seed in zip(slots, seeds, strict=True)
        }

    def step(self, actions: Mapping[int, str]) -> dict[int, Percept]:
        """One step in each named slot; ValueError for a slot with no running episode."""
        for slot in actions:
            state = self._slots.get(slot)
            if state is None or state.percept is None:
                raise ValueError(f"slot {slot} was never reset; call reset([{slot}], [seed]) first")
            if state.percept.done:
                raise ValueError(
                    f"slot {slot}: its episode is over ({state.percept.end_reason}); reset it"
                )
        return {slot: self._step_safely(slot, action) for slot, action in actions.items()}

    def progression(self, slot: int) -> float:
        """Highest progression of the slot's episode so far."""
        return self._running(slot).progression

    def frame(self, slot: int) -> np.ndarray:
        """The terminal as an RGB picture, uint8 [height, width, 3]."""
        self._running(slot)
        if self._slots[slot].frame is None:
            raise ValueError(f"slot {slot}: its episode never began, there is no frame; reset it")
        return render_terminal(*self._slots[slot].frame)

    def snapshot(self, slot: int) -> ReplaySnapshot:
        """The slot's episode as seed and actions; see envs.base.TextEnv."""
        percept, state = self._running(slot), self._slots[slot]
        return ReplaySnapshot(state.seed, tuple(state.actions), digest(percept))

    def restore(self, slot: int, snapshot: ReplaySnapshot) -> Percept:
        """Plays a snapshot's episode again in a slot, up to where it was taken.

        Raises:
          BranchError: the replay ended early or arrived at another observation; the slot then needs
            a reset.
        """
        percept = self._reset_safely(slot, snapshot.seed)
        for step, action in enumerate(snapshot.actions):
            if percept.done:
                self._slots[slot].percept = None
                raise BranchError(
                    f"slot {slot}: the replay of seed {snapshot.seed} ended at step {step} of "
                    f"{len(snapshot.actions)} ({percept.end_reason}); was the snapshot taken from "
                    "another task, option or version?"
                )
            percept = self._step_safely(slot, action)
        if digest(percept) != snapshot.digest:
            self._slots[slot].percept = None
            raise BranchError(
                f"slot {slot}: the replay of seed {snapshot.seed} and {len(snapshot.actions)} "
                "actions shows another observation than its snapshot; was that taken from another "
                "task, option or version?"
            )
        return percept

    def close(self) -> None:
        """Frees the engines."""
        for state in self._slots.values():
            state.engine.close()
        self._slots.clear()

    def _running(self, slot: int) -> Percept:
        state = self._slots.get(slot)
        if state is None or state.percept is None:
            raise ValueError(f"slot {slot} was never reset")
        return state.percept

    def _slot(self, slot: int) -> _Slot:
        if not 0 <= slot < self.num_slots:
            raise ValueError(f"slot {slot} is outside 0..{self.num_slots - 1}")
        if slot not in self._slots:
            self._slots[slot] = _Slot(self._make_engine(), self._make_judge())
        return self._slots[slot]

    def _reset_safely(self, slot: int, seed: int) -> Percept:
        """A reset that may break: once more on a fresh engine, then the episode has failed."""
        self._slot(slot)
        for _ in range(2):
            try:
                return self._reset_one(slot, seed)
            except Exception as error:
                reason = f"environment crashed: {type(error).__name__}: {error}"
                self._discard_engine(slot)
        state = self._slot(slot)
        state.percept = Percept(
            "", "", {}, self.actions, step=0, done=True, end_reason=reason, failed=True
        )
        return state.percept

    def _step_safely(self, slot: int, action: str) -> Percept:
        """A step; whatever the engine raises ends this episode as failed and spends the engine."""
        before = self._slots[slot].percept
        try:
            return self._step_one(slot, action)
        except Exception as error:
            reason = f"environment crashed: {type(error).__name__}: {error}"
        frame = self._slots[slot].frame
        self._discard_engine(slot)
        state = self._slot(slot)
        known = action in self._index
        state.frame = frame
        state.percept = dataclasses.replace(
            before,
            step=before.step + 1,
            reward=0.0,
            done=True,
            end_reason=reason,
            action=action if known else self.fallback_action,
            unknown_action=None if known else action,
            failed=True,
        )
        return state.percept

    def _discard_engine(self, slot: int) -> None:
        with contextlib.suppress(Exception):  # a broken engine may break again on closing
            self._slots[slot].engine.close()
        del self._slots[slot]

    def _reset_one(self, slot: int, seed: int) -> Percept:
        state = self._slot(slot)
        engine = state.engine
        engine._frozen_steps = 0
        engine.seed(seed, seed, reseed=False)
        state.seed, state.actions = seed, []
        state.pages.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            obs, _ = engine.reset()
        fix_birthday(engine, seed)
        text, fields = self._read(state, obs)
        progression = state.judge.begin(engine, fields)
        state.percept = Percept(
            long_text=self._long(state, text, fields),
            short_text=short_text(text, statistics=not self._hybrid),
            fields=fields,
            actions=self.actions,
            step=0,
            progression=progression,
        )
        return state.percept

    def _step_one(self, slot: int, action: str) -> Percept:
        state = self._slots[slot]
        before = state.percept
        unknown = None if action in self._index else action
        executed = self.fallback_action if unknown is not None else action
        state.pages.clear()
        state.actions.append(action)
        obs, reward, done, _, info = state.engine.step(self._index[executed])
        state.judge.tick(int(obs["blstats"][20]))
        pages: list[str] = []
        while not done and "more" in self._index and len(pages) < MAX_PAGES:
            page = self._page_with_more(state.engine, obs)
            if page is None:
                break
            pages.append(page)
            obs, further, done, _, info = state.engine.step(self._index["more"])
            state.judge.tick(int(obs["blstats"][20]))
            reward += further
        step = before.step + 1
        # NLE zeroes its arrays when the game is over: keep the last live frame, add the last words.
        if obs["blstats"].any() and obs["tty_chars"].any():
            text, fields = self._read(state, obs, pages)
        else:
            text, fields = self._last_words(state, before, pages)
        outcome = state.judge.judge(state.engine, fields, reward, done, info)
        if info["end_status"].name == "DEATH":  # NLE's word for any end that is the game's own
            fields["how_done"] = _how_done(state.engine)
        end_reason = outcome.end_reason
        if end_reason is None and step >= self.max_steps:
            end_reason = "step cap"
        state.percept = Percept(
            long_text=self._long(state, text, fields),
            short_text=short_text(text, statistics=not self._hybrid),
            fields=fields,
            actions=self.actions,
            step=step,
            reward=reward,
            done=end_reason is not None,
            end_reason=end_reason,
            progression=max(before.progression, outcome.progression),
            action=executed,
            unknown_action=unknown,
        )
        return state.percept

    @staticmethod
    def _page_with_more(engine: Any, obs: Mapping[str, np.ndarray]) -> str | None:
        """The page without its "--More--"; None where the game waits for no key after a page."""
        if not engine.last_observation[engine._internal_index][3]:
            return None
        page = nethack_text.describe_message(obs["tty_chars"])
        return page.replace("--More--", "\n") if "--More--" in page else None

    def _long(self, state: _Slot, text: nethack_text.NetHackText, fields: Mapping[str, Any]) -> str:
        return long_text(text, fields["screen"] if self._hybrid else None, state.frame[2])

    def _read(
        self, state: _Slot, obs: Mapping[str, np.ndarray], pages: Sequence[str] = ()
    ) -> tuple[nethack_text.NetHackText, dict[str, Any]]:
        state.frame = tuple(obs[key].copy() for key in ("tty_chars", "tty_colors", "tty_cursor"))
        text = nethack_text.describe(obs, numeric_distances=self._numeric)
        if pages or state.pages:
            text = text._replace(message=_join_pages(pages, state.pages, text.message))
        fields = percept_fields(obs, text)
        internal = state.engine.last_observation[state.engine._internal_index]
        fields["prompt"] = "choice" if internal[1] else "text" if internal[2] else ""
        if internal[3]:
            fields["prompt"] = "more"
        fields["question"] = nethack_grid.question(fields["prompt"], text.message, self._names)
        fields["how_done"] = ""
        return text, fields

    def _last_words(
        self, state: _Slot, before: Percept, pages: Sequence[str]
    ) -> tuple[nethack_text.NetHackText, dict[str, Any]]:
        fields = dict(before.fields)
        fields["message"] = _join_pages(pages, state.pages, "")
        text = nethack_text.NetHackText(
            fields["language"],
            fields["message"],
            fields["blstats_text"],
            fields["inventory"],
            fields["cursor"],
        )
        return text, fields


def _join_pages(clicked: Sequence[str], kept: Sequence[str], last: str) -> str:
    """Pages clicked away here, then those the engine clicked away, then what is shown now."""
    here = "".join(clicked)
    if not any(kept):
        return here + last
    told = [here.rstrip("\n"), *(page for page in dict.fromkeys(kept) if page != last), last]
    return "\n".join(page for page in told if page)


def fix_birthday(engine: Any, seed: int) -> None:
    """Sets the running game's birthday, which NetHack took from the clock, by the seed.

    NLE has no call for it: its own copy of the game's library is opened once more and the variable
    written. A library without it (another NLE) is left alone, with a warning.
    """
    try:
        library = _ctypes.dlopen(engine.nethack.dlpath, os.RTLD_LAZY | os.RTLD_NOLOAD)
        try:
            birthday = _ctypes.dlsym(library, "ubirthday")
            ctypes.c_long.from_address(birthday).value = FIRST_BIRTHDAY + seed % BIRTHDAYS
        finally:
            _ctypes.dlclose(library)  # NLE unloads the library at a reset, so it must be free again
    except (OSError, AttributeError) as error:
        warnings.warn(
            f"the game's birthday stays the clock's, shopkeepers' names may vary: {error}",
            stacklevel=2,
        )


def death_cause(engine: Any) -> str:
    """The game's own words for its end ("killed by a jackal"); empty where it left none."""
    log = os.path.join(engine.nethack._vardir, "xlogfile")
    with contextlib.suppress(OSError), open(log, encoding="latin-1") as entries:
        for entry in entries.read().splitlines()[-1:]:
            return dict(part.partition("=")[::2] for part in entry.split("\t")).get("death", "")
    return ""


def _how_done(engine: Any) -> str:
    how = engine.nethack.how_done()
    return getattr(how, "name", str(how)).lower()


class ChallengeJudge(Judge):
    """NetHackChallenge's ends (death, no progress) and BALROG's progression table.

    `no_progress_limit` counts the keys in a row that left the game's clock where it was.
    """

    def __init__(self, no_progress_limit: int = NO_PROGRESS_LIMIT) -> None:
        self.no_progress_limit = no_progress_limit

    def begin(self, engine: Any, fields: Mapping[str, Any]) -> float:
        self._turn, self._still = None, 0  # the first key starts the count, as in NLE
        return nethack_progression(fields["dlvl"], fields["experience_level"])

    def tick(self, turn: int) -> None:
        self._still = self._still + 1 if turn == self._turn else 0
        self._turn = turn

    def judge(
        self, engine: Any, fields: Mapping[str, Any], reward: float, done: bool, info: Mapping
    ) -> Outcome:
        ascended = bool(info.get("is_ascended"))
        outcome = Outcome(nethack_progression(fields["dlvl"], fields["experience_level"], ascended))
        if done:
            outcome.end_reason = "ascended" if ascended else end_of_game(engine)
        elif self._still >= self.no_progress_limit:
            outcome.end_reason = "no progress"
        return outcome


def end_of_game(engine: Any) -> str:
    """Why the game is over: "quit", "escaped the dungeon", or "death" with its cause."""
    quits = {"quit": "quit", "escaped": "escaped the dungeon"}
    how = _how_done(engine)
    if how in quits:
        return quits[how]
    cause = death_cause(engine)
    return f"death: {cause}" if cause else "death"


def make_nethack(config: EnvConfig) -> NleTextEnv:
    """NetHack by the challenge's rules: random character, seedable, and the full keyboard.

    Only the keys that leave the game (save, quit, shell) are missing.
    """
    from nle import nethack as nle_nethack
    from nle.env.tasks import NetHackScore

    # autopickup is a game option of NLE's list, on or off by its leading "!".
    options = tuple(o for o in nle_nethack.NETHACKOPTIONS if o.lstrip("!") != "autopickup")
    options += ("autopickup" if config.autopickup else "!autopickup",)
    make_engine = functools.partial(
        NetHackScore,
        actions=tuple(a for a in nle_nethack.ACTIONS if a.name not in ("SAVE", "QUIT", "SHELL")),
        character="@",
        allow_all_yn_questions=True,
        allow_all_modes=True,
        penalty_step=0.0,
        max_episode_steps=10**9,
        observation_keys=OBSERVATION_KEYS,
        options=options,
        fix_moon_phase=True,
    )
    return NleTextEnv(
        make_engine,
        ChallengeJudge,
        slots=config.slots,
        max_steps=config.max_steps or MAX_STEPS,
        instructions=(
            "You are playing NetHack. Explore the dungeon, stay alive, gain experience and get as "
            "deep as you can. Each step you choose one action; a question is answered by its letter."
            "\nActions: {actions}, and single letters"
        ),
        letters=True,
        prompt_mode=config.prompt_mode,
        numeric_distances=config.numeric_distances,
    )


# The sixteen terminal colours, RGB.
_PALETTE = np.array(
    [
        [0, 0, 0],
        [205, 49, 49],
        [13, 188, 121],
        [200, 150, 50],
        [60, 110, 220],
        [188, 63, 188],
        [17, 168, 205],
        [204, 204, 204],
        [102, 102, 102],
        [241, 76, 76],
        [35, 209, 139],
        [245, 245, 67],
        [100, 160, 255],
        [214, 112, 214],
        [41, 184, 219],
        [255, 255, 255],
    ],
    np.uint8,
)
_CELL_HEIGHT, _CELL_WIDTH = 14, 8


@functools.cache
def _font() -> np.ndarray:
    """Coverage of each Latin-1 character's cell, uint8 [256, height, width], 0..255."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default_imagefont()
    cells = np.zeros((256, _CELL_HEIGHT, _CELL_WIDTH), np.uint8)
    for code in range(33, 127):
        picture = Image.new("L", (_CELL_WIDTH, _CELL_HEIGHT))
        ImageDraw.Draw(picture).text((1, 1), chr(code), fill=255, font=font)
        cells[code] = np.asarray(picture)
    return cells


def render_terminal(chars: np.ndarray, colors: np.ndarray, cursor: np.ndarray) -> np.ndarray:
    """Draws a terminal.

    Args:
      chars: uint8 [rows, columns].   colors: int8 [rows, columns], 0..15 in the low bits.
      cursor: row and column.

    Returns:
      uint8 [14 * rows, 8 * columns, 3]; the cursor's cell is inverted.
    """
    rows, columns = chars.shape
    ink = _PALETTE[colors.astype(np.int64) & 15].astype(np.uint16)
    # Dark blue-black "colour 0" is how NetHack draws unlit floor: keep it visible.
    ink[(colors & 15) == 0] = (90, 90, 110)
    cover = _font()[chars]
    row, column = int(cursor[0]), int(cursor[1])
    if 0 <= row < rows and 0 <= column < columns:
        cover[row, column] = 255 - cover[row, column]
    picture = cover[..., None].astype(np.uint16) * ink[:, :, None, None, :] // 255
    picture = picture.astype(np.uint8).transpose(0, 2, 1, 3, 4)
    return picture.reshape(rows * _CELL_HEIGHT, columns * _CELL_WIDTH, 3)
