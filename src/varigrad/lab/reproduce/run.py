"""An item, made again: which it is, what makes it."""

from __future__ import annotations

import time
from collections.abc import Callable

from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.papers import adabayes, dissecting_adam, svgd, vsgd
from varigrad.lab.papers.paper import Item, Paper
from varigrad.lab.reproduce import composites, factors, filters, lemma, networks, quadratics
from varigrad.lab.reproduce.findings import Curve, Findings, Row

PAPERS: dict[str, Paper] = {
    module.PAPER.name: module.PAPER
    for module in (vsgd, dissecting_adam, adabayes, svgd)  # as the library has them
}

COMPUTATIONS: dict[str, Callable[[str, Callable[[str], None]], tuple[list[Row], list[Curve]]]] = {
    function.__name__: function
    for function in (
        quadratics.quadratics,
        factors.adaptation_factors,
        factors.adapted_gradients,
        factors.sign_probabilities,
        filters.learning_rates,
        lemma.lemma,
        composites.composite,
        composites.hilbert,
        networks.svgd_mlp,
        networks.svgd_vgg,
        networks.step_times,
    )
}


def find_items(name: str) -> list[tuple[Paper, Item]]:
    """The items that a name means: `PAPER/ITEM`, or the beginning of several, as `dissecting-adam/fig5`.

    Raises:
        LabError: There is none.

    Example:
        >>> [item.name for _, item in find_items("dissecting-adam/fig7")]
        ['fig7-p2', 'fig7-p3']
    """
    paper_name, _, item_name = name.partition("/")
    if paper_name not in PAPERS:
        raise unknown_name("paper", paper_name, PAPERS)
    paper = PAPERS[paper_name]
    exact = [item for item in paper.items if item.name == item_name]
    parts = [item for item in paper.items if item.name.startswith(f"{item_name}-") and item_name.startswith("fig")]
    if not exact and not parts:
        raise unknown_name(f"table or figure of {paper_name}", item_name, [item.name for item in paper.items])
    return [(paper, item) for item in exact or parts]


def compute(paper: Paper, item: Item, scale: str, report: Callable[[str], None]) -> Findings:
    """Makes an item again that takes no training.

    Args:
        paper: The paper.
        item: The item.
        scale: A key of `SCALES`.
        report: Told in a few words what is being computed.

    Raises:
        LabError: There is nothing to run.
    """
    if item.computed is None:
        raise LabError(f"{paper.name}/{item.name}, {item.title.lower()}: nothing to run. {item.note}")
    began = time.perf_counter()
    rows, curves = COMPUTATIONS[item.computed](scale, report)
    return Findings(paper, item, scale, tuple(rows), tuple(curves), time.perf_counter() - began)
