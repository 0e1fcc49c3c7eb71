"""What retraining without chosen groups does, against what influences predict; and which groups to remove."""

from __future__ import annotations

from sourcewise.acting import counterfactuals, curation
from sourcewise.report import figures
from sourcewise.report.page import Figure, Row, Section, Table, number
from sourcewise.report.sections.target import Target


def section(target: Target) -> Section | str:
    """From the trials on this target; on those that have no influences here too, for the first target."""
    summary = target.summary
    first = target.name == next(iter(summary["targets"]))
    shown = [
        found
        for found in summary.get("counterfactuals", ())
        if found["target"] == target.name or (first and found["target"] not in summary["targets"])
    ]
    proposal = summary.get("curation")
    lead = curation.as_text(proposal, summary["output"]) if proposal and target.name in proposal["weights"] else []
    if not (shown or lead):
        return (
            "It shows what really happens without the worst, best and random groups. It needs models of such subsets:"
            f" python train.py -m subset=ranked subset.ranking=<out>/{target.name}/influences.nc"
            " subset.order=worst,best,random 'subset.remove=range(0,31,5)' 'seed=range(0,5)'"
        )
    drawn, tables = [], []
    for place, found in enumerate(shown):
        about, id = " in ".join(filter(None, (found["target"], found["study"]))), f"removal-{place}"
        bands = "bands over seeds; of random removal, over subsets" if found["curves"] else "intervals over seeds"
        captions = {"score": f"score after retraining, with 95% {bands}."}
        if any("predicted" in point for curve in found["curves"] for point in curve["points"]):
            captions["output"] = (
                f"mean {summary['output']} after retraining. Dashed: predicted, as random removal plus what influences"
                " say of these groups rather than average ones. Where it parts from the line, effects do not just add"
                " up."
            )
        for key, caption in captions.items():
            figure = figures.removal(found, target.unit if key == "output" else None)
            drawn.append(Figure(f"{id}-{key}", figure, f"{about}: {caption}"))
        rows = []
        for name, removed, runs, *values in counterfactuals.rows(found):
            cells = [_interval(*values[i : i + 3], sign=i > 0) if removed or not i else "–" for i in (0, 3, 6)]
            rows.append(Row(name, [str(removed), str(runs), *cells]))
        columns = ["Subset", "Removed", "Runs", "Score, %", "Gain over the full source", "Gain over random removal"]
        caption = f"Score on {about} after retraining, and gains in points, with 95% intervals"
        tables.append(Table(f"{id}-table", caption, columns, rows, (1, 2, 3, 4, 5)))
    return Section("counterfactuals", "What happens without chosen groups", lead, (), drawn, tables)


def _interval(value: float | None, low: float | None, high: float | None, *, sign: bool) -> str:
    if value is None:
        return "–"
    text, *ends = (number(100 * v, 2, sign) for v in (value, low, high) if v is not None)
    return f"{text} ({' to '.join(ends)})" if ends else text
