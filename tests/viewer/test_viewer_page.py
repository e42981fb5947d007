"""The viewer in a real browser: served and exported, by mouse and by keyboard, with hostile traces."""

import contextlib
import json
import re
import threading
import time
from pathlib import Path

import pytest
import viewer_workdir

from automem_jax.viewer.export import export
from automem_jax.viewer.library import Library
from automem_jax.viewer.server import ViewerServer


@pytest.fixture(scope="module")
def library(workdir):
    library = Library(workdir)
    yield library
    library.close()


@contextlib.contextmanager
def serving(library):
    with ViewerServer(library) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def served(library):
    with serving(library) as url:
        yield url


@pytest.fixture(scope="module")
def exported(library, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "viewer.html"
    assert export(library, path) == (4, 4)
    return path.as_uri()


@pytest.fixture(params=["served", "exported"])
def url(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def open_page(open_watched):
    """Opens a watched page and waits until its episodes are there."""

    def open_page(url, **how):
        page = open_watched(url, **how)
        page.locator(".lane .facts .at").first.wait_for()
        until(lambda: page.evaluate("app.lanes.every((lane) => lane.data.complete)"))
        return page

    return open_page


def until(true):
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true in 30 s")


def at(page, place):
    page.locator(".facts .at").first.get_by_text(re.compile(f"^{place}$")).wait_for()
    page.locator(".panels.waiting").wait_for(state="detached")


def test_steps_by_key_button_slider_and_number(url, open_page):
    page = open_page(url)
    at(page, "step 0")
    page.keyboard.press("ArrowRight")
    at(page, "step 1")
    page.keyboard.press("Shift+ArrowRight")
    at(page, "step 11")
    page.get_by_role("button", name="Step back").click()
    at(page, "step 10")
    page.locator("#slider").fill("33")
    at(page, "step 33")
    page.locator("#place").fill("6")
    page.locator("#place").press("Enter")
    at(page, "step 6")
    assert "by the agent" in page.locator(".memory li.added").inner_text()
    assert "note 6 caf\u00e9" in page.locator(".memory ins").inner_text()
    marked = page.locator(".log mark.operation").inner_text()
    assert marked.startswith("<|APPEND|>notes|note 6") and marked.endswith("<|END|>")
    page.keyboard.press("End")
    at(page, "end")
    assert "cut off" in page.locator(".facts").inner_text()


def test_it_plays(served, open_page):
    page = open_page(served)
    page.locator("#speed").select_option("40")
    page.locator("#speed").evaluate("(select) => select.blur()")
    page.keyboard.press(" ")
    at(page, "end")
    until(lambda: page.locator("#play").get_attribute("aria-label") == "Play (space)")


def test_failures_are_found(url, open_page):
    page = open_page(url)
    for t in viewer_workdir.FAILURES:
        page.keyboard.press("f")
        at(page, f"step {t}")
        assert "operation failed" in page.locator(".facts").inner_text()
        assert "missing" in page.locator(".operations .answer.bad").inner_text()
        assert page.locator(".plan mark.operation.bad").inner_text() == "<|READ|>missing<|END|>"
    page.locator("#next-failure").click()
    at(page, f"step {viewer_workdir.STEPS - 1}")
    assert "the endpoint answered 500" in page.locator(".talk").inner_text()
    page.get_by_role("tab", name="Events").click()
    rows = page.get_by_role("listbox", name="Events").get_by_role("option")
    assert rows.count() == len(viewer_workdir.FAILURES) + 1
    rows.first.click()
    at(page, f"step {viewer_workdir.FAILURES[0]}")


def test_runs_of_one_seed_go_in_step(url, open_page):
    page = open_page(url)
    page.keyboard.press("c")
    page.locator("#compare-menu button", has_text="specialist_best").click()
    until(lambda: page.locator(".lane").count() == 2)
    page.get_by_role("button", name=f"first difference: step {viewer_workdir.LEFT_AT}").click()
    actions = page.locator(".lane .facts .next-action")
    at(page, f"step {viewer_workdir.LEFT_AT}")
    until(lambda: actions.all_inner_texts() == ["forward", "wait"])
    page.keyboard.press("ArrowLeft")
    until(lambda: actions.all_inner_texts() == ["wait", "wait"])
    page.locator(".lane").nth(1).get_by_role("button", name="Close this episode").click()
    until(lambda: page.locator(".lane").count() == 1)


def test_search_answers_alike_wherever_it_runs(served, exported, open_page):
    found = []
    for url in (served, exported):
        page = open_page(url)
        page.keyboard.press("/")
        page.keyboard.type("note 16")
        options = page.get_by_role("listbox", name="Found").get_by_role("option")
        options.first.wait_for()
        options.first.click()
        at(page, "step 16")
        hits = []
        for query, scope in [
            ("note 1", "all"),
            ("MISSING", "operations"),
            ("<script>", "memory"),
            ("zz", "said"),
        ]:
            hits.append(
                page.evaluate(
                    "([query, scope]) => app.source.search(app.lane.data, query, scope)",
                    [query, scope],
                )
            )
        found.append(hits)
    assert found[0] == found[1]
    assert len(found[0][0]["hits"]) > 4 and found[0][3] == {"hits": [], "more": False}


def test_a_lines_story(url, open_page):
    page = open_page(url)
    page.locator("#slider").fill("1")
    at(page, "step 1")
    page.locator(".memory li.added .line").click()
    story = page.get_by_role("region", name="Lineage of a line")
    story.wait_for()
    text = story.inner_text()
    assert "step 1, LOG turn 1, by APPEND" in text and "step 2, PLAN turn 1" in text
    story.get_by_role("button", name="step 2", exact=True).first.click()
    at(page, "step 2")
    assert page.locator(".memory li.chosen.read").count() == 1


def test_a_link_opens_the_same_place(url, open_page):
    page = open_page(url)
    page.keyboard.press("c")
    page.locator("#compare-menu button").first.click()
    page.locator("#slider").fill("16")
    at(page, "step 16")
    page.keyboard.press("3")
    page.locator(".memory li.added .line").first.click()
    page.get_by_role("region", name="Lineage of a line").wait_for()
    page.locator("#link").click()
    page.get_by_text(re.compile("Link copied|address bar")).wait_for()
    link = page.evaluate("location.href")
    if url.startswith("http"):
        assert page.evaluate("navigator.clipboard.readText()") == link
    again = open_page(link)
    at(again, "step 16")
    assert again.locator(".lane").count() == 2
    assert "note 16" in again.get_by_role("region", name="Lineage of a line").inner_text()


def test_what_traces_say_is_shown_and_never_interpreted(url, open_page, workdir):
    page = open_page(url)
    assert page.locator("h1 .workdir").inner_text() == workdir.name == "<b>run"
    page.locator("#slider").fill("1")
    at(page, "step 1")
    page.locator(".prompt summary").first.click()
    seen = page.locator(".screen .text pre").first.inner_text()
    assert "<script>window.owned = 1</script>" in seen and "javascript:window.owned=1" in seen
    assert "\u241b[31mred" in seen and "\u27e8U+202E\u27e9" in seen and "\x1b" not in page.content()
    assert page.locator("main script, main img[src='x'], main a, main b:text('run')").count() == 0
    assert "<script>" in page.locator(".memory ins").inner_text()
    tool = page.locator(".operations").first.inner_text()
    assert "<img src=x onerror" in tool


def test_exported_file_needs_nobody(exported):
    text = Path(exported.removeprefix("file://")).read_text()
    assert "http://www.w3.org/2000/svg" in text  # the one address: a name, not a place
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert "default-src &#x27;none&#x27;" in policy and "unsafe" not in policy
    assert "window.owned" not in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_accessible_in_every_view(served, open_page, serious_violations, width, scheme):
    page = open_page(served, width=width, scheme=scheme)
    page.locator("#slider").fill("7")
    at(page, "step 7")
    views = [
        lambda: None,
        lambda: page.keyboard.press("e"),
        lambda: (page.keyboard.press("/"), page.keyboard.type("note"),
                 page.get_by_role("listbox", name="Found").get_by_role("option").first.wait_for()),
        lambda: (page.keyboard.press("Escape"), page.evaluate("app.showLine(app.lane, 0)"),
                 page.get_by_role("region", name="Lineage of a line").wait_for()),
        lambda: page.evaluate("app.help.showModal()"),
        lambda: page.evaluate("(app.help.close(), app.compare())"),
    ]  # fmt: skip
    found = []
    for view in views:
        view()
        found += serious_violations(page)
    assert found == [], json.dumps(found, indent=1)


@pytest.mark.parametrize("width", [400, 760, 1280, 1900])
def test_nothing_sticks_out(served, open_page, width):
    page = open_page(served, width=width)
    page.keyboard.press("c")
    page.locator("#compare-menu button").first.click()
    until(lambda: page.locator(".lane").count() == 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for place in ("#transport", "#bar", ".lane >> nth=1", ".screen >> nth=1", ".plot >> nth=0"):
        box = page.locator(place).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width + 0.5, place


def test_a_running_episode_is_followed(workdir, tmp_path, open_page):
    whole = workdir / "traces" / "evaluate" / "base_v0" / "Toy-42.jsonl"
    lines = whole.read_bytes().splitlines(keepends=True)
    growing = tmp_path / "traces" / "Toy-42.jsonl.partial"
    growing.parent.mkdir()
    growing.write_bytes(b"".join(lines[:21]))
    library = Library(tmp_path)
    with serving(library) as url:
        page = open_page(url)
        outcome = page.locator(".outcome")
        assert "running" in outcome.inner_text() and "20 steps so far" in outcome.inner_text()
        page.keyboard.press("End")
        at(page, "step 19")
        with open(growing, "ab") as file:
            file.write(b"".join(lines[21:]))
        growing.rename(growing.with_suffix(""))
        page.get_by_text("cut off").first.wait_for()
        page.keyboard.press("ArrowRight")
        at(page, "step 20")
        page.keyboard.press("End")
        at(page, "end")
    library.close()


def test_narrow_screens_show_one_panel_at_a_time(served, open_page):
    page = open_page(served, width=400)
    panels = {"Seen": ".screen", "Said": ".talk", "Memory": ".memory"}
    for name, panel in panels.items():
        page.get_by_role("button", name=name, exact=True).click()
        assert [p for p in panels.values() if page.locator(f".panel{p}").is_visible()] == [panel]
    page.locator("#menu").click()
    page.get_by_role("listbox", name="Episodes").get_by_role("option").nth(2).click()
    until(lambda: page.locator(".lane h2 .run").inner_text() == "evaluate/specialist_best")
    assert not page.locator("#side").is_visible()


def test_the_theme_can_be_turned(served, open_page):
    page = open_page(served)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.keyboard.press("t")
    dark = page.evaluate(ground)
    assert light != dark
    page.reload()
    page.locator(".facts .at").wait_for()
    assert page.evaluate(ground) == dark
