#!/usr/bin/env python3
"""Opens the host's page in a real Chromium and checks what a person finds there, by keyboard and by the accessibility tree.

    page.py ADDRESS TOKEN FOLDER PLUGIN FIRST SECOND

Writes screenshots into FOLDER, puts the components FIRST and SECOND in the place of PLUGIN to see their trials, and prints one JSON
object: {"checks": [{"name", "ok", "seen"}]}.

It speaks Chromium's debugging protocol over two pipes, so it needs nothing but Python's own library.
"""
import base64
import json
import os
import subprocess
import sys
import tempfile
import time


class Browser:
    def __init__(self, folder):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def pipes():
            # Chromium reads from 3 and writes to 4; they are moved away first, in case one of them is 3 or 4 already.
            source, sink = os.dup2(theirs_in, 20), os.dup2(theirs_out, 21)
            os.dup2(source, 3)
            os.dup2(sink, 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={folder}", "--remote-debugging-pipe"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.out, self.inp = os.fdopen(ours_out, "wb", 0), ours_in
        self.rest, self.number, self.events, self.session = b"", 0, [], None

    def message(self, deadline):
        import select
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.inp], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium doesn't answer")
            more = os.read(self.inp, 1 << 20)
            if not more:
                raise EOFError("Chromium has ended")
            self.rest += more
        one, self.rest = self.rest.split(b"\0", 1)
        return json.loads(one)

    def ask(self, method, **params):
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        self.out.write(json.dumps(request).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            message = self.message(deadline)
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def js(self, expression):
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression, seconds=30):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.js(expression):
                    return True
            except RuntimeError:
                # The page isn't there yet.
                pass
            time.sleep(0.2)
        return False

    def key(self, name, code):
        extra = {"text": "\r"} if name == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, windowsVirtualKeyCode=code, **extra)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=name, code=name, windowsVirtualKeyCode=code)

    def tab_to(self, wanted, most=80):
        """Goes on with the Tab key until the element with this id or label has the focus."""
        for _ in range(most):
            if wanted in self.js("[document.activeElement.id, document.activeElement.getAttribute('aria-label')]"):
                return True
            self.key("Tab", 9)
        return False

    def picture(self, path, width, height):
        shot = self.ask("Page.captureScreenshot", format="png", clip={"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
                        captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))


CONTRAST = """(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => { const f = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0.9) return c; } return [255, 255, 255]; };
  let worst = 99, where = "";
  for (const e of document.querySelectorAll("h1, h2, p, .dim, .state, th, td, button, dt, dd, li, summary, label")) {
    if (!e.offsetParent || !e.textContent.trim() || e.disabled) continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst) { worst = ratio; where = e.tagName + " " + e.textContent.slice(0, 30); }
  }
  return [Math.round(worst * 100) / 100, where];
})()"""


