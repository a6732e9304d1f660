"""Tunings as one page of HTML that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from varigrad.lab.report import scoring
from varigrad.lab.report.page import rendered
from varigrad.lab.report.series import colour
from varigrad.lab.report.tuning_charts import charts
from varigrad.lab.tuning import scores
from varigrad.lab.tuning.tune import Tuning


def page(tunings: Sequence[Tuning], provenance: Mapping[str, str]) -> str:
    """The page: reading, tables, interactive charts, method and provenance.

    Args:
        tunings: What was found, one for each task.
        provenance: Where it comes from, such as `varigrad.lab.machine.provenance` gives it.
    """
    names = [tuned.row.label for tuned in tunings[0].tuned]
    first = tunings[0]
    count = len(first.tuned[0].studies)
    studies = f"{count} studies of " if count > 1 else ""
    tasks = ", ".join(tuning.task.label for tuning in tunings)
    return rendered(
        "tuning.html",
        title=f"{', '.join(names) if len(names) <= 4 else f'{len(names)} optimizers'}, tuned on {tasks}",
        subtitle=f"{studies}{len(first.tuned[0].trials)} trials, {len(first.seeds)} seeds, {first.settings.manner}",
        tunings=tunings,
        reading=reading(tunings),
        method=scoring.notes(tunings) + _method(provenance),
        overall=scoring.overall(tunings),
        tables=[scoring.task_table(tuning) for tuning in tunings],
        budgets=[scoring.budgets(tuning) for tuning in tunings],
        colours={name: colour(name) for name in names},
        tried={
            tuning.task.label: {
                tuned.row.label: "; ".join(trial.point.text for trial in tuned.all_trials) for tuned in tuning.tuned
            }
            for tuning in tunings
        },
        charts=charts(tunings),
        provenance={**provenance, "duration": f"{sum(tuning.seconds for tuning in tunings):,.0f} s"},
    )


def reading(tunings: Sequence[Tuning]) -> list[str]:
    """What the scores say, and no more."""
    said = []
    for tuned in tunings[0].tuned:
        name = tuned.row.label
        ratio = scores.ratio(tunings, tuned.row.name, "steps")
        if tuned.row.name == scores.BASELINE or ratio is None:
            continue
        if ratio.low <= 1 <= ratio.high:
            verdict = f"no difference from tuned {scores.BASELINE} is shown"
        else:
            verdict = f"{'fewer' if ratio.high < 1 else 'more'} steps to the target than tuned {scores.BASELINE}"
        said.append(f"{name}: {verdict}; the ratio is {scoring.ratio_text(ratio)}.")
        share = scores.share(tunings, name)
        if share is not None:
            said[-1] += f" To {scores.BASELINE}'s final loss: {scoring.ratio_text(share)} of its steps."
    if not said:
        said.append(f"Without {scores.BASELINE} among the optimizers there are no ratios.")
    return said


def _method(provenance: Mapping[str, str]) -> list[str]:
    told = [
        "A seed gives every optimizer the same initial weights and the same batches. The trials share one seed of "
        "their own.",
        "Intervals are percentile intervals of a paired bootstrap over the seeds, 10,000 draws. Where neither "
        "optimizer gets to the target, their ratio counts as 1.",
    ]
    if provenance.get("runs at once", "1") != "1":
        told.append(
            f"Seconds were measured with {provenance['runs at once']} runs at once on the machine: they compare with "
            "each other, not with those of an idle machine."
        )
    return told
