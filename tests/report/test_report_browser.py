"""A report's page in a real browser: it renders, sorts, filters, plays, prints, stays offline."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest

from melcheck.report.html import report_html
from tests.browser import prefer, screen
from tests.report import report_samples

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>.wav"
PHONE_WIDTH = 390


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a run with every outcome, a comparison, and hostile names."""
    report, media = report_samples.run(HOSTILE)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_html(report, media), encoding="utf-8")
    return path


@pytest.fixture
def browser(chromium: Any, page: Path) -> Any:
    """The browser on a freshly loaded page, on a wide and light screen."""
    screen(chromium, width=1280)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    for kind in ("browser", "performance"):
        chromium.get_log(kind)  # of the test before
    chromium.get("about:blank")
    chromium.get(page.as_uri())
    return chromium


def _column(driver: Any, name: str) -> list[str]:
    script = """
        const heads = [...document.querySelectorAll('#cases thead th')];
        const at = heads.findIndex((head) => head.textContent.includes(arguments[0]));
        const rows = [...document.querySelectorAll('#cases tbody tr')].filter((row) => !row.hidden);
        return rows.map((row) => row.cells[at].dataset.value);
    """
    return list(driver.execute_script(script, name))


def _press_head(driver: Any, name: str) -> None:
    script = """
        const heads = [...document.querySelectorAll('#cases thead th')];
        const head = heads.find((head) => head.textContent.includes(arguments[0]));
        head.querySelector('button').focus();
    """
    driver.execute_script(script, name)
    driver.switch_to.active_element.send_keys(" ")  # by keyboard, as a button takes it


def test_the_verdict_comes_first(browser: Any) -> None:
    first = browser.execute_script("return document.querySelector('h1').innerText")
    assert first.endswith("Failed")
    top = browser.execute_script("return document.querySelector('h1').getBoundingClientRect().top")
    assert top < 200


def test_nothing_is_said_on_the_console(browser: Any) -> None:
    assert browser.get_log("browser") == []


def test_every_picture_is_drawn(browser: Any) -> None:
    browser.execute_script(
        "document.querySelectorAll('details').forEach((each) => each.open = true)"
    )
    script = """
        const done = arguments[arguments.length - 1];
        const images = [...document.images];
        images.forEach((image) => { image.loading = 'eager'; });
        Promise.all(images.map((image) => image.decode())).then(
            () => done(images.map((image) => [image.naturalWidth, image.naturalHeight])),
            (error) => done(String(error)));
    """
    sizes = browser.execute_async_script(script)
    assert len(sizes) == 3 * report_samples.DRAWN_CASES
    assert {tuple(size) for size in sizes} == {(report_samples.FRAMES, report_samples.BANDS)}


def test_a_column_sorts_by_number_and_turns_round(browser: Any) -> None:
    _press_head(browser, "MAE")
    values = [float(value) for value in _column(browser, "MAE") if value]
    assert values == sorted(values)
    _press_head(browser, "MAE")
    assert [float(value) for value in _column(browser, "MAE") if value] == sorted(values)[::-1]
    sorting = "return [...document.querySelectorAll('[aria-sort=descending]')].length"
    assert browser.execute_script(sorting) == 1


def test_cases_without_a_figure_come_last_in_both_orders(browser: Any) -> None:
    for _ in range(2):
        _press_head(browser, "SNR")
        assert _column(browser, "SNR")[-1] == ""


def test_sorting_by_state_puts_failures_first(browser: Any) -> None:
    _press_head(browser, "state")
    script = "return document.querySelector('#cases tbody tr').dataset.state"
    assert browser.execute_script(script) == "failed"


def test_words_filter_the_table(browser: Any) -> None:
    browser.find_element("id", "find").send_keys("official tone-1")
    assert set(_column(browser, "clip")) == {"tone-1"}
    assert set(_column(browser, "vocoder")) == {"official"}
    assert "1 of" in browser.find_element("id", "shown").text


