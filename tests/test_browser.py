"""The committed pages as a reader sees them: opened from disk in a browser without a network, on a desk and on a phone,
by day and by night. Skipped where there is no Chromium.
"""

import json
import shutil
import subprocess
import time
from itertools import count

import pytest
import websocket

from lab.paths import repository_root

REPORT = repository_root() / "reports"
PAGES = sorted(path.name for path in REPORT.glob("*.html"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
OFFLINE = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
OFFLINE += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--remote-debugging-port=0"]
SEEN = """(() => {
  const prose = document.body.cloneNode(true);
  prose.querySelectorAll("pre, code, style").forEach(each => each.remove());
  const formulas = [...document.querySelectorAll("math")], root = document.documentElement;
  const hidden = each => each.closest("details:not([open])");
  return {
    too_wide: root.scrollWidth - root.clientWidth,
    tex: prose.textContent.match(/.{0,20}(\\\\[a-zA-Z]+|\\$).{0,20}/g) || [],
    formulas: formulas.length,
    not_drawn: formulas.filter(each => !hidden(each) && each.getBoundingClientRect().width < 1).length,
    no_mathml: formulas.filter(each => each.textContent.includes("\\\\") || each.querySelector("merror")).length,
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth || !i.alt).map(each => each.alt),
    repeated: document.images.length - new Set([...document.images].map(each => each.src)).size,
    paper: getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number),
  };
})()"""


class Tab:
    """A page of a browser, driven by the DevTools protocol."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=60)
        self.numbers, self.events = count(1), []

    def ask(self, method: str, **parameters) -> dict:
        """The answer to a command; what happens meanwhile goes into `events`."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def wait_for(self, method: str) -> None:
        while all(event["method"] != method for event in self.events):
            self.events.append(json.loads(self.socket.recv()))


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A tab of a browser that reaches no network."""
    if BROWSER is None:
        pytest.skip("there is no Chromium here")
    folder = tmp_path_factory.mktemp("browser")
    command = [BROWSER, *OFFLINE, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        ports = folder / "DevToolsActivePort"
        while not (ports.is_file() and len(ports.read_text().splitlines()) == 2):
            assert process.poll() is None, "the browser did not start"
            time.sleep(0.05)
        port, path = ports.read_text().splitlines()
        browser = Tab(f"ws://127.0.0.1:{port}{path}")
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        tab = Tab(f"ws://127.0.0.1:{port}/devtools/page/{target}")
        for domain in ("Page", "Network", "Runtime", "Log"):
            tab.ask(f"{domain}.enable")
        yield tab
    finally:
        process.terminate()
        process.wait()


def open_page(tab: Tab, name: str, width: int, scheme: str) -> dict:
    """What is seen of a page, and what went wrong."""
    tab.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    tab.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.events.clear()
    tab.ask("Page.navigate", url=(REPORT / name).as_uri())
    tab.wait_for("Page.loadEventFired")
    seen = tab.ask("Runtime.evaluate", expression=SEEN, returnByValue=True)["result"]["value"]
    asked = [each["params"]["request"]["url"] for each in tab.events if each["method"] == "Network.requestWillBeSent"]
    wrong = ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed", "Runtime.consoleAPICalled")
    seen["foreign"] = [url[:80] for url in asked if not url.startswith(("file:", "data:"))]
    seen["wrong"] = [str(each["params"])[:300] for each in tab.events if each["method"] in wrong]
    return seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_anywhere(tab, name, width, scheme):
    seen = open_page(tab, name, width, scheme)
    assert seen["wrong"] == seen["foreign"] == []
    assert seen["too_wide"] <= 0
    assert seen["tex"] == [] and seen["not_drawn"] == seen["no_mathml"] == 0
    assert seen["broken"] == [] and seen["repeated"] == 0
    assert (sum(seen["paper"][:3]) > 3 * 128) == (scheme == "light")
    assert name == "index.html" or seen["formulas"]


def test_what_is_wrong_with_a_page_is_seen(tab, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "REPORT", tmp_path)
    body = '<p>$\\gamma$ <img src="missing.png" alt=""><img src="https://example.org/a.png" alt="a"></p>'
    script = "<script>nothing()</script><div style='width: 2000px'>wide</div><math></math>"
    head = '<!DOCTYPE html><meta name="viewport" content="width=device-width, initial-scale=1">'
    (tmp_path / "bad.html").write_text(f"{head}<body style='background: white'>{body}{script}</body>")
    seen = open_page(tab, "bad.html", 390, "light")
    assert seen["too_wide"] > 0 and len(seen["wrong"]) >= 3 and len(seen["broken"]) == 2
    assert seen["tex"] and seen["not_drawn"] == 1 and {*seen["foreign"]} == {"https://example.org/a.png"}


def test_there_are_pages_to_open():
    assert "index.html" in PAGES and len(PAGES) >= 8
