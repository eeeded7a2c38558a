"""The pages in a headless browser: the keyboard, three widths, light and dark; nothing goes wrong in any."""

from __future__ import annotations

import threading

import pytest

for library in ("starlette", "uvicorn"):
    pytest.importorskip(library, reason="needs the extra web")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
import uvicorn
from accessibility import list_violations
from browser import BROWSER_PATH
from sample_run import HOSTILE_CLASS_NAMES, HOSTILE_MODELS, SampleRun
from view_samples import PLANS, build_broken_runs, build_sample

from robustbench_local.view.run_folders import build_run_id
from robustbench_local.view.view_app import create_view
from robustbench_local.web.listening_socket import open_socket

pytestmark = [
    pytest.mark.extra,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER_PATH is None, reason="needs chromium: apt-get install chromium"),
]
LONG = "schwertransportgenehmigungsverfahren" * 6
RUN, HOSTILE = build_run_id("nightly/first"), build_run_id(f"{LONG}/<b>")
PAGES = {
    "list": "/",
    "run": f"/runs/{HOSTILE}",
    "images": f"/runs/{RUN}/images",
    "hostile images": f"/runs/{HOSTILE}/images",
    "image": f"/runs/{RUN}/image?id=test/00002.png",
    "trend": "/trends?model=signs-pgd-at&threat=linf-8",
    "compare": f"/compare?run={RUN}",
    "problem": f"/runs/{build_run_id('damaged')}",
}
MEASURE = """() => {
  const out = [], names = [], poor = [];
  const scale = (byte) => {
    const value = byte / 255;
    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  const light = (color) => {
    const [red, green, blue] = color.match(/[\\d.]+/g).map((value) => scale(Number(value)));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const findPaper = (one) => {
    const color = getComputedStyle(one).backgroundColor;
    return /, 0\\)$/.test(color) && one.parentElement ? findPaper(one.parentElement) : color;
  };
  for (const one of document.querySelectorAll("body *")) {
    const box = one.getBoundingClientRect(), text = one.textContent.trim().slice(0, 40);
    const sticks = box.width && box.right > innerWidth + 1;
    if (sticks && !one.closest(".scroll, .skip")) out.push(one.tagName + text);
    const hasText = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!hasText || !one.checkVisibility() || one.closest("svg, option, .skip")) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(findPaper(one))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(one.tagName + text);
  }
  for (const one of document.querySelectorAll("a, button, input, select, summary, img, [role=region]")) {
    const name = one.labels?.length || one.textContent.trim() || one.alt || one.ariaLabel;
    if (!name) names.push(one.outerHTML.slice(0, 80));
  }
  const levels = [...document.querySelectorAll("h1, h2, h3")].map((one) => Number(one.tagName[1]));
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  return {
    width: document.documentElement.scrollWidth, out, poor, names, language: document.documentElement.lang,
    headings: levels[0] === 1 && levels.every((level, place) => !place || level <= levels[place - 1] + 1),
    repeated: ids.filter((id, place) => ids.indexOf(id) !== place), title: Boolean(document.title),
  };
}"""
FOCUSED = "document.activeElement.textContent.trim()"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    first = build_sample(root / "nightly/first")
    build_sample(root / "nightly/second", environment={"started": "2026-11-25T00:00:00+00:00"})
    names = (LONG, *HOSTILE_CLASS_NAMES[1:])
    hostile = SampleRun(models=(LONG, *HOSTILE_MODELS[:2]), class_names=names, images=16, plans=PLANS,
                        question=LONG, failing_cell=None)  # fmt: skip
    build_sample(root / LONG / "<b>", hostile)
    build_broken_runs(root, first)
    opened, errors = open_socket("127.0.0.1", 0), []
    server = uvicorn.Server(
        uvicorn.Config(create_view(root, errors.append), log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    server.should_exit = True
    thread.join(60)
    opened.close()
    assert errors == []


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as opened:
        chromium = opened.chromium.launch(executable_path=BROWSER_PATH, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(url, browser):
    """A function that opens a page; at the end, nothing has gone wrong in any."""
    contexts, wrong = [], []

    def open_page(path, width=1400, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if is_outside(request.url) else None)
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(f"{url}{path}")
        return page

    def is_outside(address):
        return not address.startswith((f"{url}/", "data:"))

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (768, "light"), (1400, "dark")])
def test_every_page_fits_every_width_and_can_be_read(open_page, url, width, scheme):
    page = open_page("/", width, scheme)
    for name, path in PAGES.items():
        page.goto(f"{url}{path}")
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert page.evaluate(MEASURE) == {
            "width": width, "out": [], "poor": [], "names": [], "language": "en", "headings": True,
            "repeated": [], "title": True,
        }, name  # fmt: skip


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1400, "dark")])
def test_axe_finds_nothing_in_any_page(open_page, url, width, scheme):
    page = open_page("/", width, scheme)
    for name, path in PAGES.items():
        page.goto(f"{url}{path}")
        assert list_violations(page) == [], name


def test_the_keyboard_is_enough(open_page, url):
    page = open_page("/")
    press, get_focus = page.keyboard.press, lambda: page.evaluate(FOCUSED)
    press("Tab")
    assert get_focus() == "Skip to the content"
    press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("nightly/?")  # keys of the page are letters here
    press("Enter")
    page.wait_for_url("**/?q=nightly*")
    assert "No run matches" in page.locator("main").inner_text()
    page.goto(f"{url}/?q=nightly")
    for key, name in (
        ("j", "second"),
        ("j", "first"),
        ("j", "first"),
        ("k", "second"),
        ("ArrowDown", "first"),
    ):
        press(key)
        assert get_focus() == f"nightly/{name}", key
    press("Enter")
    page.wait_for_url(f"**/runs/{RUN}")
    press("j")
    press("j")
    assert get_focus() == "All images"
    press("Enter")
    page.wait_for_url("**/images")
    press("j")
    press("Enter")
    page.wait_for_url("**/image?*")
    first = page.url
    press("ArrowRight")
    page.wait_for_url(lambda address: address != first)
    assert "image 2 of" in page.locator("nav.pages").inner_text()
    press("ArrowLeft")
    page.wait_for_url(first)
    for address in ("**/images*", f"**/runs/{RUN}", f"{url}/"):
        press("u")
        page.wait_for_url(address)
    press("?")
    assert page.locator("#keys dl").is_visible()


def test_without_scripts_forms_and_links_do_the_same(open_page):
    page = open_page("/", java_script_enabled=False)
    page.fill("[name=q]", "nightly")
    page.select_option("[name=sort]", "name")
    page.select_option("[name=order]", "asc")
    page.click("text=Show")
    assert page.locator("[data-entry]").all_inner_texts() == ["nightly/first", "nightly/second"]
    page.click("text=nightly/first")
    page.click("text=All images")
    page.select_option("[name=outcome]", "success")
    page.click("button")
    page.wait_for_url("**outcome=success**")
    assert page.locator(".gallery li").count() == page.locator(".gallery .success").count() > 0
    page.locator(".gallery a").first.click()
    assert page.locator(".triple img").first.evaluate("(one) => one.naturalWidth") == 32
    page.goto(page.url.partition("/image")[0])
    page.click("text=Compare with another run")
    page.select_option("[name=baseline]", label="2026-11-25 nightly/second")
    page.click("button")
    assert "not shown to differ" in page.locator(".verdict").inner_text()