def test_a_state_can_be_hidden(browser: Any) -> None:
    before = len(_column(browser, "clip"))
    browser.find_element("css selector", "input[value=failed]").click()
    states = "return [...document.querySelectorAll('#cases tbody tr:not([hidden])')]"
    left = browser.execute_script(f"{states}.map((row) => row.dataset.state)")
    assert "failed" not in left
    assert 0 < len(left) < before


def test_a_clip_s_name_in_the_table_opens_its_section(browser: Any) -> None:
    browser.execute_script(
        "document.querySelectorAll('details').forEach((each) => each.open = false)"
    )
    browser.find_element("css selector", "#cases tbody a").click()
    script = """
        const done = arguments[0];
        setTimeout(() => done(document.querySelectorAll('details.clip[open]').length), 100);
    """
    assert browser.execute_async_script(script) == 1


@pytest.mark.parametrize("player", ["Original", "Reconstruction", "For comparison"])
@pytest.mark.parametrize("clip", ["tone-0", "tone-1"])
def test_a_player_has_sound_of_the_clip_s_length_and_plays(
    browser: Any, clip: str, player: str
) -> None:
    script = """
        const [clip, label, done] = arguments;
        const player = [...document.querySelectorAll('audio')].find((each) =>
            each.ariaLabel.startsWith(label) && each.ariaLabel.endsWith(clip));
        player.closest('details').open = true;
        player.muted = true;
        player.play().then(() => done(player.duration), (error) => done(String(error)));
    """
    duration = browser.execute_async_script(script, clip, player)
    assert duration == pytest.approx(report_samples.SECONDS, abs=0.02)


def test_mp3_plays_too(chromium: Any, tmp_path: Path) -> None:
    report, media = report_samples.run(HOSTILE)
    path = tmp_path / "small.html"
    path.write_text(report_html(report, media, limit=250_000), encoding="utf-8")
    chromium.get(path.as_uri())
    script = """
        const done = arguments[0];
        const player = document.querySelector("audio[src^='data:audio/mpeg']");
        player.muted = true;
        player.play().then(() => done(player.duration), (error) => done(String(error)));
    """
    # The encoder's delay and its last frame, 24 ms each at most, where a browser does not cut them.
    duration = chromium.execute_async_script(script)
    assert duration == pytest.approx(report_samples.SECONDS, abs=0.1)


def test_a_second_player_takes_over_from_the_first(browser: Any) -> None:
    script = """
        const done = arguments[0];
        const clip = document.querySelector('details.clip:has(audio)');
        clip.open = true;
        const [first, second] = clip.querySelectorAll('audio');
        first.muted = second.muted = true;
        first.play().then(() => { first.currentTime = 0.5; return second.play(); })
            .then(() => setTimeout(() => done([first.paused, second.currentTime]), 50));
    """
    paused, place = browser.execute_async_script(script)
    assert paused
    assert place >= 0.4


def _pdf(driver: Any) -> bytes:
    printed = driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    return base64.b64decode(printed["data"])


def test_printing_opens_every_section_and_hides_players(browser: Any) -> None:
    import pypdf

    browser.execute_script(
        "document.querySelectorAll('details').forEach((each) => each.open = false)"
    )
    pages = pypdf.PdfReader(io.BytesIO(_pdf(browser))).pages
    text = "".join(page.extract_text() for page in pages)
    assert len(pages) > 1
    assert text.count("Error of each band") == report_samples.DRAWN_CASES
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    script = "return [...document.querySelectorAll('audio')].every((each) => !each.offsetParent)"
    hidden = browser.execute_script(script)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert hidden


def test_sections_are_closed_again_after_printing(browser: Any) -> None:
    browser.execute_script(
        "document.querySelectorAll('details').forEach((each) => each.open = false)"
    )
    _pdf(browser)
    assert browser.execute_script("return document.querySelectorAll('details[open]').length") == 0


def _luminance(driver: Any, selector: str, style: str) -> float:
    script = """
        const found = getComputedStyle(document.querySelector(arguments[0]))[arguments[1]];
        return found.match(/[\\d.]+/g).slice(0, 3).map(Number);
    """
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (part / 255 for part in driver.execute_script(script, selector, style))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


