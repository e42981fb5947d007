import xml.etree.ElementTree as ElementTree

from automem_jax.report.figures import Point, dot_plot, line_plot
from automem_jax.report.page import MAX_TEXT_CHARS, Html, escape, preformatted, tag


def test_escape_shows_markup_and_invisible_characters():
    assert escape('<a href="x">\'&') == "&lt;a href=&quot;x&quot;&gt;&#x27;&amp;"
    assert escape("a\x1b[0m\x00\tb\nc") == "a␛[0m␀\tb\nc"
    assert escape("\u202ex\ud800") == "&lt;U+202E&gt;x&lt;U+D800&gt;"
    assert escape("a\r\nb\rc") == "a\nb␍c"
    assert escape(Html("<b>")) == "<b>"


def test_tag_escapes_children_and_attributes():
    made = tag("p", "<i>", Html("<b>x</b>"), 3, cls='a"b', data_label="<", title=None)
    assert made == '<p class="a&quot;b" data-label="&lt;">&lt;i&gt;<b>x</b>3</p>'


def test_long_text_is_cut_and_says_so():
    text = preformatted("x" * (MAX_TEXT_CHARS + 5))
    assert "5 more characters" in text and len(text) < MAX_TEXT_CHARS + 100


def _svg(figure):
    text = figure[figure.index("<svg") : figure.index("</svg>") + 6]
    return ElementTree.fromstring(text)


def test_dot_plot_holds_labels_bars_and_css_colours():
    points = [
        Point("a <b> $x$ 😀", 50.0, (40.0, 60.0), "--arm-v0", note="50.0 %"),
        Point("none", 10.0, None, "--arm-best", hollow=True),
    ]
    figure = dot_plot("one", {"Title": points}, "progression, %", 'What "it" shows')
    svg = _svg(figure)
    text = " ".join(svg.itertext())
    for words in ("a <b> $x$ ?", "50.0 %", "Title", "progression, %"):
        assert words in text
    assert "var(--arm-v0)" in figure and "var(--ink)" in figure and "#0102" not in figure
    assert svg.get("aria-label") == 'What "it" shows'
    assert "<metadata" not in figure and "<?xml" not in figure
    ids = [node.get("id") for node in svg.iter() if node.get("id")]
    assert ids and all(name.startswith("one-") for name in ids)


def test_figures_repeat_byte_for_byte():
    series = {"loss": (list(range(1, 50)), [1 / n for n in range(1, 50)], "--arm-control")}
    first, second = (line_plot("l", series, ("step", "loss"), "d") for _ in range(2))
    assert first == second
    assert "loss" in " ".join(_svg(first).itertext())
