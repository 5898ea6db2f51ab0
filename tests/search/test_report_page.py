"""The report of the paper's 85 cells in a real browser."""

from pathlib import Path

import pytest

from scripts import synthetic_study
from search import report
from search.study_config import load_study

pytestmark = pytest.mark.slow

STUDY = Path(__file__).parents[2] / "search" / "studies" / "dinov3_resolution.yaml"
PATHOLOGIES = [f"finding_{letter}" for letter in "abcdefghijklmn"]
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """The page of 85 cells × 14 pathologies; few cases and redraws, which change nothing of its size."""
    study = load_study(STUDY)
    study = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"redraws": 100})})
    targets = dict.fromkeys(study.axes["dataset"], PATHOLOGIES)
    size = synthetic_study.Size(cases=90, patients=60, redraws=20)
    folder = synthetic_study.build(study, tmp_path_factory.mktemp("paper"), targets, size)
    report.renew(study, folder)
    return folder.report / "report.html"


@pytest.fixture
def opened(chromium, page_file):
    """The page on a desktop, with what it logged and asked for."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    told, asked = [], []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    yield page, told, asked
    context.close()


def width(page):
    return page.evaluate("document.documentElement.scrollWidth")


def test_it_is_small_complete_and_asks_the_network_for_nothing(opened, page_file):
    page, told, asked = opened
    assert page_file.stat().st_size < 5_000_000
    assert page.locator("#winners tbody tr").count() == 85
    drawn = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 100)")
    assert len(drawn) > 20
    assert all(drawn)
    assert told == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]


def test_a_page_that_asks_the_network_would_be_stopped_and_noticed(opened):
    page, told, _ = opened
    page.evaluate("document.images[0].src = 'https://example.org/x.png'")
    page.wait_for_function("!document.images[0].complete || document.images[0].naturalWidth === 0")
    assert any("Content Security Policy" in text for text in told)


def test_nothing_overflows_on_a_phone_and_wide_figures_scroll(opened):
    page, _, _ = opened
    page.set_viewport_size(PHONE)
    page.locator("summary").evaluate_all("folds => folds.forEach(fold => fold.click())")
    assert width(page) == PHONE["width"]
    figure = page.locator("#figure-results .figure")
    assert figure.evaluate("box => box.scrollWidth > box.clientWidth")
    assert figure.evaluate("box => getComputedStyle(box).overflowX") == "auto"
    assert page.locator("body").evaluate("body => parseFloat(getComputedStyle(body).fontSize)") >= 16


def test_print_shows_whole_figures_and_no_navigation(opened, tmp_path):
    page, _, _ = opened
    assert page.locator("nav").is_visible()
    page.set_viewport_size({"width": 720, "height": 1000})  # A4 between its margins
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator("figure img").evaluate_all("all => all.every(image => image.clientWidth <= innerWidth)")
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 100_000


def test_dark_and_light_both_have_contrast(opened):
    page, _, _ = opened
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for element in ("body", "a"):
            text = page.locator(element).first.evaluate("e => getComputedStyle(e).color")
            ground = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") and (18, 18, 18)
            assert contrast(numbers(text), ground or (255, 255, 255)) >= 4.5, (scheme, element, text)


def numbers(colour):
    return tuple(float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3])


def contrast(one, other):
    """WCAG 2.2, relative luminance and contrast ratio."""
    light = sorted((luminance(colour) for colour in (one, other)), reverse=True)
    return (light[0] + 0.05) / (light[1] + 0.05)


def luminance(colour):
    shares = [part / 255 for part in colour]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
