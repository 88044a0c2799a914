"""XML from files: elements, their texts and the lines where they stand; or one clear error.

>>> (size,) = parse_xml(b"<annotation><size><width>60</width></size></annotation>").of("size")
>>> size.text_of("width"), size.line
('60', 1)
>>> parse_xml(b"<annotation><size></annotation>")
Traceback (most recent call last):
regroup.files.markup.MarkupError: line 1: it is not XML: mismatched tag

No document type is read, so that no entity is expanded and nothing is fetched from elsewhere
(https://docs.python.org/3/library/xml.html#xml-security); nothing is deeper than 64 elements.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from regroup.files.reading import read_file

LARGEST = 16 << 20
"""Bytes that a document may have."""

_DEEPEST = 64


class MarkupError(ValueError):
    """A document is no XML that is read here; the message says in which line."""


@dataclass
class Element:
    """An element without its attributes.

    Attributes:
        name: of it.
        line: where it begins, from 1.
        text: what stands in it outside of others, without spaces around.
        inner: the elements in it.
    """

    name: str
    line: int
    text: str = ""
    inner: list[Element] = field(default_factory=list)

    def of(self, name: str) -> list[Element]:
        """Return the elements of a name that stand directly in it."""
        return [each for each in self.inner if each.name == name]

    def text_of(self, name: str, default: str | None = None) -> str:
        """Return the text of the one element of a name.

        Raises:
            MarkupError: there is none and no default, or there are several.
        """
        found = self.of(name)
        if not found and default is not None:
            return default
        if len(found) != 1:
            raise MarkupError(f"line {self.line}: {self.name!r} has {len(found)} of {name!r}, not one")
        return found[0].text


def read_xml(path: Path) -> Element:
    """Return the outermost element of a file; see `parse_xml`.

    Raises:
        OSError: it cannot be read, is no file, or has more than `LARGEST` bytes.
        MarkupError: it is no XML, or none that is read here.
    """
    return parse_xml(read_file(path, most=LARGEST))


def parse_xml(data: bytes) -> Element:
    """Return the outermost element of a document.

    Raises:
        MarkupError: it is no XML, has a document type, or is nested too deeply.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    outside = Element("", 0)
    open_ones, texts = [outside], [[""]]

    def begin(name: str, _: object) -> None:
        if len(open_ones) > _DEEPEST:
            raise MarkupError(f"it is nested more than {_DEEPEST} elements deep")
        element = Element(name, parser.CurrentLineNumber)
        open_ones[-1].inner.append(element)
        open_ones.append(element)
        texts.append([])

    def end(_: str) -> None:
        open_ones.pop().text = "".join(texts.pop()).strip()

    def refuse(*_: object) -> None:
        raise MarkupError("it has a document type, which may hold anything and is not read")

    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler = lambda text: texts[-1].append(text)
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except MarkupError as error:
        raise MarkupError(f"line {parser.CurrentLineNumber}: {error}") from None
    except (expat.ExpatError, ValueError, LookupError) as error:  # of the syntax; of encodings nobody knows
        said = str(error).partition(": line")[0]
        raise MarkupError(f"line {parser.CurrentLineNumber}: it is not XML: {said}") from None
    return outside.inner[0]
