"""The page of a report in a real browser: it works by mouse and by keyboard, on a phone, dark and light, offline."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from damlpips.report.page import write_report
from tests.support.scored import ODD, run_score

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytest.importorskip("selenium", reason="selenium is not installed")
if not (CHROMIUM and DRIVER):
    pytest.skip("no Chromium with its chromedriver here", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TRAP = ODD[0].removesuffix(".png")
LUMINANCE = """
const luminance = (text) => {
  const part = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
};
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
  }
  return "rgb(255, 255, 255)";
};
"""
# the least ratio of all texts that are shown, and the text that has it
CONTRAST = (
    LUMINANCE
    + """
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!own || !node.getClientRects().length || node.classList.contains("corner")) continue;
  const style = getComputedStyle(node);
  const letters = node instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [luminance(letters), luminance(behind(node))].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), node.textContent.trim().slice(0, 40), letters, behind(node)]);
}
return [found.length, found.sort((x, y) => x[0] - y[0])[0]];
"""
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=Service(DRIVER), options=options)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of three methods on nine references; one name is a trap."""
    folder = tmp_path_factory.mktemp("report")
    names = [ODD[0], *(f"{k}.png" for k in range(8))]
    rows = run_score(folder, noises={"weak": 6, TRAP: 25, "middle": 14}, names=names)
    write_report([rows], folder / "report.html", pairs=2)
    return folder / "report.html"


