"""The page in a headless browser: upload, stress, keyboard, widths, dark mode; no errors."""

from __future__ import annotations

import re

import numpy as np
import pytest

for library in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(library, reason="needs the extra web")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from accessibility import list_violations
from browser import BROWSER_PATH
from serving_process import run_serve
from serving_samples import encode_image

pytestmark = [
    pytest.mark.extra,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER_PATH is None, reason="needs chromium: apt-get install chromium"),
]
expect = playwright.expect
expect.set_options(timeout=90_000)
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
LONG = "Schwertransportgenehmigungsverfahrensverordnungsschild" * 3
HAS_NAME = "(one) => Boolean(one.labels?.length || one.textContent.trim())"
MEASURE = """() => {
  const out = [];
  for (const one of document.querySelectorAll("body *")) {
    const box = one.getBoundingClientRect();
    const scrolls = one.closest(".scroll, .hidden-input, .skip");
    const name = one.tagName + ": " + one.textContent.slice(0, 40);
    if (box.width && box.right > innerWidth + 1 && !scrolls) out.push(name);
  }
  return [document.documentElement.scrollWidth, out];
}"""
CONTRAST = """() => {
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
    return /, 0\\)$/.test(color) ? findPaper(one.parentElement) : color;
  };
  const poor = [];
  for (const one of document.querySelectorAll("body *")) {
    const hasText = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!hasText || !one.checkVisibility() || one.matches("option, optgroup, :disabled")) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(findPaper(one))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(one.tagName + ": " + one.textContent.slice(0, 40));
  }
  return poor;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name, color in {"stop.png": (180, 20, 20), "sky.png": (90, 120, 200)}.items():
        (folder / name).write_bytes(encode_image(np.tile(np.array(color, np.uint8), (40, 60, 1))))
    (folder / "notes.txt").write_text("no image")
    names = [f"{LONG} {number}" for number in range(43)]
    names[14], names[1] = "Stop", "Speed limit (30km/h)"
    (folder / "names.txt").write_text("\n".join(names))
    (folder / "grid.yaml").write_text(
        "data: {source: signs}\nmodels:\n"
        + "".join(f"  - {{id: {name}, source: 'zoo:{zoo}', class_names: {names}}}\n" for name, zoo in
                  (("first", "signs-ibp"), ("second", "signs-plain")))
        + "attacks: [fgsm-linf-8]\n"
    )  # fmt: skip
    arguments = [
        "grid.yaml",
        "--model",
        "first",
        "--compare",
        "second",
        "--port",
        "0",
        "--reference",
        "signs",
    ]
    with run_serve(folder, *arguments) as one:
        one.folder = folder
        yield one


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as opened:
        chromium = opened.chromium.launch(executable_path=BROWSER_PATH, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(server, browser):
    """A function that opens the page; at the end, nothing has gone wrong in it."""
    contexts, wrong = [], []

    def open_page(width=1400, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, permissions=["camera"], **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if is_outside(request.url) else None)
        page.goto(server.url)
        expect(page.locator("#model-name")).to_have_text("first")
        return page

    def is_outside(url):
        return not url.startswith((server.url, "data:", f"blob:{server.url}"))

    yield open_page
    for context in contexts:
        context.close()
    refused = "Failed to load resource: the server responded with a status of 415"
    assert [text for text in wrong if not text.startswith(refused)] == []


def upload(page, folder, *names):
    page.set_input_files("#files", [folder / name for name in names])
    expect(page.locator("#progress")).to_have_text(re.compile(r"^\d+ images? done$"))


def test_several_images_are_classified_and_one_that_is_none_says_so(server, open_page):
    page = open_page()
    upload(page, server.folder, "stop.png", "sky.png", "notes.txt")
    cards = page.locator("#results .card")
    assert cards.count() == 3
    assert cards.nth(0).locator("h2").inner_text() == "stop.png"
    assert cards.nth(0).locator(".classes").count() == 2  # one for each model
    assert cards.nth(0).locator(".classes").nth(0).locator("li").count() == 5
    assert "32 \u00d7 32" in cards.nth(0).inner_text()
    assert "outside the range of the reference images" in cards.nth(0).inner_text()
    assert cards.nth(2).locator(".problem").inner_text().startswith("The file is no image; send PNG")
    expect(page.locator(".verdict")).to_have_count(2)
    assert "ertified" in cards.nth(0).locator(".verdict").inner_text()
    page.click("#clear")
    assert cards.count() == 0


def test_an_image_is_stressed_and_a_moved_slider_attacks_again(server, open_page):
    page = open_page()
    upload(page, server.folder, "stop.png")
    page.click("text=Stress this image")
    assert page.locator("#stress").is_visible()
    page.select_option("#attack", "fgsm")
    assert page.locator("#steps-part").is_hidden()
    page.fill("#eps", "16")
    assert page.locator("#eps-text").inner_text() == "16/255"
    page.click("#stress-run")
    cards = page.locator("#stress-results .card")
    expect(cards).to_have_count(2)
    assert "Label used:" in cards.nth(0).inner_text()
    assert "The image made against first" in cards.nth(1).inner_text()
    assert "Difference \u00d7 7, around gray" in cards.nth(0).inner_text()
    with page.expect_response("**/attack?*") as answered:
        page.locator("#eps").press("ArrowLeft")
    assert f"eps={15.5 / 255}" in answered.value.url
    with page.expect_response("**/attack?*") as answered:
        page.select_option("#target", "speed limits")
    assert answered.value.url.endswith("target=1")
    page.select_option("#threat", "fog")
    expect(page.locator("#stress-progress")).to_have_text("Attack finished.")
    assert page.locator("#severity").is_visible()
    assert page.locator("#eps").is_hidden()


def test_a_camera_picture_is_classified(open_page):
    page = open_page()
    page.click("#camera-start")
    expect(page.locator("#camera-take")).to_be_enabled()
    page.click("#camera-take")
    expect(page.locator("#results .classes")).to_have_count(2)
    page.click("#camera-stop")
    assert page.locator("#camera").is_hidden()
    page.click("#tab-about")  # leaving the view ends the camera as well
    assert page.locator("#cards .card").count() == 2


def test_the_keyboard_is_enough(server, open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "tab-classify"
    for key, tab in (
        ("ArrowRight", "stress"),
        ("End", "about"),
        ("ArrowRight", "classify"),
        ("ArrowLeft", "about"),
        ("Home", "classify"),
    ):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.id") == f"tab-{tab}"
        assert page.locator(f"#{tab}").is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    outline = "getComputedStyle(document.querySelector('label[for=files]')).outlineStyle"
    assert page.evaluate(outline) == "solid"
    controls = page.locator("button, input, select").all()
    names = [one.get_attribute("id") for one in controls if not one.evaluate(HAS_NAME)]
    assert names == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (768, "light"), (1400, "dark"), (390, "light")])
def test_the_page_fits_every_width_and_can_be_read(server, open_page, width, scheme):
    page = open_page(width, scheme)
    upload(page, server.folder, "stop.png", "notes.txt")
    for tab in ("classify", "stress", "about"):
        page.click(f"#tab-{tab}")
        for details in page.locator("details:visible").all():
            details.locator("summary").click()
        assert page.evaluate(MEASURE) == [width, []]
        assert page.evaluate(CONTRAST) == []
    page.goto(f"{server.url}docs")
    assert page.evaluate(MEASURE) == [width, []]
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_axe_finds_nothing_on_any_tab(server, open_page, width, scheme):
    page = open_page(width, scheme)
    upload(page, server.folder, "stop.png", "notes.txt")
    for tab in ("classify", "stress", "about"):
        page.click(f"#tab-{tab}")
        assert list_violations(page) == [], tab
