"""Check the links of the site: that those within it lead somewhere, and what those to elsewhere look like.

A page needs no network to be read: whatever it would load from elsewhere is a fault. Whether somebody answers
elsewhere is asked only with `--outside`, which needs a connection.

    python -m docs.links build/site
    python -m docs.links build/site --outside
"""

from __future__ import annotations

import argparse
import concurrent.futures
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from docs.papers import ADDRESS, PAPERS

_LOADS = ("href", "src", "srcset", "data", "poster", "action")
_SAID = ("canonical", "author", "next", "prev", "search", "index", "license")
"""Links of a page's head that nothing is loaded for."""
_IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


KNOWN = (
    rf"{re.escape(ADDRESS)}({'|'.join(map(re.escape, PAPERS))})",
    r"https://github\.com/[\w.-]+/[\w.-]+",
    r"https://docs\.ray\.io|https://filesystem-spec\.readthedocs\.io",
)
"""Addresses elsewhere that the site may lead to: papers that `docs.papers` names, repositories, and a few."""


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


def odd(site: Path) -> Iterator[str]:
    """Yield the addresses of other sites that are of no known kind: a wrong number, or no HTTPS."""
    for address in outside(site):
        if not any(re.fullmatch(kind, address) for kind in KNOWN):
            yield f"{address}: of no kind that docs/links.py knows"


def outside(site: Path) -> list[str]:
    """Return the addresses of other sites, each once."""
    links = (link for path in site.rglob("*.html") for link in Page(path).links)
    return sorted({link.partition("#")[0] for link in links if link.startswith("http")})


def answers(address: str) -> str | None:
    """Return what is wrong with an address elsewhere; None if somebody answers there."""
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "Mozilla/5.0"})
    try:
        with urllib.request.urlopen(request, timeout=20):
            return None
    except urllib.error.HTTPError as error:  # refused to programs, or too often: there is somebody
        return str(error) if error.code in (404, 410) else None
    except OSError as error:
        return f"nobody answers: {error}"


def main(argv: list[str] | None = None) -> int:
    """Print what is broken; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="a built site")
    parser.add_argument("--outside", action="store_true", help="ask all other sites that it leads to")
    options = parser.parse_args(argv)
    site: Path = options.site
    wrong, addresses = [*broken(site), *needed(site), *odd(site)], outside(site)
    said = f"{len(addresses)} links to elsewhere were not followed: --outside does"
    if options.outside:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = zip(addresses, pool.map(answers, addresses), strict=True)
            wrong += [f"{address}: {reason}" for address, reason in found if reason]
        said = f"{len(addresses)} links to elsewhere were followed"
    print("\n".join([*wrong, said]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
