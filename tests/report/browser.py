"""Pages as Chromium shows them: measured at several widths, in light and dark, and printed."""

import html
import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=60000"),
]
MEASURE = """
async function measure(frame) {
  const view = frame.contentWindow, page = frame.contentDocument, wide = view.innerWidth;
  if (!view.axe) view.eval(AXE);
  const shown = e => e.getClientRects().length && view.getComputedStyle(e).visibility == 'visible'
    && !e.closest('thead[data-hidden]');
  for (const head of page.querySelectorAll('.cards thead'))
    if (view.getComputedStyle(head).position == 'absolute') head.dataset.hidden = 1;
  const name = e => `${e.tagName}${e.id ? '#' + e.id : ''} ${(e.textContent || '').trim().slice(0, 40)}`;
  const all = [...page.body.querySelectorAll('*')].filter(shown);
  const within = e => { for (let box = e.parentElement; box != page.body && box; box = box.parentElement)
    if (/auto|scroll|hidden/.test(view.getComputedStyle(box).overflowX) || box.matches(DRAWERS)) return true;
    return e.matches(DRAWERS); };
  const beyond = all.filter(e => { const r = e.getBoundingClientRect();
    return (r.right > wide + .5 || r.left < -.5) && !(BOXES && within(e)); }).map(name);
  const clipped = all.filter(e => e.matches('td, th, p, li, figcaption') && !(BOXES && within(e))
    && e.scrollWidth > e.clientWidth + 1).map(name);
  const covered = [];
  for (const svg of all.filter(e => e.matches('figure svg'))) {
    const words = [...svg.querySelectorAll('text')].map(e => [name(e), e.getBoundingClientRect()]);
    words.forEach(([a, p], i) => words.slice(i + 1).forEach(([b, q]) => {
      const x = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const y = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (x > .5 && y > Math.min(p.height, q.height) * .2) covered.push(a + ' / ' + b);
    }));
  }
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = numbers(c).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = view.getComputedStyle(e).backgroundColor;
    if (numbers(c)[3] !== 0) return c; } return 'rgb(255, 255, 255)'; };
  const faint = all.filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())).map(e => {
    const style = view.getComputedStyle(e);
    const ink = e.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => x - y);
    return [name(e), (b + .05) / (a + .05)];
  }).filter(([, ratio]) => ratio < 4.5);
  const found = await view.axe.run(page, {resultTypes: ['violations']});
  const axe = found.violations.map(v => `${v.id}: ${v.nodes[0].html.slice(0, 100)}`);
  const box = e => { const r = e.getBoundingClientRect(); return [r.width, r.height].map(Math.round); };
  const framed = all.filter(e => e.id && e.matches('figure, table, .tiles'));
  const boxes = Object.fromEntries(framed.map(e => [e.id, box(e)]));
  const words = [...page.querySelectorAll('figure svg text')].map(e => e.getBoundingClientRect().height);
  const scrolls = page.documentElement.scrollWidth, least = Math.min(99, ...words);
  const meanings = all.filter(e => e.matches('.meanings dd')).length;
  return {wide, scrolls, least, meanings,
    beyond, clipped, covered, faint, axe, boxes, paper: behind(page.body)};
}
addEventListener('load', async () => {
  const out = {};
  try { for (const frame of document.querySelectorAll('iframe')) out[frame.title] = await measure(frame); }
  catch (error) { out.error = String(error && error.stack || error); }
  document.body.textContent = 'MEASURED ' + JSON.stringify(out) + ' END';
});
"""


def _axe() -> str:
    """Return axe-core, which a package for Python carries."""
    (place,) = find_spec("axe_core_python").submodule_search_locations
    return (Path(place) / "axe.min.js").read_text()


def measured(page: str, widths: tuple[int, ...], folder: Path, *, dark: bool = False) -> dict[int, dict]:
    """Return what is beyond the page, clipped, covered, faint or inaccessible, by the window's width."""
    inner = html.escape(page.replace("</head>", f"<script>{_axe()}</script></head>"), quote=True)
    frames = [f'<iframe title="{w}" width="{w}" height="2000" srcdoc="{inner}"></iframe>' for w in widths]
    return {int(title): found for title, found in _framed(frames, folder, dark, boxes=False).items()}


def seen(pages: list[Path], widths: tuple[int, ...], folder: Path, *, dark: bool = False) -> dict[str, dict]:
    """Return the same of pages of a site, by file and width; what scrolls in a box of its own is not beyond.

    `scrolls` is the width of all that there is, `least` the height of the smallest words of pictures.
    """
    frames = [
        f'<iframe title="{page.name} {w}" width="{w}" height="1200" src="{page.as_uri()}"></iframe>'
        for page in pages
        for w in widths
    ]
    return _framed(frames, folder, dark, boxes=True)


def _framed(frames: list[str], folder: Path, dark: bool, boxes: bool) -> dict[str, dict]:
    outer = folder / "outer.html"
    axe = json.dumps(_axe() if boxes else "").replace("</", "<\\/")
    known = f"const AXE = {axe}, BOXES = {str(boxes).lower()}, DRAWERS = '.sidebar-drawer, .toc-drawer';"
    script = f"<script>{known}{MEASURE}</script>"
    outer.write_text(f'<!doctype html><meta charset="utf-8"><body>{script}{"".join(frames)}</body>')
    flags = [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--allow-file-access-from-files"]
    dom = _run(folder, *flags[: 1 + boxes], "--window-size=1600,2400", "--dump-dom", outer.as_uri()).stdout
    found = json.loads(html.unescape(re.search(r"MEASURED (.*) END", dom, re.DOTALL)[1]))
    assert "error" not in found, found["error"]
    return found


def dom(page: Path, folder: Path, query: str = "") -> str:
    """Return a page's HTML after its scripts have run."""
    return _run(folder, "--dump-dom", page.as_uri() + query).stdout


def screenshot(page: Path, folder: Path, width: int, height: int) -> Path:
    """Return a picture of a page."""
    shot = folder / "page.png"
    _run(folder, f"--window-size={width},{height}", f"--screenshot={shot}", page.as_uri())
    return shot


def printed(page: Path, folder: Path) -> Path:
    """Return a page as a PDF."""
    pdf = folder / "page.pdf"
    _run(folder, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri())
    return pdf


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
