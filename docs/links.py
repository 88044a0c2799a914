"""Check the links of the site: those within it always, those to elsewhere where there is a connection.

A page needs no network to be read: whatever it would load from elsewhere is a fault.

python -m docs.links build/site
"""

from __future__ import annotations

import concurrent.futures
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADS = ("href", "src", "srcset", "data", "poster", "action")
_SAID = ("canonical", "author", "next", "prev", "search", "index", "license")
"""Links of a page's head that nothing is loaded for."""
_IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


class Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = {"", "top"}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element's address and names."""
        found = dict(attrs)
        self.names |= {name for key in ("id", "name") if (name := found.get(key))}
        self.links += [link for key in ("href", "src") if (link := found.get(key))]
        if tag != "a":
            self.loaded += [
                link for key in _LOADS if (link := found.get(key)) and found.get("rel") not in _SAID
            ]


def broken(site: Path) -> Iterator[str]:
    """Yield each link of a built site that leads to a file or a place that is not there."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{path.relative_to(site.resolve())}: {link}: there is no such file"
            elif target in pages and unquote(parts.fragment) not in pages[target].names:
                yield f"{path.relative_to(site.resolve())}: {link}: there is no such place in it"


def needed(site: Path) -> Iterator[str]:
    """Yield what pages and styles would load from elsewhere to be shown."""
    for path in sorted(site.rglob("*")):
        found: list[str] = []
        if path.suffix == ".html":
            found = [link for link in Page(path).loaded if re.match(r"(?:https?:)?//", link)]
        if path.suffix in (".html", ".css"):
            found += _IN_STYLES.findall(path.read_text())
        yield from (f"{path.relative_to(site)}: {link}: is loaded from elsewhere" for link in found)


def outside(site: Path) -> list[str]:
    """Return the addresses of other sites, each once."""
    links = (link for path in site.rglob("*.html") for link in Page(path).links)
    return sorted({link.partition("#")[0] for link in links if link.startswith("http")})


def answers(address: str) -> str | None:
    """Return what is wrong with an address elsewhere; None if somebody answers there.

    Raises:
        OSError: there is no connection.
    """
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "Mozilla/5.0"})
    try:
        with urllib.request.urlopen(request, timeout=20):
            return None
    except urllib.error.HTTPError as error:  # refused to programs, or too often: there is somebody
        return str(error) if error.code in (404, 410) else None


def main(site: Path) -> int:
    """Print what is broken; 1 if anything is."""
    wrong = [*broken(site), *needed(site)]
    addresses = outside(site)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = zip(addresses, pool.map(answers, addresses), strict=True)
            wrong += [f"{address}: {reason}" for address, reason in found if reason]
        checked = f"{len(addresses)} links to elsewhere answer"
    except OSError as error:
        checked = f"offline ({error}): {len(addresses)} links to elsewhere were not checked"
    print("\n".join([*wrong, checked]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
