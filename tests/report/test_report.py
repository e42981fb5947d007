import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from report_workdir import HOSTILE, TASK, write_ledger, write_selection, write_trace, write_training

from automem_jax.report import write_report
from automem_jax.report.report import SECTIONS

VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """Checks nesting while parsing; collects what tests ask about."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.tags, self.loads, self.handlers = [], [], [], [], []
        self.scripts, self.text = [], {}
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.loads.append(value)
            if name.startswith("on"):
                self.handlers.append((tag, name))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            self.scripts.append(data)
            return
        names = [anchor for anchor, _, _ in SECTIONS]
        for tag, identity in self.open:
            if tag == "section" and identity in names:
                self.text[identity] = self.text.get(identity, "") + data + " "


def read(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(workdir, tmp_path_factory):
    return write_report(workdir, tmp_path_factory.mktemp("out") / "report.html")


def check_page(page):
    """Well formed, self-contained, all sections, one script, no id twice."""
    assert len(page.ids) == len(set(page.ids))
    assert {anchor for anchor, _, _ in SECTIONS} <= set(page.text)
    assert page.loads
    for value in page.loads:
        folder, _, name = value.partition("/")
        if value.startswith("#"):
            assert value[1:] in page.ids
        else:
            assert folder.endswith("_data") and re.fullmatch(r"[a-z]+\.(csv|json)", name)
    assert not page.handlers and page.tags.count("script") == 1
    assert not {"img", "iframe", "link", "object", "embed", "base"} & set(page.tags)


def test_finished_run_shows_every_section(full):
    page = read(full)
    check_page(page)
    assert page.tags.count("svg") == 2 * 3  # each for a broad and a narrow page
    for anchor, text in page.text.items():
        assert "Could not be shown" not in text, (anchor, text)
    assert "url(http" not in full.read_text() and "@import" not in full.read_text()


def test_default_place_is_report_html_and_repeats_byte_for_byte(workdir, full, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    assert write_report(str(copy)) == copy / "report.html"
    assert (copy / "report.html").read_bytes() == full.read_bytes()
    assert not list(copy.glob(".*.tmp"))


def test_summary_states_difference_with_interval(full, workdir):
    results = json.loads((workdir / "results.json").read_text())
    row = next(
        r
        for r in results["paired_differences"]
        if (r["arm"], r["baseline"]) == ("specialist_best", "base_v0")
    )
    low, high = (100 * end for end in row["interval"])
    text = " ".join(read(full).text["summary"].split())
    assert "Progression went from 50.0 %" in text and "100.0 %" in text
    assert f"+50.0 percentage points, 95 % interval [{low:+.1f}, {high:+.1f}]" in text
    assert "an improvement" in text
    assert "weights are the same before and after" in text


def test_control_is_turned_round(full):
    """Results hold control - specialist; the page asks specialist - control, wins and losses too."""
    text = " ".join(read(full).text["progression"].split())
    found = re.search(
        r"Selection against random decisions specialist .*? 10 ([+-][\d.]+) .*? (\d+) / (\d+)", text
    )
    assert found.groups() == ("+40.0", "4", "0")


def test_no_improvement_is_called_so(workdir, tmp_path):
    results = json.loads((workdir / "results.json").read_text())
    for row in results["paired_differences"]:
        row["interval"] = [0.0, 0.4]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert "no improvement is shown" in read(write_report(tmp_path)).text["summary"]


def test_arms_stand_in_fixed_order(workdir, tmp_path):
    results = json.loads((workdir / "results.json").read_text())
    results["arms"] = dict(reversed(results["arms"].items())) | {
        "extra": results["arms"]["base_v0"]
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = read(write_report(tmp_path)).text["behaviour"]
    names = ["base + v0", "base + best", "specialist + best", "random control", "extra"]
    places = [text.index(name) for name in names]
    assert places == sorted(places)


def test_cue_table(full):
    text = " ".join(read(full).text["cue"].split())
    assert "cue read by the decision 0.0 % 0.0 % 100.0 % 0.0 %" in text
    assert "won, given cue read - - 100.0 % -" in text


def test_template_edits_with_verdict_gate_and_diff(full):
    text = " ".join(read(full).text["templates"].split())
    assert "3 edits were tried and 1 kept. Best template: memento_v0_r1a2." in text
    assert "kept memento_v0_r1a2: show_file_in_plan" in text
    assert "a bet against it grew" in text and "Measured: +" in text
    assert "Lineage memento_v0: 50.0 % on the gate seeds" in text
    assert "memento_v0 50.0 100.0 +50.0" in text
    assert "template.files: unknown key" in text and "It did not reach the gate." in text
    raw = full.read_text()
    assert '<span class="del">-  &quot;index&quot;</span>' in raw
    assert '<span class="add">+  &quot;notes&quot;</span>' in raw
    assert '<span class="at">+++ memento_v0_r1</span>' in raw


def test_selection_counts_reasons_and_examples(full):
    text = " ".join(read(full).text["selection"].split())
    assert "of them in LOG 4 (67 %) 4 (67 %)" in text
    assert "below min credit 14" in text
    assert "LOG, seed 30000, step 1, turn 0 (cleaned at its end)" in text
    assert "PLAN, seed 30004" in text and "f" * 64 in text


def test_training_and_hashes(full):
    page = read(full)
    assert "specialist (lineage) 6 too_long 1 0 60 0.2582 91.0" in " ".join(
        page.text["training"].split()
    )
    text = page.text["reproduce"]
    assert "d" * 64 in text and "b" * 64 in text and "automem pipeline" in text
    assert "30000 to 30255 (256)" in text


def test_cost(full):
    text = " ".join(read(full).text["cost"].split())
    assert "evaluate/base_v0 10 50 4,000 800 100" in text
    assert "all 40 200 16,000 3,200 400" in text
    assert "train 3 min 00 s 54 %" in text


def test_untrusted_text_is_shown_not_interpreted(hostile_workdir, tmp_path):
    path = write_report(hostile_workdir, tmp_path / "hostile.html")
    page, raw = read(path), path.read_text(encoding="utf-8")
    check_page(page)
    assert HOSTILE[:20] not in raw and "\x1b" not in raw and "\u202e" not in raw
    assert raw.count("</script>") == 1 and "alert" not in "".join(page.scripts)
    for anchor in ("templates", "selection", "episode"):
        assert '<script>alert("pwned")</script><img src=x' in page.text[anchor]
        assert "␛[31mred<U+202E>" in page.text[anchor]
    assert "Content-Security-Policy" in raw and "default-src &#x27;none&#x27;" in raw


def test_script_matches_the_hash_the_page_allows(full):
    import base64
    import hashlib

    raw = full.read_text()
    script = re.search(r"<script>(.*?)</script>", raw, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"sha256-{digest}" in raw


def test_empty_directory_gives_a_line_a_section(tmp_path):
    page = read(write_report(tmp_path))
    assert {anchor for anchor, _, _ in SECTIONS} <= set(page.text)
    for anchor in (
        "summary",
        "progression",
        "behaviour",
        "templates",
        "selection",
        "training",
        "episode",
    ):
        assert "yet" in page.text[anchor] and len(page.text[anchor]) < 200, page.text[anchor]
    assert "svg" not in page.tags


def test_partial_directory_shows_what_there_is(tmp_path):
    write_ledger(tmp_path)
    write_selection(tmp_path, "lineage")
    write_training(tmp_path, "lineage", steps=3, done=False)
    write_trace(tmp_path / "traces" / "collect" / "best", 30_001, won=False, logs=True, reads=False)
    page = read(write_report(tmp_path))
    assert (
        "So far: 3 template edits tried, 1 kept; 6 decisions selected (lineage)"
        in page.text["summary"]
    )
    assert page.tags.count("svg") == 2 * 2
    assert "3, unfinished" in page.text["training"]
    assert "seed 30001" in page.text["episode"]
    assert "No stage times" in page.text["cost"]


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path):
    write_training(tmp_path, "lineage", steps=3)
    with open(tmp_path / "train/lineage/metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # torn by a kill: not a problem
    (tmp_path / "results.json").write_text("{<b>not json")
    (tmp_path / "timing.json").write_text("[]")
    folder = tmp_path / "traces" / "collect"
    folder.mkdir(parents=True)
    (folder / "broken.jsonl").write_text('{"type":"header"}\nnot json\n')
    path = write_report(tmp_path)
    read(path)
    raw = path.read_text()
    listed = raw[raw.index("could not be read") : raw.index("<nav")]
    assert "results.json" in listed and "timing.json" in listed and "broken.jsonl" in listed
    assert "metrics.jsonl" not in listed
    assert "0.5774" not in listed and "1.1547" in raw  # the final loss of three steps


def test_results_of_another_version_cost_one_section_only(workdir, tmp_path):
    write_training(tmp_path, "lineage")
    (tmp_path / "results.json").write_text(json.dumps({"arms": {"base_v0": {"score": 1}}}))
    page = read(write_report(tmp_path))
    assert "Could not be shown" in page.text["summary"]
    assert "specialist (lineage)" in page.text["training"]


def test_missing_work_directory_is_an_error(tmp_path):
    with pytest.raises(NotADirectoryError, match="does not exist"):
        write_report(tmp_path / "absent")


def test_report_starts_without_jax(workdir, tmp_path):
    code = (
        "import sys; from automem_jax.report import write_report; "
        f"write_report({str(workdir)!r}, {str(tmp_path / 'x.html')!r}); "
        "assert not {'jax', 'flax', 'matplotlib.pyplot'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_episode_prefers_a_specialist_win_that_used_memory(full, workdir):
    assert f"traces/evaluate/specialist_best/{TASK}-42.jsonl" in read(full).text["episode"]
    assert workdir.is_dir()
