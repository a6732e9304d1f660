"""The site as it is built: strictly, linked without a break, and with nothing to fetch from elsewhere."""

import html
import importlib
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import varigrad
from varigrad import extending, theory

ROOT = Path(__file__).parents[2]
API = ROOT / "docs" / "api"


@dataclass
class Page(HTMLParser):
    """What a page of the site refers to, and what can be referred to on it."""

    links: list[str] = field(default_factory=list)
    assets: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        for name in ("src", "href", "data"):
            if tag in ("link", "script", "img", "iframe", "source", "object") and given.get(name):
                self.assets.append(given[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason="the site needs the docs extra")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    found = {}
    for path in sorted(site.rglob("*.html")):
        found[path] = Page()
        found[path].feed(path.read_text("utf-8"))
    return found


def is_elsewhere(address: str) -> bool:
    return bool(re.match(r"(?:[a-z]+:)?//|mailto:", address))


def test_nothing_is_fetched_from_elsewhere(site, pages):
    """It opens without a network, and tells nobody that it is read."""
    assert len(pages) > 20
    for path, page in pages.items():
        assert not [asset for asset in page.assets if is_elsewhere(asset)], path.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text("utf-8")), style.name


def test_every_link_leads_somewhere(site, pages):
    """Also those in HTML that the builder does not look at, and those to a place on a page."""
    for path, page in pages.items():
        if path.name == "404.html":  # served for any address: its links are absolute
            continue
        for address in (*page.links, *page.assets):
            if is_elsewhere(address):
                continue
            parts = urlsplit(address)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.relative_to(site)} leads to {address}"
            # On a picture a fragment is the theme's word for light or dark.
            if parts.fragment and target in pages and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.relative_to(site)}: {address}"


def test_every_page_of_the_docs_is_in_the_site(pages, site):
    docs = ROOT / "docs"
    expected = {path.relative_to(docs).with_suffix(".html") for path in docs.rglob("*.md")}
    assert expected <= {path.relative_to(site) for path in pages}


def text_of(path: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", path.read_text("utf-8")))


def test_every_example_is_shown_whole(site):
    shown = text_of(site / "examples.html")
    for example in (ROOT / "examples").glob("*.py"):
        code = example.read_text("utf-8")
        assert code.strip() in shown, example.name


def test_every_public_name_has_its_place_in_the_reference(site):
    """Once, under the name by which it is defined or imported, with its docstring."""
    described = [
        name for page in API.glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)
    ]
    assert len(set(described)) == len(described)
    objects = [_resolve(name) for name in described]
    for module in (varigrad, theory, extending):
        for name in module.__all__:
            thing = getattr(module, name)
            assert name == "__version__" or any(thing is other for other in objects), (
                f"no page of docs/api describes {module.__name__}.{name}: write '::: MODULE.{name}' into one"
            )
    for page in API.glob("*.md"):
        assert not re.search(r'id="varigrad[\w.]*\._\w+"', (site / "api" / f"{page.stem}.html").read_text("utf-8"))
        text = text_of(site / "api" / page.with_suffix(".html").name)
        for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE):
            if "integrations" in name:
                continue
            first = next(line.strip() for line in _resolve(name).__doc__.splitlines() if line.strip())
            assert first.replace("`", "") in text, f"{page.name} does not show the docstring of {name}"


def _resolve(name: str) -> object:
    """The object of a dotted name; of an integration, whose other half may not be installed, nothing."""
    module, _, attribute = name.rpartition(".")
    return None if "integrations" in name else getattr(importlib.import_module(module), attribute)
