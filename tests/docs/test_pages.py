"""What the documentation pages promise: the lines they quote exist, their code runs, their links lead somewhere."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import varigrad
from tests.integrations.operators import declare_operators
from varigrad.engine.groups import FLAGS

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = Path(varigrad.__file__).parent
PAGES = sorted(DOCS.rglob("*.md"))
# Pages of prose, of tables, and of what is taken from elsewhere.
WITHOUT_CODE = {"index.md", "results.md", "examples.md", "changelog.md", *(f"api/{page.name}" for page in PAGES)}
PAPER_PAGES = [
    DOCS / f"{name}.md" for name in ("vsgd", "adaptive", "muon", "dissecting-adam", "adabayes", "virtual-gradients")
]
TRAINERS = ("lightning", "transformers", "accelerate", "timm")
OPTIMIZERS = {
    name: kind
    for name in varigrad.__all__
    if isinstance(kind := getattr(varigrad, name), type) and issubclass(kind, torch.optim.Optimizer)
}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).with_suffix("").as_posix())
every_paper_page = pytest.mark.parametrize("page", PAPER_PAGES, ids=lambda page: page.stem)


def tables(page: Path) -> Iterator[list[dict[str, str]]]:
    """The tables of a page, each a list of rows by the names in its header."""
    prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for block in re.findall(r"(?:^\|.*\|\n)+", prose, flags=re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        yield [dict(zip(header, row, strict=True)) for row in rows]


def tables_with(page: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of all tables of a page that have these columns."""
    return [row for table in tables(page) for row in table if set(columns) <= set(row)]


def unquoted(cell: str) -> str:
    assert re.fullmatch(r"`[^`]+`", cell), f"{cell} is not in backquotes"
    return cell.strip("`")


def code_lines(file: Path) -> set[str]:
    """The lines of a source file without indentation and closing comment."""
    return {re.sub(r"\s+# .*", "", line).strip() for line in file.read_text("utf-8").splitlines()}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def reference(page: Path) -> str:
    _, _, after = page.read_text("utf-8").partition("\n## Reference\n")
    return after


def test_there_is_a_page_for_every_paper():
    assert {page.name for page in PAGES} >= {
        "index.md",
        "vsgd.md",
        "dissecting-adam.md",
        "adabayes.md",
        "virtual-gradients.md",
    }


@every_paper_page
def test_quoted_lines_are_the_lines_of_the_code(page):
    rows = tables_with(page, "Equation", "Line of code", "File")
    assert len(rows) >= 10
    for row in rows:
        file = SOURCE / unquoted(row["File"])
        assert unquoted(row["Line of code"]) in code_lines(file), f"{page.name} quotes what {file.name} does not have"


@every_paper_page
def test_every_rule_is_quoted(page):
    """No rule of an optimizer on the page may lack a line in its table: the one that moves the parameter."""
    quoted = {unquoted(row["Line of code"]) for row in tables_with(page, "Line of code")}
    for name, kind in OPTIMIZERS.items():
        if re.search(rf"\b{name}\b", reference(page)):
            lines = {re.sub(r"\s+# .*", "", line).strip() for line in inspect.getsource(kind.rule.function).split("\n")}
            assert any("param - " in line for line in lines & quoted), f"{page.name} does not quote {name}'s step"


@every_page
def test_code_runs(page, tmp_path, monkeypatch):
    blocks = python_blocks(page)
    assert blocks or page.relative_to(DOCS).as_posix() in WITHOUT_CODE
    declare_operators()
    monkeypatch.chdir(tmp_path)
    missing = []
    namespace: dict[str, object] = {"__name__": page.stem}
    with torch.random.fork_rng():
        for number, block in enumerate(blocks, 1):
            try:
                exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
            except ImportError as error:
                if getattr(error.__cause__ or error, "name", None) not in TRAINERS:
                    raise
                missing.append(f"block {number}: {error}")
    if missing:
        pytest.skip("; ".join(missing))


def test_lines_quoted_from_an_example_are_its_lines():
    """What needs several processes is quoted, in blocks marked py, and run with its example."""
    page = DOCS / "large-scale.md"
    blocks = re.findall(r"^```py\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    quoted = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert len(quoted) >= 5
    assert set(quoted) <= code_lines(DOCS.parent / "examples" / "torchrun_transformer.py")


@every_page
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).is_file(), f"{page.name} links to {target}"


def test_index_leads_to_every_page_of_the_manual():
    linked = set(re.findall(r"\]\(([^)\s#]+)\)", (DOCS / "index.md").read_text("utf-8")))
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES}
    assert linked >= {page for page in pages if not page.startswith("api/") or page == "api/index.md"} - {"index.md"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_a_page_with_its_paper(name):
    """The index names it beside paper and page; that page has an example, and the reference of its docstring."""
    (row,) = (row for row in tables_with(DOCS / "index.md", "Optimizer", "Paper") if row["Optimizer"] == f"`{name}`")
    author = re.search(r"Reference:\s+(\w+)", OPTIMIZERS[name].__doc__)[1]
    assert author in row["Paper"]
    page = DOCS / re.search(r"\]\(([^)\s]+)\)", row["Paper"])[1]
    assert author in reference(page)
    assert re.search(rf"\b{name}\b", reference(page))
    assert any(f"varigrad.{name}(" in block for block in python_blocks(page)), f"{page.name} has no example of {name}"


@every_paper_page
def test_arguments_and_defaults_are_those_of_the_code(page):
    """Both ways: what the table says is so, and no argument of an optimizer on the page is missing from it."""
    kinds = {name: kind for name, kind in OPTIMIZERS.items() if re.search(rf"\b{name}\b", reference(page))}
    said = {unquoted(row["Here"]): row["Default"] for row in tables_with(page, "Here", "Default")}
    rates = {unquoted(row["Optimizer"]): row["Default lr"] for row in tables_with(page, "Optimizer", "Default lr")}
    taken = set()
    for name, kind in kinds.items():
        parameters = dict(inspect.signature(kind).parameters)
        assert set(FLAGS) <= set(parameters)
        for common in ("params", "model", "param_groups", *FLAGS):
            parameters.pop(common, None)
        for argument, parameter in parameters.items():
            default = rates[name] if said[argument] == "see above" else said[argument]
            value = eval(unquoted(default))
            assert value == parameter.default, f"{page.name}: {name}'s {argument} is {parameter.default}"
        taken |= set(parameters)
    assert set(said) == taken
    assert set(rates) <= set(kinds)


@every_paper_page
def test_states_are_those_of_the_code(page):
    """Every state that an optimizer on the page keeps is in the table of symbols, and no other."""
    said = {found for row in tables_with(page, "Here") for found in re.findall(r"state `(\w+)`", row["Here"])}
    kept = {"step"}
    for name, kind in OPTIMIZERS.items():
        if re.search(rf"\b{name}\b", reference(page)):
            for variant in ({}, {"variance": "batch"}):
                if set(variant) <= set(inspect.signature(kind).parameters):
                    takes_model = "model" in inspect.signature(kind).parameters
                    params = torch.nn.Linear(1, 1) if takes_model else [torch.zeros(1, requires_grad=True)]
                    optimizer = kind(params, **variant)
                    rule = optimizer.rule_for(optimizer.param_groups[0])
                    kept |= {*rule.state, *rule.statistics, *rule.memory}
    assert said == kept


@every_page
def test_lines_are_short(page):
    """Rows of tables apart, which cannot be wrapped."""
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        assert len(line) <= (135 if line.startswith("|") else 120), f"{page.name}:{number}"
