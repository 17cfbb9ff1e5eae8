"""The figures of an evaluation, printed."""

from typing import Any

from wsss.core.console import say
from wsss.core.labels import ClassList


def print_scores(report: dict[str, Any], classes: ClassList) -> None:
    """Print the figures of each class, the means, and the most frequent mistakes."""
    cells, instances = report["cells"], report["instances"]
    width = max(map(len, classes.names))
    say(f"{'class':>5}  {'name':{width}}  {'cells':>7}  {'AP':>6}  {'F1':>6}  {'mask AP' if instances else ''}")
    for row in cells["per_class"]:
        mask = _number(instances["per_class"][row["id"]]["ap"]) if instances else ""
        say(
            f"{row['id']:5}  {row['name']:{width}}  {row['count']:7}  {_number(row['ap'])}  {_number(row['f1'])}  "
            f"{mask:>7}".rstrip()
        )
    found = f"{cells['count']} cells, {cells['missing']} without a prediction, joined by {cells['joined_by']}"
    say(f"\n{found}; {cells['unknown']} predicted cells without a truth left out")
    lines = [("cells, mean AP", cells)]
    lines += [("  image scores copied to all cells", report["baselines"]["image_scores_copied"])]
    lines += [("  image labels copied to all cells", report["baselines"]["image_labels_copied"])]
    lines += [("images, mean AP", report["images"]), ("masks, mAP", instances)]
    for name, part in lines:
        if part:
            other = f"{_number(part['mean_ap_without_negative'])} without Negative"
            mean_f1 = f", mean F1 {_number(part['mean_f1'])}" if "mean_f1" in part else ""
            at = f" at IoU {part['match_iou']:g}" if "match_iou" in part else ""
            classes_with = f"{part['classes']} classes"
            say(f"{name + at:35} {_number(part['mean_ap'])} ({classes_with}; {other}{mean_f1})")
    if cells["several_class_count"]:
        value = _number(cells["mean_ap_of_several_classes"])
        say(f"{'cells of several classes, mean AP':35} {value} ({cells['several_class_count']} cells)")
    for row in [row for row in cells["confusions"] if row["true"] != row["predicted"]][:5]:
        what = f"{row['true_name']} taken for {row['predicted_name']}"
        say(f"{what}: {row['cells']:.0f} cells, {row['share']:.0%} of its cells")


def _number(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.3f}"