def main(address, token, folder, plugin_file, first, second):
    checks = []

    def check(name, ok, seen=""):
        checks.append({"name": name, "ok": bool(ok), "seen": str(seen)[:400]})

    profile = tempfile.mkdtemp()
    browser = Browser(profile)
    try:
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"]:
            browser.ask(f"{domain}.enable")
        browser.ask("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
        browser.ask("Page.navigate", url=f"http://{address}/")
        browser.wait("document.readyState === 'complete' && !!document.getElementById('state')")
        text = lambda name: browser.js(f"document.getElementById('{name}').textContent")
        visible = lambda name: browser.js(f"!!document.getElementById('{name}').offsetParent")

        check("the state is told", browser.wait("document.getElementById('state').textContent === 'keeping up'"), text("state"))
        check("the tab's title tells it too", browser.js("document.title").startswith("keeping up"), browser.js("document.title"))
        where = text("where")
        check("group, topic, store and bucket are named", all(word in where for word in ["group ", " → http", "bucket "]), where)
        check("nothing is wrong", browser.wait("document.getElementById('well').textContent === 'Nothing is wrong.'"), text("well"))
        # The lines have a point for each of the host's looks, which come every five seconds and later on a busy machine.
        browser.wait("document.querySelectorAll('#lag-legend span').length >= 2")
        check("each partition has a line and a name", browser.wait("document.querySelectorAll('#lag path').length === 2"), text("lag-legend"))
        check("the rate has a line", browser.wait("(document.querySelector('#rate path')?.getAttribute('d') || '').split('L').length >= 2"))
        check("the lines say in words what they show", "now" in browser.js("document.getElementById('rate').getAttribute('aria-label')"),
              browser.js("document.getElementById('lag').getAttribute('aria-label')"))
        plugin = browser.js("document.querySelector('#plugins tr').textContent")
        check("the plugin's version, verdicts and latency are told", plugin.startswith("picky") and "µs" in plugin or "ms" in plugin, plugin)

        check("a stranger sees no way to act", not any(visible(name) for name in ["pause", "resume", "replay-dry", "replay-write"]))
        check("a stranger sees no dead letters", not visible("dead-table"))
        failures = text("failure-list")
        check("a stranger sees no reasons of failures", "no such camera" not in failures, failures)
        check("and is told so once", failures.count("shown to callers who may act") == 1, failures)
        check("acting is near the top", browser.js("document.getElementById('h-act').getBoundingClientRect().top") < 700)

        check("the token's field is reached by the keyboard", browser.tab_to("token"))
        browser.ask("Input.insertText", text="wrong")
        browser.key("Enter", 13)
        check("a wrong token is told to be refused", browser.wait("document.getElementById('may').textContent.includes('refused') && document.getElementById('answer').textContent.includes('refused')"), text("may"))
        time.sleep(3)
        check("and this stays", "refused" in text("may") and not visible("pause"), text("may"))
        browser.js("document.getElementById('token').focus(), document.getElementById('token').select(), true")
        browser.ask("Input.insertText", text=token)
        browser.key("Enter", 13)
        check("with the token one may act", browser.wait("document.getElementById('may').textContent === 'You may act.'"), text("may"))
        browser.wait("document.querySelectorAll('#dead tr').length > 0")
        letters = text("dead")
        check("dead letters have a reason and the beginning of their payload", "no such camera" in letters and "<img src=x" in letters, letters)
        rows = lambda: browser.js("document.querySelectorAll('#dead tr').length")
        few = rows()
        browser.js("document.getElementById('dead-more').click()")
        check("the newest ten dead letters are shown, the others behind a button", few == 10 and rows() == 20, (few, rows()))
        browser.js("document.getElementById('dead-more').click()")
        reason = lambda name: browser.js(f"(b => b.getAttribute('aria-disabled') === 'true' && b.title)(document.querySelector('[aria-label=\"{name}\"]'))")
        check("what there isn't can't be promoted or rolled back, with the reason", "no candidate" in (reason("Promote the candidate of picky") or "")
              and "no previous version" in (reason("Roll back picky") or ""), (reason("Promote the candidate of picky"), reason("Roll back picky")))
        check("nor resumed", browser.js("document.getElementById('resume').title") == "Nothing is paused", browser.js("document.getElementById('resume').outerHTML"))
        check("what a record says is no markup", browser.js("document.images.length") == 0)
        check("failures have their reasons now", browser.wait("document.getElementById('failure-list').textContent.includes('no such camera')"),
              text("failure-list"))

        swaps = lambda: browser.js("document.querySelector('#swaps tr').textContent")
        check("without a trial there is none on the page", not visible("trial"))
        os.rename(first, plugin_file)
        check("a trial is shown", browser.wait("!!document.getElementById('trial').offsetParent", 60), text("trials"))
        check("with how many records were compared", browser.wait("/[1-9][0-9]* records compared/.test(document.getElementById('trials').textContent)"), text("trials"))
        check("and what differs", browser.wait("document.getElementById('trials').textContent.includes('with other labels')"), text("trials"))
        check("rates are round", not browser.js("/[0-9][.][0-9]{3}/.test(document.getElementById('tiles').textContent)"), text("tiles"))
        check("the first difference names a record and both answers", browser.wait("/First difference: .*mended/.test(document.getElementById('trials').textContent)"), text("trials"))
        check("it waits for a decision", browser.wait("document.getElementById('trials').textContent.includes('waits for somebody')", 60), text("trials"))

        browser.js("window.scrollTo(0, 0)")
        browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
        browser.js("document.getElementById('partitions-more').open = true")
        time.sleep(5)
        height = browser.js("document.documentElement.scrollHeight")
        browser.picture(os.path.join(folder, "page-light.png"), 1200, min(height, 1600))
        light = browser.js(CONTRAST)
        check("light: every text stands out", light[0] >= 4.5, light)

        def do_it():
            """The focus is on what changes nothing; the other button is the next one."""
            browser.key("Tab", 9)
            browser.key("Enter", 13)

        start = lambda: browser.js("document.body.focus(), document.getElementById('main').focus(), true")
        check("ending the trial is reached by the keyboard", start() and browser.tab_to("End the trial of picky"))
        browser.key("Enter", 13)
        check("it asks before it ends the trial, and says what it does", browser.js("document.getElementById('sure').open") and text("sure-what").startswith("End the trial of picky?"), text("sure-what"))
        do_it()
        check("the candidate is gone and the swap has its outcome", browser.wait("!document.getElementById('trial').offsetParent") and "failed-trial" in swaps(), swaps())
        version = lambda: browser.js("document.querySelector('#plugins tr').children[1].textContent")
        before = version()
        os.rename(second, plugin_file)
        check("the next trial is shown", browser.wait("document.getElementById('trials').textContent.includes('waits for somebody')", 60), text("trials"))
        check("promoting is reached by the keyboard", start() and browser.tab_to("Promote the candidate of picky"))
        browser.key("Enter", 13)
        browser.key("Enter", 13)
        check("leaving it changes nothing", browser.js("!document.getElementById('sure').open") and version() == before, version())
        browser.js("document.querySelector('[aria-label=\"Promote the candidate of picky\"]').focus()")
        browser.key("Enter", 13)
        do_it()
        check("the candidate is at work", browser.wait(f"document.querySelector('#plugins tr').children[1].textContent !== '{before}'"), (before, version()))
        check("the past swaps say so", any(word in swaps() for word in ["baking", "active"]), swaps())

        check("pausing is reached by the keyboard", browser.js("document.body.focus(), document.getElementById('main').focus(), true") and browser.tab_to("pause"))
        browser.key("Enter", 13)
        check("it asks first, with the focus on what changes nothing", browser.js("document.getElementById('sure').open") and browser.js("document.activeElement.id") == "sure-no")
        do_it()
        check("paused, and said as a problem with its remedy", browser.wait("document.getElementById('problems').textContent.includes('reduct-sink resume')"), text("problems"))
        check("the focus stays through later looks", browser.js("document.activeElement.tagName") != "BODY", browser.js("document.activeElement.outerHTML"))
        browser.js("document.getElementById('resume').focus()")
        browser.key("Enter", 13)
        browser.wait("document.getElementById('answer').textContent.startsWith('Done: all topics are read again')")
        browser.wait("document.getElementById('resume').title === 'Nothing is paused'")
        check("resumed, and the problem is gone with it", "resume" not in text("problems"), text("problems"))
        check("and the host keeps up", browser.wait("document.getElementById('state').textContent === 'keeping up'"), text("state"))
        browser.js("document.getElementById('replay-dry').focus()")
        browser.key("Enter", 13)
        check("a replay is tried", browser.wait("document.getElementById('replay-said').textContent.includes('would be written')"), text("replay-said"))
        browser.wait("document.getElementById('replay-write').getAttribute('aria-disabled') === 'false'")
        check("replaying is reached by the keyboard", start() and browser.tab_to("replay-write"))
        browser.key("Enter", 13)
        check("it asks before it replays", browser.js("document.getElementById('sure').open"), text("sure-what"))
        do_it()
        check("a replay shows how far it is", browser.wait("/20 written already, and removed from the dead letters in [0-9]+ s|Last replay: /.test(document.getElementById('replay-said').textContent)", 60), text("replay-said"))
        check("and what still fails", browser.wait("/Last replay: /.test(document.getElementById('replay-said').textContent)", 150), text("replay-said"))

        browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        dark = browser.js(CONTRAST)
        check("dark: every text stands out", dark[0] >= 4.5, dark)
        back = browser.js("getComputedStyle(document.body).backgroundColor")
        check("dark is dark", sum(int(part) for part in back[4:-1].split(",")[:3]) < 200, back)
        browser.ask("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
        time.sleep(1)
        check("a phone needs no sideways scrolling", browser.js("document.documentElement.scrollWidth") <= 360, browser.js("document.documentElement.scrollWidth"))
        check("a table that doesn't fit says that it can be moved", browser.js("[...document.querySelectorAll('.hint')].some(hint => !hint.hidden)"))
        browser.js("window.scrollTo(0, 0)")
        browser.picture(os.path.join(folder, "page-phone-dark.png"), 360, 1100)
        browser.ask("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
        time.sleep(1)
        browser.picture(os.path.join(folder, "page-dark.png"), 1200, min(browser.js("document.documentElement.scrollHeight"), 1600))
        browser.ask("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
        small = browser.js("[...document.querySelectorAll('button, input')].filter(e => e.offsetParent && e.getBoundingClientRect().height < 32).map(e => e.textContent || e.id).join()")
        check("buttons are large enough for a finger", small == "", small)

        nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
        role = lambda node: node.get("role", {}).get("value")
        name = lambda node: node.get("name", {}).get("value", "")
        nameless = [role(node) for node in nodes if role(node) in ("button", "textbox", "image", "img", "region", "link", "table") and not node.get("ignored")
                    and not name(node) and role(node) != "table"]
        check("a screen reader finds a name for everything", not nameless, nameless)
        headings = [name(node) for node in nodes if role(node) == "heading"]
        check("a screen reader finds the parts by their headings", {"What is wrong", "Is it keeping up?", "Plugins", "Dead letters", "Past swaps", "Act"} <= set(headings), headings)

        browser.ask("Network.setBlockedURLs", urls=["*/status*"])
        check("a host that is gone is told", browser.wait("document.getElementById('state').textContent === 'no answer'"), text("well"))
        browser.ask("Network.setBlockedURLs", urls=[])
        check("and when it is back", browser.wait("document.getElementById('state').textContent === 'keeping up'"), text("state"))

        again = "(() => { const none = { topics: [] }; topicActs(['a', 'b'], none); topicActs([], none); topicActs(['a', 'b'], none); return document.getElementById('topic-acts').children.length; })()"
        check("topics that come back have their buttons again", browser.js(again) == 2)
        browser.js("sessionStorage.removeItem('reloaded'), window.isOld = true, window.show = () => { throw new Error('a part of the page is missing'); }, true")
        check("an error of the page is told as that", browser.wait("document.getElementById('state').textContent === 'page error'"), text("state"))
        check("and not as a silence of the host", "a part of the page is missing" in text("well") and "not answer" not in text("well"), text("well"))
        check("the page loads itself again", browser.wait("!window.isOld && document.getElementById('state').textContent === 'keeping up'"), text("state"))

        asked = {event["params"]["request"]["url"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"}
        foreign = [url for url in asked if not url.startswith((f"http://{address}/", "data:", "about:"))]
        check("nothing is asked of another place", not foreign, foreign)
        headers = [event["params"]["response"]["headers"] for event in browser.events if event.get("method") == "Network.responseReceived"
                   and event["params"]["response"]["url"] == f"http://{address}/"]
        policy = headers[0].get("content-security-policy", headers[0].get("Content-Security-Policy", "")) if headers else ""
        check("a policy keeps other scripts out", "default-src 'none'" in policy and "unsafe" not in policy, policy)
        thrown = [event["params"] for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
        logged = [event["params"]["entry"]["text"] for event in browser.events if event.get("method") == "Log.entryAdded"
                  and event["params"]["entry"]["level"] == "error" and "BLOCKED" not in event["params"]["entry"]["text"].upper()
                  and "/status" not in event["params"]["entry"].get("url", "")]
        check("no script fails", not thrown and not logged, (thrown, logged))
    finally:
        print(json.dumps({"checks": checks}))
        browser.process.terminate()
        browser.process.wait()
        subprocess.run(["rm", "-rf", profile], check=False)


main(*sys.argv[1:])
