"""Settings every test runs under: CPU only, one persistent compilation cache."""

import os
import shutil
import signal

import pytest

# Started in the background of a shell, interrupts are ignored, and children would ignore them too.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/automem_jax/xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # many small programs

# For programs of several fake devices, where compiling is nearly all of the time; numerics are the same.
os.environ["AUTOMEM_QUICK_COMPILE"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

_LONGEST = (  # first, so that no worker ends with one of them alone
    "test_pipeline.py",
    "test_distributed.py",
    "test_mesh.py",
    "test_launch_training.py",
    "test_sharding.py",
)


def pytest_collection_modifyitems(items):
    """Puts the files that take longest first."""
    order = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, driven by Playwright; .ci/chromium installs it where tests must not be skipped.

    Of a module, not the session: meanwhile an event loop runs in this thread, and other tests bring theirs.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as started:
        # a container's root user has no sandbox; the pages are our own
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_watched(browser):
    """Opens pages that must leave no error, ask nobody else, and run nothing of a trace's."""
    contexts, problems, asked = [], [], []

    def open_watched(url, width=1280, height=800, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            permissions=["clipboard-read", "clipboard-write"] if url.startswith("http") else [],
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on(
            "console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        return page

    yield open_watched
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.owned") is None
        context.close()
    assert problems == []
    own = ("http://127.0.0.1:", "file://", "blob:", "data:")
    assert [url for url in asked if not url.startswith(own)] == []


@pytest.fixture
def serious_violations():
    """What axe-core finds wrong on a page for people who use it otherwise, serious and worse."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core here")

    def serious_violations(page):
        return [
            [violation["id"], [node["html"][:120] for node in violation["nodes"][:3]]]
            for violation in axe.Axe().run(page).response["violations"]
            if violation["impact"] in ("serious", "critical")
        ]

    return serious_violations