@SCHEMES
def test_the_ground_follows_the_reader_s_scheme(browser: Any, scheme: str) -> None:
    prefer(browser, scheme)
    ground = _luminance(browser, "body", "backgroundColor")
    assert ground < 0.05 if scheme == "dark" else ground > 0.8


@SCHEMES
@pytest.mark.parametrize("state", ["passed", "failed", "known-miss", "measured", "skipped"])
def test_states_have_enough_contrast(browser: Any, scheme: str, state: str) -> None:
    prefer(browser, scheme)
    selector = f"#cases td .state.{state}"
    tones = [_luminance(browser, selector, style) for style in ("color", "backgroundColor")]
    ratio = (max(tones) + 0.05) / (min(tones) + 0.05)
    assert ratio >= 4.5  # WCAG 2.2, AA


@pytest.mark.parametrize("width", [PHONE_WIDTH, 768, 1280])
def test_no_width_needs_scrolling_sideways(browser: Any, width: int) -> None:
    screen(browser, width=width)
    browser.execute_script(
        "document.querySelectorAll('details').forEach((each) => each.open = true)"
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_a_phone_shows_the_gates_columns_without_scrolling_the_table(browser: Any) -> None:
    screen(browser, width=PHONE_WIDTH)
    script = """
        const box = document.querySelector('#cases .scroll');
        return [box.scrollWidth - box.clientWidth,
                [...box.querySelectorAll('thead th')].filter((each) => each.offsetParent).length];
    """
    assert browser.execute_script(script) == [0, 4]


def test_nothing_is_fetched_from_a_network(browser: Any) -> None:
    script = """
        document.querySelectorAll('details').forEach((each) => { each.open = true; });
        document.querySelectorAll('audio').forEach((each) => { each.muted = true; each.load(); });
        setTimeout(arguments[0], 500);
    """
    browser.execute_async_script(script)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    schemes = {url.split(":")[0] for url in urls}
    assert "file" in schemes
    assert schemes <= {"file", "data", "about"}


def test_the_policy_refuses_a_network(browser: Any) -> None:
    script = """
        const done = arguments[0];
        addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));
        fetch('http://127.0.0.1:9/').then(() => done('sent'), () => {});
    """
    assert browser.execute_async_script(script) in ("connect-src", "default-src")


def test_a_hostile_name_stays_text(browser: Any) -> None:
    assert HOSTILE in browser.execute_script("return document.querySelector('#cases').textContent")
    script = "return [...document.querySelectorAll('[onerror], img:not([src^=\"data:\"])')].length"
    assert browser.execute_script(script) == 0


def test_it_can_be_read_without_javascript(chromium: Any, page: Path) -> None:
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get(page.as_uri())
        assert chromium.find_element("css selector", "h1").is_displayed()
        assert chromium.find_element("css selector", "#cases thead .label").is_displayed()
        assert not chromium.find_element("css selector", ".filters").is_displayed()
        closed = chromium.find_element("css selector", "details.clip:not([open])")
        closed.find_element("css selector", "summary").click()
        assert closed.get_attribute("open") is not None
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_two_hundred_clips_open_at_once(chromium: Any, tmp_path: Path) -> None:
    report, media = report_samples.run(HOSTILE)
    case = report.cases[0]
    cases = [dataclasses.replace(case, clip=f"clip {number}") for number in range(200)]
    path = tmp_path / "large.html"
    many = dict.fromkeys((each.key for each in cases), media[case.key])
    path.write_text(report_html(dataclasses.replace(report, cases=tuple(cases)), many), "utf-8")
    assert path.stat().st_size < 60e6
    chromium.get(path.as_uri())
    assert chromium.execute_script("return document.querySelectorAll('details.clip').length") == 200
    assert chromium.find_element("css selector", "h1").is_displayed()
    opened = chromium.execute_script("return document.querySelectorAll('details[open]').length")
    assert opened <= 4, "what is closed costs no drawing"
