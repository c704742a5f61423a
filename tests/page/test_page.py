"""Drives the server's page in headless Chromium: draws digits with a real pointer and reads the answers.

    JITNEY_BIN=target/release/jitney python3 tests/page/test_page.py

Needs `pip install -r tests/page/requirements.txt`, Chromium and its driver.
Environment: JITNEY_BIN (the built binary), SCREENSHOTS (a folder for pictures a person can look at; none are kept
without it), CHROMIUM and CHROMEDRIVER (default /usr/bin/chromium and /usr/bin/chromedriver).
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 30
ANSWER_WITHIN_S = 10
LOAD_CLIENTS = 12
CHROMIUM_FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --force-device-scale-factor=1 --window-size=1180,1100""".split()


def arc(x, y, width, height, start, end, steps=16):
    """Points of an ellipse, by degrees from three o'clock downwards."""
    angles = [math.radians(start + (end - start) * step / steps) for step in range(steps + 1)]
    return [(x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles]


# Strokes in a box of 1 x 1, from the top left.
DIGITS = {
    "0": [arc(0.5, 0.5, 0.32, 0.45, -90, 270, 24)],
    "1": [[(0.35, 0.25), (0.55, 0.05), (0.55, 0.95)]],
    "2": [arc(0.5, 0.28, 0.28, 0.24, 190, 380) + [(0.22, 0.95), (0.82, 0.95)]],
    "3": [arc(0.48, 0.27, 0.26, 0.23, 200, 450) + arc(0.48, 0.73, 0.3, 0.24, -90, 160)],
    "4": [[(0.5, 0.05), (0.2, 0.62), (0.85, 0.62)], [(0.65, 0.35), (0.65, 0.97)]],
    "7": [[(0.2, 0.08), (0.8, 0.08), (0.42, 0.95)]],
}


def main():
    if "JITNEY_BIN" not in os.environ:
        sys.exit("JITNEY_BIN must name the built binary, such as target/release/jitney")
    with server() as running, browser() as page:
        page.get(running.url)
        shows_the_model(page)
        for digit in DIGITS:
            reads(page, digit)
        clears(page)
        reads(page, "3", size=0.25)
        shows_live_numbers(page, running.url)
        looks_right(page)
        no_console_errors(page)
        shows_every_path(page, running.url)
        tries_a_path(page)
        looks_right(page)
        no_console_errors(page)
        page.get(running.url)
        shows_the_model(page)
        says_when_the_server_is_gone(page, running)
        asks_for_a_key(page)
    print("the page works")


# What is tested, in order.


def shows_the_model(page):
    wait(page, lambda: text(page, "article h2") == "digits", "the model's card")
    wait(page, lambda: text(page, "article .state") == "ready", "the state of the model")
    wait(page, lambda: text(page, "#state") == "ready", "the state of the server")
    assert text(page, "article code") == "pixels FP32[N, 64] → scores FP32[N, 10]", text(page, "article code")
    wait(page, lambda: text(page, ".said b") == "?", "an empty canvas")


def reads(page, digit, size=0.8):
    clears(page)
    draw(page, DIGITS[digit], size)
    wait(page, lambda: f"It looks like {digit}," in spoken(page), f"the answer {digit}", lambda: spoken(page))
    assert text(page, ".said b") == digit, text(page, ".said b")
    top = page.find_elements(By.CSS_SELECTOR, ".answer li.top")
    assert [line.find_elements(By.TAG_NAME, "span")[0].text for line in top] == [digit]
    picture(page, f"digit-{digit}" if size > 0.5 else f"digit-{digit}-small")


def clears(page):
    page.find_element(By.CSS_SELECTOR, ".sketch button").click()
    wait(page, lambda: text(page, ".said b") == "?" and not spoken(page), "a cleared canvas")


def shows_live_numbers(page, url):
    with load(url):
        wait(
            page, lambda: number(figure(page, "requests/s")) > 20, "the throughput", lambda: figure(page, "requests/s")
        )
        wait(page, lambda: number(figure(page, "mean batch")) >= 1, "the mean batch")
        wait(page, lambda: any(number(text) > 0 for text in texts(page, ".charts li span:last-child")), "the reasons")
        wait(page, lambda: inked_columns(page) > 1, "a second of throughput")
        time.sleep(2)  # For the pictures, a little history; nothing is asserted about it.
        pictures_of_every_look(page)
    wait(page, lambda: figure(page, "requests/s") == "0", "the throughput at rest", lambda: figure(page, "requests/s"))


def looks_right(page):
    assert not page.find_elements(By.CSS_SELECTOR, "[role=alert]:not([hidden])"), "an alert is shown"
    width = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], f"the page is wider than its window: {width}"


