import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.report import write_report
from cai.report.html import embed, render
from cai.report.model import read_run
from tests.report.conftest import Browser, write_evaluate, write_generate, write_head, write_label, write_training

SINKS = ("alert(1)", "document.documentElement.setAttribute('pwned',1)")
VECTORS = (
    "<script>§</script>", "</script><script>§</script>", "<!--<script>§</script>-->", "--><script>§</script>",
    "<img src=x onerror=\"§\">", "<img src=x onerror=§>", "\"><img src=x onerror=§>", "'><img src=x onerror=§>",
    "<svg onload=§>", "<svg><script>§</script></svg>", "</svg><script>§</script>", "</title><script>§</script>",
    "</style><script>§</script>", "</textarea><script>§</script>", "</noscript><script>§</script>",
    "<iframe src=\"javascript:§\"></iframe>", "<iframe srcdoc=\"<script>§</script>\"></iframe>",
    "<a href=\"javascript:§\">x</a>", "[x](javascript:§)", "javascript:§", "<body onload=§>", "<marquee onstart=§>",
    "<details open ontoggle=§>", "<input autofocus onfocus=§>",
    "<video><source onerror=§></video>", "<object data=\"javascript:§\"></object>",
    "<embed src=\"javascript:§\">", "<form action=\"javascript:§\"><button>x</button></form>",
    "<base href=\"http://evil.example/§\">", "<link rel=stylesheet href=http://evil.example/§>",
    "<meta http-equiv=refresh content=\"0;url=javascript:§\">", "<style>@import \"http://evil.example/§\";</style>",
    "<img src=http://evil.example/§>", "<math><mi xlink:href=\"javascript:§\">",
    "<template><script>§</script></template>",
    "{{ self.__init__.__globals__ }}{% raw %}<script>§</script>", "${§}", "`;§;//", "\";§;//", "';§;//", "\\\";§;//",
    "\\u003cscript\\u003e§\\u003c/script\\u003e", "&lt;script&gt;§&lt;/script&gt;", "]]><script>§</script>",
    "\u202e<script>§</script>\u2066", "<scr\x00ipt>§</scr\x00ipt>", "\u2028§\u2029",
    "<x onclick=§ style=\"background:url(http://evil.example/?§)\">", "<script src=http://evil.example/§ ",
    "\ufeff<script>§</script>",
)  # fmt: skip
PAYLOADS = [vector.replace("§", sink) for vector in VECTORS for sink in SINKS]

DRIVER = """<script>
(() => {
  const seen = new Set();
  const look = (root) => root.querySelectorAll("*").forEach((node) => {
    seen.add(node.localName);
    for (const { name, value } of node.attributes) {
      if (name.startsWith("on") || name === "style" || name === "pwned") seen.add("attribute " + name);
      if ((name === "href" && !value.startsWith("#")) || name.includes("src")) seen.add(`address ${name}=${value}`);
    }
  });
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  let opened = 0, words = 0;
  const generations = all("[data-show]");
  for (const turn of generations.length ? generations : [document.body]) {
    turn.click();
    for (const host of all(".generation:not([hidden]) .browser")) {
      for (let more = true; more;) {
        for (const open of all(".open", host)) { open.click(); opened += 1; }
        words += host.textContent.length;
        look(host);
        const next = all(".pager button", host).pop();
        more = next && !next.disabled;
        if (more) next.click();
      }
    }
  }
  look(document);
  document.documentElement.dataset.result = JSON.stringify({ seen: [...seen].sort(), opened, words });
})();
</script>"""
GUARD = """<script>
for (const name of ["alert", "confirm", "prompt"]) {
  window[name] = () => { document.documentElement.dataset.dialog = name; };
}
</script>"""


