"""The report of a run as its reader sees it, for tests."""

from collections import Counter
from html.parser import HTMLParser

from fake_run import FakeRun

from rzero_stages import report


class Page(HTMLParser):
    """The text that a reader sees, and the attributes that a browser acts on."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.parts: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self._style = False
        self.feed(html)

    @property
    def text(self) -> str:
        """With every run of white space as one space."""
        return " ".join("".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self._style = tag == "style"
        self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._style = False
        self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.parts.append(data)


def page_of(fake: FakeRun) -> Page:
    status, manifest = fake.write()
    output = fake.root / "report.html"
    report.write(status, manifest, output)
    return Page(output.read_text("utf-8"))