def no_console_errors(page):
    errors = [entry["message"] for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not errors, errors


def shows_every_path(page, url):
    page.get(f"{url}docs")
    wait(page, lambda: "/predict/digits" in texts(page, "summary code"), "the paths of the model")
    shown = set(texts(page, "summary code"))
    with urllib.request.urlopen(f"{url}openapi.json", timeout=10) as document:
        paths = set(json.load(document)["paths"])
    assert shown == paths, shown ^ paths
    picture(page, "docs")


def tries_a_path(page):
    row = next(row for row in page.find_elements(By.TAG_NAME, "details") if "/predict/digits\n" in f"{row.text}\n")
    row.find_element(By.TAG_NAME, "summary").click()
    wait(page, lambda: row.find_elements(By.TAG_NAME, "textarea"), "the form")
    body = row.find_element(By.TAG_NAME, "pre").text
    assert 'pixels: (number | "NaN" | "Infinity" | "-Infinity")[64]' in body, body
    row.find_element(By.CSS_SELECTOR, "form button").click()
    status = row.find_element(By.CSS_SELECTOR, "[role=status]")
    wait(page, lambda: status.text.startswith("200"), "an answer", lambda: status.text)
    assert '"scores"' in row.find_element(By.CSS_SELECTOR, "form pre").text, row.text
    picture(page, "docs-open")


def says_when_the_server_is_gone(page, running):
    running.process.kill()
    wait(page, lambda: text(page, "#state") == "unreachable", "the server to be missed")
    assert "has not answered" in text(page, "#alert"), text(page, "#alert")
    picture(page, "unreachable")


def asks_for_a_key(page):
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder, "keys.toml")
        made = subprocess.run(
            [os.environ["JITNEY_BIN"], "key", "new", "--name", "page"], capture_output=True, text=True, check=True
        )
        keys.write_text(made.stdout)
        key = made.stderr.split()[-1]
        with server("--keys-file", str(keys)) as running:
            for path, content in [("docs", "summary code"), ("", "article h2")]:
                page.get(f"{running.url}{path}")
                field = page.find_element(By.ID, "key")
                wait(page, field.is_displayed, "the field for a key")
                assert not texts(page, content), texts(page, content)
                field.send_keys(key, Keys.ENTER)
                wait(page, lambda content=content: texts(page, content), "what the key opens")
            reads(page, "3")
            picture(page, "with-a-key")


# The server and its load.


class Running:
    def __init__(self, process, url):
        self.process, self.url = process, url


@contextmanager
def server(*flags):
    command = [os.environ["JITNEY_BIN"], "serve", str(ROOT / "examples" / "digits"), "--http", "127.0.0.1:0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield Running(process, f"http://{ready_address(process)}/")
    finally:
        process.kill()
        process.wait()


def ready_address(process):
    impatience = threading.Timer(READY_WITHIN_S, process.kill)
    impatience.start()
    for line in process.stdout:
        if found := re.match(r"jitney ready .*?http=(\S+)", line):
            impatience.cancel()
            # The rest of the output is read too, so that the pipe never fills up.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return found[1]
    impatience.cancel()
    raise SystemExit(f"{process.args[0]} printed no ready line within {READY_WITHIN_S} s")


@contextmanager
def load(url):
    """A few clients that ask for a three without a pause."""
    body = (ROOT / "examples/digits/samples/3.json").read_bytes()
    done = threading.Event()

    def ask():
        while not done.is_set():
            try:
                urllib.request.urlopen(post(url, body), timeout=10).read()
            except urllib.error.URLError:
                time.sleep(0.05)

    clients = [threading.Thread(target=ask) for _ in range(LOAD_CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        done.set()
        for client in clients:
            client.join()


def post(url, body):
    return urllib.request.Request(f"{url}predict/digits", body, {"Content-Type": "application/json"})


# The browser.


@contextmanager
def browser():
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        for flag in [*CHROMIUM_FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver"))
        page = webdriver.Chrome(options=options, service=service)
        try:
            yield page
        finally:
            page.quit()


def draw(page, strokes, size):
    """Presses, moves and releases the pointer along the strokes, in the middle of the canvas."""
    canvas = page.find_element(By.CSS_SELECTOR, ".board canvas")
    side = min(canvas.size["width"], canvas.size["height"]) * size
    gesture = ActionChains(page, duration=10)
    for stroke in strokes:
        (first, *rest) = [(round((x - 0.5) * side), round((y - 0.5) * side)) for x, y in stroke]
        gesture.move_to_element_with_offset(canvas, *first).click_and_hold()
        for point in rest:
            gesture.move_to_element_with_offset(canvas, *point)
        gesture.release()
    gesture.perform()


def wait(page, condition, what, got=lambda: ""):
    def holds(_):
        return condition()

    try:
        WebDriverWait(page, ANSWER_WITHIN_S, poll_frequency=0.05).until(holds)
    except Exception as error:
        picture(page, "failure")
        raise AssertionError(f"waited {ANSWER_WITHIN_S} s for {what}; last seen: {got()!r}") from error


def text(page, selector):
    found = page.find_elements(By.CSS_SELECTOR, selector)
    return found[0].text if found else ""


def texts(page, selector):
    return [element.text for element in page.find_elements(By.CSS_SELECTOR, selector)]


def spoken(page):
    """What a screen reader is told; it is not visible, so it has no text in the eyes of the driver."""
    return page.find_element(By.CSS_SELECTOR, ".sketch [role=status]").get_attribute("textContent")


def figure(page, title):
    return page.find_element(By.XPATH, f"//dt[.='{title}']/following-sibling::dd").text


def number(shown):
    digits = re.sub(r"[^0-9.]", "", shown)
    return float(digits) if digits else 0.0


def inked_columns(page):
    script = "return [...document.querySelector('figure svg').children].filter((bar) => bar.getAttribute('height') > 0).length"
    return page.execute_script(script)


def pictures_of_every_look(page):
    for name, width, scheme in [
        ("light", 1180, "light"),
        ("dark", 1180, "dark"),
        ("phone", 390, "light"),
        ("phone-dark", 390, "dark"),
    ]:
        size = {"width": width, "height": 1600 if width < 500 else 900, "deviceScaleFactor": 2, "mobile": width < 500}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        looks_right(page)
        time.sleep(0.3)  # For the repainting of the canvas.
        picture(page, name)
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def picture(page, name):
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.save_screenshot(str(Path(folder) / f"{name}.png"))


if __name__ == "__main__":
    main()
