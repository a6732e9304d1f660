"""Tables for other programs: CSV, and LaTeX for papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "×": r"$\times$",
    "<": r"$<$",
    ">": r"$>$",
    "\n": " ",
}


@dataclass(frozen=True)
class Table:
    """Cells of text, or of numbers where nobody but a program reads them.

    Attributes:
        headings: One for each column.
        rows: As many cells each.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]

    def without(self, heading: str) -> Table:
        """The same without the columns whose headings begin so.

        Example:
            >>> Table(["name", "lr"], [["sgd", 0.1]]).without("lr")
            Table(headings=['name'], rows=[['sgd']])
        """
        kept = [index for index, one in enumerate(self.headings) if not one.startswith(heading)]
        return Table([self.headings[index] for index in kept], [[row[index] for index in kept] for row in self.rows])

    def csv(self) -> str:
        """Values separated by commas, as RFC 4180 has them, with a line of headings.

        Example:
            >>> Table(["name", "lr"], [["sgd, plain", 0.1]]).csv().splitlines()
            ['name,lr', '"sgd, plain",0.1']
        """
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([heading.replace("\n", " ") for heading in self.headings])
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return text.getvalue()

    def latex(self) -> str:
        """A `tabular` for the booktabs package: the first column to the left, the others to the right."""
        lines = [
            rf"\begin{{tabular}}{{l{'r' * (len(self.headings) - 1)}}}",
            r"\toprule",
            _line(self.headings),
            r"\midrule",
            *map(_line, self.rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[object]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(cell: object) -> str:
    return "".join(_LATEX.get(character, character) for character in ("" if cell is None else str(cell)))