class Inventory(HTMLParser):
    """The elements of a page, each with the names of its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, *(name for name, _ in attrs)))


def without_policy(page: Path, more: str = "") -> Path:
    """Return a copy of a page that has no policy, notes every dialog, and goes through all of its rows."""
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', lambda _: GUARD, page.read_text())
    copy = page.with_name("bare.html")
    copy.write_text(bare.replace("</body>", more + DRIVER + "</body>"))
    return copy


def test_there_are_a_hundred_payloads() -> None:
    assert len(set(PAYLOADS)) == 100


def test_the_report_lies_in_the_run_folder_or_where_it_is_wanted(run_folder: Path, tmp_path: Path) -> None:
    assert write_report(run_folder) == run_folder / "report.html"
    other = tmp_path / "deep" / "x.html"
    assert write_report(run_folder, other) == other
    assert other.read_bytes() == (run_folder / "report.html").read_bytes()
    with pytest.raises(InputError, match="no such run folder"):
        write_report(tmp_path / "absent")


def test_the_page_loads_nothing_and_says_so(run_folder: Path) -> None:
    page = write_report(run_folder).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "url(" not in page


def test_what_a_reader_looks_for_is_there(run_folder: Path) -> None:
    page = write_report(run_folder).read_text().replace("\N{NO-BREAK SPACE}", " ")
    for words in ("no difference shown", "95 % interval", "Do no harm", "empty critique", "Judge: contrastive",
                  "2 min 56 s in all", "Not independent", "1e-05", "Without a label", "By principle"):  # fmt: skip
        assert words in page
    assert "Still owed" not in page


def test_half_a_run_and_an_empty_one_are_pages_too(run_folder: Path, tmp_path: Path) -> None:
    (run_folder / "ledger.jsonl").unlink()
    for name in ("label", "ppo", "evaluate"):
        (run_folder / "gen-1" / name).rename(run_folder / name)
    page = write_report(run_folder).read_text()
    assert "Still owed: prompts, generate, label, ppo, evaluate." in page
    assert "Not compared yet." in page
    (tmp_path / "empty").mkdir()
    assert "every stage is still owed" in write_report(tmp_path / "empty").read_text()


def test_embedded_data_reads_back() -> None:
    for payload in PAYLOADS:
        text = embed({"x": payload})
        assert not set("<>&") & set(text)
        assert text.isascii()
        assert json.loads(text) == {"x": payload}


def test_no_payload_changes_the_elements_of_the_page(make_run: Callable[[Callable[[str], str]], Path]) -> None:
    run = make_run(lambda text: text)
    benign = Inventory(render(read_run(run))).found
    for payload in PAYLOADS:
        write_head(run, lambda text, payload=payload: text + payload)  # type: ignore[misc]
        assert Inventory(render(read_run(run))).found == benign, payload


def test_a_browser_draws_the_figures_and_the_rows(run_folder: Path, browser: Browser) -> None:
    dom, log = browser.dump(write_report(run_folder))
    assert len(re.findall(r'<svg class="figure"', dom)) >= 11
    for kind in ("lines", "histogram", "intervals", "pairs"):
        assert f'data-figure="{kind}"' in dom
    assert 'data-series="held out"' in dom
    assert len(re.findall(r'<tr class="row"', dom)) == 3 + 20  # three chains, the first page of thirty answers
    assert "1 of 2" in dom
    assert "<del>sharp</del>" in dom
    assert "<ins>dull</ins>" in dom
    assert "CONSOLE" not in log


def test_the_trap_springs_where_a_payload_is_let_through(run_folder: Path, browser: Browser) -> None:
    dom, _ = browser.dump(without_policy(write_report(run_folder), "".join(PAYLOADS[:20])))
    assert "data-dialog" in dom
    assert "pwned" in dom
    assert "attribute onerror" in dom


@pytest.mark.slow
def test_a_browser_runs_none_of_a_hundred_payloads_in_any_field(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # 5,000 records whose survival is not the matter here

    def written(name: str, payloads: list[str]) -> Path:
        run = tmp_path / name
        write_head(run, lambda text: text + "".join(payloads))
        for number, payload in enumerate(payloads, start=1):
            for part in (write_generate, write_label, write_training, write_evaluate):
                part(run / f"gen-{number}", lambda text, payload=payload: text + payload)  # type: ignore[misc]
        return write_report(run)

    _, log = browser.dump(hostile := written("hostile", PAYLOADS))
    assert "CONSOLE" not in log, "the policy had something to stop"
    results = []
    for page in (hostile, written("benign", ["a", "b"])):
        # Escaping must do without the policy: it is taken out, and a script goes through every row of every page.
        dom, log = browser.dump(without_policy(page))
        assert "evil.example" not in browser.requests()
        assert "CONSOLE" not in log
        head = dom[: dom.index("<head")]
        assert "data-dialog" not in head
        assert "pwned" not in head
        found = re.search(r'data-result="([^"]*)"', head)
        assert found
        results.append(json.loads(found[1].replace("&quot;", '"')))
    assert results[0]["seen"] == results[1]["seen"]
    assert results[0]["opened"] == 100 * (3 + 30)
