"""The report in headless Chromium: wide and narrow, light and dark, all texts in their places."""

import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from fake_run import FakeRun, voted
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from rzero_stages import report

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
SCREENS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is missing; install it with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(FakeRun(tmp_path_factory.mktemp("whole")).whole())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fake = FakeRun(tmp_path_factory.mktemp("hostile"), iterations=1)
    texts = [
        "<script>document.title = 'broken'</script>",
        "<img src=x onerror=\"document.title = 'broken'\">",
        "\u202e" * 50 + "W" * 20_000,
        "\n" * 5000 + "Z\u0301\u0301\u0301\u0301\u0301" * 400,
        "</p></article></main><style>body{display:none}</style>",
    ]
    fake.finish_shards(1, [[voted(text, [text, text, "1", None]) for text in texts], []])
    return written(fake)


def written(fake: FakeRun) -> Path:
    status, manifest = fake.write()
    output = fake.root / "report.html"
    report.write(status, manifest, output)
    return output


def opened(browser: Browser, file: Path, width: int, scheme: str) -> tuple[Page, list[str]]:
    """The page, and what its browser complained about or asked the network for."""
    dark = scheme == "dark"
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url))
    page.goto(file.as_uri())
    seen.remove(file.as_uri())
    return page, [line for line in seen if line != "data:,"]


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_page_is_whole_and_quiet_on_every_screen(
    browser: Browser, whole: Path, width: int, scheme: str
) -> None:
    page, seen = opened(browser, whole, width, scheme)
    assert seen == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for words in ("Solver scores on heldout", "True pseudo-label accuracy", "Ten sample questions"):
        assert page.get_by_text(words).first.is_visible()
    lightness = brightness(page)
    assert (lightness < 60) if scheme == "dark" else (lightness > 200)


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_every_plot_is_drawn_and_its_text_can_be_read(
    browser: Browser, whole: Path, width: int, scheme: str
) -> None:
    page, _ = opened(browser, whole, width, scheme)
    plots = page.locator("figure svg")
    assert plots.count() == 9
    for plot in plots.all():
        colours = Image.open(BytesIO(plot.screenshot())).convert("RGB").getcolors(1 << 24)
        assert colours is not None and len(colours) > 20
    heights = page.locator("figure svg text").evaluate_all(
        "texts => texts.map(text => text.getBoundingClientRect().height)"
    )
    assert min(heights) >= 9
    outside = page.locator("figure svg text").evaluate_all(
        "texts => texts.filter(text => text.getBoundingClientRect().left < 0"
        " || text.getBoundingClientRect().right > innerWidth).length"
    )
    assert outside == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(
    browser: Browser, whole: Path, scheme: str
) -> None:
    page, _ = opened(browser, whole, 1280, scheme)
    for selector in ("h1", "td small", "figcaption p", "svg text", ".badge", ".right", ".wrong"):
        assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector


def test_a_wide_table_scrolls_in_its_own_frame(browser: Browser, whole: Path) -> None:
    page, _ = opened(browser, whole, 390, "light")
    frame = page.locator(".scroll")
    assert frame.evaluate("frame => frame.scrollWidth > frame.clientWidth")
    frame.evaluate("frame => frame.scrollLeft = 10_000")
    first = page.locator("tbody th").first.bounding_box()
    assert first is not None and first["x"] >= 0
    assert page.locator("tbody td").last.is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_texts_neither_run_nor_widen_the_page(
    browser: Browser, hostile: Path, width: int
) -> None:
    page, seen = opened(browser, hostile, width, "light")
    assert seen == []
    assert page.title() == "tiny · rzero run report"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heights = page.locator("article").evaluate_all(
        "articles => articles.map(article => article.getBoundingClientRect().height)"
    )
    assert len(heights) == 5 and max(heights) < 900
    assert page.get_by_text("Every number comes from").is_visible()


def brightness(page: Page) -> float:
    """Mean of the whole page, 0 (black) to 255; a blank page has one colour only."""
    image = Image.open(BytesIO(page.screenshot(full_page=True))).convert("L")
    counts = image.histogram()
    assert sum(count > 0 for count in counts) > 50
    return sum(value * count for value, count in enumerate(counts)) / sum(counts)


CONTRAST = """element => {
  // WCAG 2 contrast of an element's text with the nearest opaque background.
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(channel);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(element);
  const text = light(element.closest('svg') ? style.fill : style.color);
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)')
    behind = behind.parentElement;
  const ground = light(getComputedStyle(behind).backgroundColor);
  return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
}"""