@pytest.fixture
def page(browser: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    """Return the browser with the page freshly opened, light, as wide as a desk's screen."""
    looks(browser, "light")
    wide(browser, 1280)
    browser.get(report.as_uri())
    return browser


def looks(browser: webdriver.Chrome, scheme: str, motion: str = "reduce") -> None:
    # without motion, so that nothing moves away below a click
    wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
    media = {"features": [{"name": name, "value": value} for name, value in wanted.items()]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def wide(browser: webdriver.Chrome, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def one(page: webdriver.Chrome, selector: str) -> Any:
    return page.find_element(By.CSS_SELECTOR, selector)


def css(page: webdriver.Chrome, selector: str, name: str) -> str:
    return page.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name
    )


def methods(page: webdriver.Chrome) -> list[str]:
    return [head.get_dom_attribute("data-value") for head in page.find_elements(By.CSS_SELECTOR, ".sortable tbody th")]


def sorted_by(page: webdriver.Chrome) -> dict[str, str]:
    heads = page.find_elements(By.CSS_SELECTOR, ".sortable thead th")
    return {h.text.split(" ")[0]: s for h in heads if (s := h.get_dom_attribute("aria-sort")) != "none"}


def focused(page: webdriver.Chrome) -> str:
    return page.execute_script("return document.activeElement.id || document.activeElement.className")


def press(page: webdriver.Chrome, *keys: str) -> None:
    ActionChains(page).send_keys(*keys).perform()


def open_worst(page: webdriver.Chrome) -> Any:
    button = one(page, ".pair button.open")
    button.click()
    return button


class TestTable:
    def test_sorted_by_click(self, page: webdriver.Chrome) -> None:
        assert methods(page) == ["weak", "middle", TRAP]  # the lowest mean first
        assert sorted_by(page) == {"Mean": "ascending"}
        mean, method = page.find_elements(By.CSS_SELECTOR, ".sortable thead button")[1::-1]
        mean.click()
        assert methods(page) == [TRAP, "middle", "weak"]
        assert sorted_by(page) == {"Mean": "descending"}
        method.click()
        assert methods(page) == [TRAP, "middle", "weak"]
        assert sorted_by(page) == {"Method": "ascending"}
        method.click()
        assert methods(page) == ["weak", "middle", TRAP]

    def test_sorted_by_keyboard(self, page: webdriver.Chrome) -> None:
        press(page, Keys.TAB)
        assert focused(page) == "skip"
        for _ in range(4):  # the table, which can be scrolled, then its heads
            press(page, Keys.TAB)
            if page.execute_script("return document.activeElement.textContent") == "Mean":
                break
        assert page.execute_script("return document.activeElement.textContent") == "Mean"
        outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        press(page, Keys.ENTER)
        assert methods(page) == [TRAP, "middle", "weak"]
        press(page, Keys.SPACE)
        assert methods(page) == ["weak", "middle", TRAP]


class TestViewer:
    def test_slider_moves_the_border(self, page: webdriver.Chrome) -> None:
        assert not one(page, "#viewer").is_displayed()
        open_worst(page)
        assert one(page, "#viewer").is_displayed()
        assert css(page, "#viewer-result", "clipPath") == "inset(0px 0px 0px 50%)"
        assert focused(page) == "viewer-slider"
        press(page, Keys.ARROW_LEFT * 10)
        assert css(page, "#viewer-result", "clipPath") == "inset(0px 0px 0px 40%)"
        assert one(page, "#viewer-slider").get_dom_attribute("aria-valuetext").startswith("reference up to 40 percent")
        press(page, Keys.END)
        assert css(page, "#viewer-result", "clipPath") == "inset(0px 0px 0px 100%)"
        # the picture itself takes the border along
        stage = one(page, "#viewer-stage")
        across = stage.size["width"]
        ActionChains(page).move_to_element(stage).click_and_hold().move_by_offset(across // 4, 0).release().perform()
        assert one(page, "#viewer-slider").get_property("value") in ("74", "75", "76")

    def test_a_finger_moves_the_border(self, page: webdriver.Chrome) -> None:
        wide(page, 360)
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        try:
            page.execute_script("document.querySelector('.pair button.open').click()")
            box = page.execute_script(
                "const b = arguments[0].getBoundingClientRect(); return [b.left, b.top, b.width]",
                one(page, "#viewer-stage"),
            )
            for kind, share in (("touchStart", 0.5), ("touchMove", 0.6), ("touchMove", 0.8), ("touchEnd", None)):
                points = [] if share is None else [{"x": box[0] + share * box[2], "y": box[1] + 40}]
                page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            assert one(page, "#viewer-slider").get_property("value") in ("79", "80", "81")
        finally:
            page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})

    def test_what_is_opened_is_the_worst_pair(self, page: webdriver.Chrome) -> None:
        pair = one(page, ".pair")
        scores = [float(p.get_dom_attribute("data-score")) for p in page.find_elements(By.CSS_SELECTOR, ".pair")]
        assert scores[:2] == sorted(scores[:2], reverse=True)
        assert scores[0] == max(scores[:4])
        open_worst(page)
        name, score = pair.get_dom_attribute("data-name"), pair.get_dom_attribute("data-score")
        assert one(page, "#viewer-title").text == f"{score} {name}"
        assert one(page, "#viewer-place").text == "weak, worst"
        for kind in ("reference", "result"):
            shown = one(page, f"#viewer-{kind}").get_property("src")
            assert shown == one(page, f".pair .{kind} img").get_property("src")
            assert page.execute_script("return arguments[0].naturalWidth", one(page, f"#viewer-{kind}")) == 48
        one(page, "#viewer-next").click()
        assert one(page, "#viewer-place").text == "weak, 2nd worst"
        one(page, "#viewer-previous").click()
        one(page, "#viewer-previous").click()  # round to the last pair of the page
        assert one(page, "#viewer-place").text == f"{TRAP}, 2nd best"

    def test_heat_map(self, page: webdriver.Chrome) -> None:
        open_worst(page)
        switch = one(page, "#viewer-heat")
        assert switch.accessible_name.strip() == "Heat map over the result"
        assert switch.aria_role == "switch"
        switch.click()
        heat = page.execute_script("return document.querySelector('.pair .heat img').src")
        assert one(page, "#viewer-result").get_property("src") == heat
        assert one(page, "#viewer-right").text == "where they differ"
        assert one(page, "#viewer-scale svg").is_displayed()
        one(page, "#viewer-next").click()  # stays on
        heat = page.execute_script("return document.querySelectorAll('.pair .heat img')[1].src")
        assert one(page, "#viewer-result").get_property("src") == heat
        switch.send_keys(Keys.SPACE)
        result = page.execute_script("return document.querySelectorAll('.pair .result img')[1].src")
        assert one(page, "#viewer-result").get_property("src") == result
        assert not page.find_elements(By.CSS_SELECTOR, "#viewer-scale:not([hidden]) svg")

    def test_closing_returns_the_focus(self, page: webdriver.Chrome) -> None:
        button = one(page, ".pair button.open")
        for close in (
            lambda: press(page, Keys.ESCAPE),
            lambda: one(page, "#viewer-close").click(),
            lambda: one(page, "#viewer-close").send_keys(Keys.ENTER),
        ):
            page.execute_script("arguments[0].focus()", button)
            press(page, Keys.ENTER)
            assert one(page, "#viewer").is_displayed()
            close()
            assert not one(page, "#viewer").is_displayed()
            assert page.switch_to.active_element == button

    def test_controls_have_names(self, page: webdriver.Chrome) -> None:
        def unnamed(within: str) -> list[str]:
            found = page.find_elements(By.CSS_SELECTOR, f"{within} :is(button, input, a, img, svg[role])")
            shown = [control for control in found if control.is_displayed()]
            assert len(shown) > 5
            return [c.get_attribute("outerHTML")[:200] for c in shown if not c.accessible_name.strip()]

        assert unnamed("main") == []
        open_worst(page)
        one(page, "#viewer-heat").click()
        assert unnamed("#viewer") == []

    def test_no_heat_map(self, browser: webdriver.Chrome, report: Path, tmp_path: Path) -> None:
        write_report([report.with_name("rows.csv")], tmp_path / "page.html", pairs=1, maps=False)
        browser.get((tmp_path / "page.html").as_uri())
        open_worst(browser)
        assert not one(browser, "#viewer-heat").is_enabled()
        assert one(browser, "#viewer-missing").text == "There is no heat map of this pair; the page says why."
        assert "There are no heat maps" in one(browser, "main").text


class TestLooks:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_contrast(self, page: webdriver.Chrome, scheme: str) -> None:
        light = css(page, "body", "backgroundColor")
        looks(page, scheme)
        assert (css(page, "body", "backgroundColor") == light) == (scheme == "light")
        count, least = page.execute_script(CONTRAST)
        assert count > 60
        assert least[0] >= 4.5, least
        open_worst(page)
        _, least = page.execute_script(CONTRAST)
        assert least[0] >= 4.5, least
        lights = page.execute_script(LUMINANCE + "return luminance(behind(document.body))")
        assert lights > 0.8 if scheme == "light" else lights < 0.05

    @pytest.mark.parametrize("width", [360, 768, 1280])
    def test_no_sideways_scrolling(self, page: webdriver.Chrome, width: int) -> None:
        wide(page, width)
        inner, visible, whole = page.execute_script(
            "const d = document.documentElement; return [innerWidth, d.clientWidth, d.scrollWidth]"
        )
        assert (inner, whole) == (width, visible)
        open_worst(page)
        box = page.execute_script(
            "const b = document.getElementById('viewer').getBoundingClientRect(); return [b.left, b.right]"
        )
        assert 0 <= box[0] < box[1] <= width
        stage = one(page, "#viewer-stage").size
        assert stage["width"] / stage["height"] == pytest.approx(48 / 40, rel=0.02)
        viewer = one(page, "#viewer")
        assert page.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", viewer)

    def test_charts_hold_every_score(self, page: webdriver.Chrome) -> None:
        dots = page.find_elements(By.CSS_SELECTOR, ".charts svg circle.scores")
        assert len(dots) == 27
        chart = one(page, ".charts .card").rect
        assert all(chart["x"] < d.rect["x"] < chart["x"] + chart["width"] for d in dots)

    def test_motion(self, page: webdriver.Chrome) -> None:
        assert css(page, "html", "scrollBehavior") == "auto"
        looks(page, "light", motion="no-preference")
        assert css(page, "html", "scrollBehavior") == "smooth"


class TestOnItsOwn:
    def test_without_javascript(self, page: webdriver.Chrome, report: Path) -> None:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            page.get(report.as_uri())
            for kind in ("reference", "result", "heat"):
                image = one(page, f".pair .{kind} img")
                assert image.is_displayed()
                assert image.size["width"] > 200
            places = [one(page, f".pair .{kind} img").location for kind in ("reference", "result", "heat")]
            assert places[0]["y"] == places[1]["y"] == places[2]["y"]
            assert places[0]["x"] < places[1]["x"] < places[2]["x"]
            assert methods(page) == ["weak", "middle", TRAP]
            assert not one(page, ".pair button.open").is_displayed()
            assert not one(page, "#viewer").is_displayed()
        finally:
            page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    def test_nothing_is_requested_and_nothing_complained_of(self, page: webdriver.Chrome, report: Path) -> None:
        page.get_log("performance")
        page.get_log("browser")
        page.get(report.as_uri())
        open_worst(page)
        one(page, "#viewer-heat").click()
        messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert report.as_uri() in sent
        assert [url[:80] for url in sent if not url.startswith("data:")] == [report.as_uri()]
        assert page.get_log("browser") == []

    def test_the_policy_holds(self, page: webdriver.Chrome) -> None:
        """What a name might smuggle in would not run."""
        page.execute_script(
            "const s = document.createElement('script'); s.textContent = 'smuggled = 1'; document.body.append(s);"
            "const i = new Image(); i.onerror = () => { window.refused = 1 }; i.src = 'https://example.org/a.png';"
        )
        assert page.execute_async_script("setTimeout(() => arguments[0](window.refused), 200)") == 1
        assert page.execute_script("return window.smuggled") is None
        complaints = " ".join(entry["message"] for entry in page.get_log("browser"))
        assert len(re.findall("Content Security Policy", complaints)) >= 2

    def test_names_are_text(self, page: webdriver.Chrome) -> None:
        assert TRAP in one(page, "main").text
        assert page.execute_script("return document.scripts.length") == 1
        assert page.execute_script("return document.querySelectorAll('.pair img').length") == 36


@pytest.fixture(scope="module")
def report_of_several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    metrics = [part for name in ("damlpips", "psnr", "ssim", "piq:gmsd") for part in ("--metric", name)]
    rows = run_score(folder, *metrics, noises={"weak": 6, "strong": 25}, names=[f"{k}.png" for k in range(4)])
    write_report([rows], folder / "report.html", pairs=2)
    return folder / "report.html"


class TestSeveralMetrics:
    @pytest.fixture
    def several(self, browser: webdriver.Chrome, report_of_several: Path) -> webdriver.Chrome:
        looks(browser, "light")
        wide(browser, 1280)
        browser.get(report_of_several.as_uri())
        return browser

    def test_sorted_by_any_metric(self, several: webdriver.Chrome) -> None:
        heads = several.find_elements(By.CSS_SELECTOR, "#metrics .sortable thead button")
        assert [head.text.split(" ")[0] for head in heads] == ["Method", "DAMLPIPS", "PSNR", "SSIM", "piq:gmsd"]
        for head, lowest in zip(heads[1:], ("weak", "strong", "strong", "weak"), strict=True):
            head.click()
            first = one(several, "#metrics .sortable tbody th")
            assert first.get_dom_attribute("data-value") == lowest
        for cell in several.find_elements(By.CSS_SELECTOR, "#metrics .sortable td strong"):
            assert int(cell.value_of_css_property("font-weight")) >= 600

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1280])
    def test_it_is_legible(self, several: webdriver.Chrome, width: int, scheme: str) -> None:
        looks(several, scheme)
        wide(several, width)
        inner, visible, whole = several.execute_script(
            "const d = document.documentElement; return [innerWidth, d.clientWidth, d.scrollWidth]"
        )
        assert (inner, whole) == (width, visible)
        _, least = several.execute_script(CONTRAST)
        assert least[0] >= 4.5, least
