import base64
import html.parser
import re

import pytest

from jopt import report


class Checker(html.parser.HTMLParser):
    """Tags that are opened and closed in order, and every address that the page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.cells = [], [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [v for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_the_page_is_whole_in_itself(drawn):
    _, directory, found = drawn
    report.write_html(directory / "report.html", "digits <3>", [report.Heading("digits <3>", 1), *found.parts])
    try:
        text = (directory / "report.html").read_text()
        checker = Checker()
        checker.feed(text)
        assert not checker.open and "digits &lt;3&gt;" in text
        pictures = [
            base64.b64decode(s.removeprefix("data:image/png;base64,"), validate=True) for s in checker.sources
        ]
        assert sorted(pictures) == sorted(p.read_bytes() for p in directory.glob("*.png"))
        assert not re.search(r"https?:|<script|@import|url\(", re.sub(r'src="[^"]*"', "", text))
        assert {"stage", "dense"} <= set(checker.cells)
    finally:
        (directory / "report.html").unlink()


def test_a_page_without_its_picture_is_not_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        report.write_html(tmp_path / "a.html", "a", [report.Picture("gone", "gone.png")])
    assert not list(tmp_path.iterdir())
