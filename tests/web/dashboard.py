"""The dashboard in a real browser: dashboard.py SERVER starts the server and looks at its page. With SCREENSHOTS=FOLDER
in the environment it leaves pictures there. Waits for conditions, never for a number of seconds."""

import os
import re
import subprocess
import sys
import tempfile
import traceback
import urllib.request
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_SECONDS = 30
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage""".split()


class Server:
    """The example plant. Started again, it listens where it was."""

    def __init__(self, program):
        self.program = program
        self.start("127.0.0.1:0")

    def start(self, address):
        self.process = subprocess.Popen([self.program, address], stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        self.address = re.fullmatch(r"http://(.+)/", self.url).group(1)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)
        self.process.stdout.close()


class Page:
    def __init__(self, server, profile):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        self.driver.set_page_load_timeout(PATIENCE_SECONDS)
        self.server = server

    def open(self, width, scheme="light"):
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(self.server.url)
        self.until("the meter", lambda: "main-meter" in self.text("#devices"))
        self.until("the stream", lambda: self.text("#live") == "live")

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, what, condition):
        return WebDriverWait(self.driver, PATIENCE_SECONDS, 0.05).until(lambda _: condition(), f"waited for {what}")

    def picture(self, name):
        if "SCREENSHOTS" in os.environ:
            self.driver.save_screenshot(str(Path(os.environ["SCREENSHOTS"]) / f"{name}.png"))


def voltage(page):
    rows = page.run(
        """return [...document.querySelectorAll("#devices tr")]
            .filter((row) => row.querySelector("th").textContent === "voltage").map((row) => row.innerText)"""
    )
    return re.fullmatch(r"voltage\s+(\d+(?:\.\d)?)\s+V\s+(\w+)\s+\d+ s", rows[0]).groups()


def test_values_are_shown(page):
    page.open(1200)
    value, quality = voltage(page)
    assert 225 < float(value) < 235 and quality == "good", (value, quality)
    assert page.text("#gateway") == "plant-7" and page.text("#ready") == "ready"
    assert page.driver.title.startswith("plant-7"), page.driver.title
    bridges, devices = page.text("#bridges"), page.text("#devices")
    assert "archive" in bridges and "mqtts://broker.example.com:8883" in bridges, bridges
    for word in ["offline", "stale", "no answer within 500 ms", "bad", "illegal data address", "auto", "gear 5, running"]:
        assert word in devices, f"{word} is not in {devices}"
    assert page.text("#devices-count") == "2 of 3 online"
    assert "scada" in page.text("#clients") and "14.0" in page.text("#machine")


def test_values_move_by_events(page):
    page.open(1200)
    # Without polls, what moves comes through the stream.
    page.run("window.fetch = () => Promise.reject(new Error('off'))")
    page.until("a lost poll", lambda: not page.run("return document.getElementById('notice').hidden"))
    first = voltage(page)[0]
    page.until("another voltage", lambda: voltage(page)[0] != first)
    assert "main-meter voltage" in page.text("#events")


def test_values_move_by_polls(page):
    page.open(1200)
    commits = lambda: page.text("#machine").split("commits")[1].split()[0]
    first = commits()
    page.until("more commits", lambda: commits() != first)
    page.until("a buffer that moved", lambda: "waiting" in page.text("#bridges"))


def test_state_changes_are_events(page):
    page.open(1200)
    page.run("document.getElementById('readings').click()")
    page.until("a state or log line", lambda: re.search("archive is|no answer of unit 4", page.text("#events")))
    assert "main-meter voltage" not in page.text("#events")


def test_a_value_is_written(page):
    page.open(1200)
    row = """const row = [...document.querySelectorAll("#devices tr")]
        .find((row) => row.querySelector("th").firstChild.textContent === arguments[0]);"""
    text = lambda point: page.run(f"{row} return row.innerText", point)
    set_to = lambda point, value: page.run(
        f"""{row} const form = row.querySelector("form");
        if (form.hidden) row.querySelector("button.tag").click();
        form.querySelector("input").value = arguments[1]; form.querySelector("button").click();""",
        point,
        value,
    )
    assert page.run(f"{row} return row.querySelector('form')", "voltage") is None
    set_to("setpoint", "24.25")
    page.until("what it holds", lambda: "holds 24.25" in text("setpoint"))
    page.until("the reading", lambda: page.run(f"{row} return row.querySelector('.value').textContent", "setpoint") == "24.25")
    page.picture("written")
    set_to("setpoint", "99")
    page.until("the refusal", lambda: "99 is above max 30" in text("setpoint"))
    set_to("relay", "true")
    page.until("the silence", lambda: "not written: no answer in time" in text("relay"))
    page.picture("refused")
    # A refusal is an answer: a browser notes it all the same.
    page.driver.get_log("browser")


def test_identity_is_shown(page):
    page.open(1200)
    assert "Maker & Sons, M-7, revision 1.2" in page.text("#devices")


def test_text_stays_text(page):
    page.open(1200)
    script = """const done = arguments[0]; const text = "<img src=x onerror=alert(1)>";
        import("/view.js").then(({ eventLine, DeviceCard }) => {
            const card = new DeviceCard({ name: text });
            card.update({ link: text, state: text, polls: 0, errors: 0, last_error: text, points: [
                { name: text, value: text, unit: text, quality: text, time: null, error: text, writable: true }] });
            const lines = ["reading", "state", "log"].map((kind) => eventLine({ kind, device: text, point: text,
                value: text, unit: text, quality: text, error: text, state: text, reason: text, message: text }, text));
            document.body.append(card.node, ...lines);
            done([document.body.querySelectorAll("img[onerror]").length, card.node.innerText.includes(text)]);
        });"""
    assert page.driver.execute_async_script(script) == [0, True]


def test_pages_fit(page):
    backgrounds = set()
    for width in (1200, 760, 390, 320):
        for scheme in ("light", "dark"):
            page.open(width, scheme)
            wide = page.run("return document.documentElement.scrollWidth")
            assert wide <= width, f"{wide} pixels on a page of {width}"
            backgrounds.add(page.run("return getComputedStyle(document.body).backgroundColor"))
            page.until("figures", lambda: page.run("return document.querySelectorAll('#figures .spark').length === 3"))
            page.picture(f"{width}-{scheme}")
    assert len(backgrounds) == 2, backgrounds


def test_nothing_is_fetched_elsewhere_and_nothing_fails(page):
    page.open(1200)
    urls = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert urls and all(url.startswith(page.server.url) for url in urls), urls
    # Seen by all tests before this one too; the log is emptied by reading it.
    complaints = [entry for entry in page.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not complaints, complaints


def test_metrics_are_openmetrics(page):
    with urllib.request.urlopen(f"{page.server.url}metrics", timeout=PATIENCE_SECONDS) as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    assert families["tidegate_device_polls"].type == "counter", families.keys()
    assert families["tidegate_build"].type == "info" and len(families) > 30


def test_a_gateway_that_went_comes_back(page):
    page.open(1200)
    page.server.stop()
    page.until("the notice", lambda: "does not answer" in page.text("#notice"))
    page.until("no stream", lambda: page.text("#live") == "not live")
    page.picture("gone")
    page.server.start(page.server.address)
    page.until("no notice", lambda: page.run("return document.getElementById('notice').hidden"))
    page.until("the stream", lambda: page.text("#live") == "live")


def main():
    server = Server(sys.argv[1])
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    failed = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        page = Page(server, profile)
        try:
            for name, test in tests:
                try:
                    test(page)
                    print(f"ok: {name}")
                except Exception:
                    failed += 1
                    print(f"FAILED: {name}\n{traceback.format_exc()}")
        finally:
            page.driver.quit()
            server.stop()
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
