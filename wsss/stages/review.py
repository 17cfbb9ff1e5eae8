"""Label cells in your browser, and see at once how good the predicted labels are on your images."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

from wsss.core.checks import ConfigError, DataError, Terminated
from wsss.core.console import asked, say
from wsss.data.catalog import DataSet
from wsss.data.origin import check_current, data_folder_of, image_marks
from wsss.inference.ensemble import say_figure_notes
from wsss.inference.tables import is_mask_folder, prediction_files, table_digest
from wsss.metrics.weighted import Estimate, SampleFigures
from wsss.options.review import ReviewOptions
from wsss.reviewing.answers import FILE, TRUTH, Answers
from wsss.reviewing.population import Population, read_population
from wsss.reviewing.server import ReviewServer, ReviewSite, Views
from wsss.reviewing.session import Judged, Session
from wsss.runs.inputs import Digests
from wsss.runs.output import hold
from wsss.runs.result_record import record_over


def run(options: ReviewOptions) -> int:
    """Run the stage; return the exit code."""
    if is_mask_folder(options.preds):
        raise ConfigError(f"{options.preds} holds masks, not cells: there is nothing to review.")
    out = options.out or Path("reviews") / options.preds.resolve().name
    if options.summary and not (out / FILE).exists():
        raise ConfigError(f"{out} holds no review: run python -m wsss.review without --summary first.")
    if asked().quiet and not options.summary:
        raise ConfigError("--quiet would hide the address of the page: leave it out, or pass --summary.")
    with hold(out):
        session, data = open_session(options, out)
        try:
            if not options.summary:
                _serve(options, out, session, data)
            session.write(out)
            print_figures(session.figures(), session, options.threshold)
            say_figure_notes(options.preds)
            say(f"answers, table and figures are in {out}")
        finally:
            session.answers.close()
    return 0


def open_session(options: ReviewOptions, out: Path) -> tuple[Session, DataSet]:
    """Open predictions, their data set and the answers.

    Raises:
        DataError: they do not fit each other.
    """
    prediction_files(options.preds)
    data = DataSet.open(data_folder_of(options.preds, options.data))
    population = read_population(options.preds, len(data.classes))
    _check_images(population, data, options.preds)
    parts = sorted(path.parent for path in options.preds.glob("*/cells.parquet"))
    judged = Judged(options.preds, table_digest(options.preds), options.against or parts, options.threshold)
    answers = Answers(out / FILE, data.classes.names, options.seed)
    answered = {answer.cell[0] for answer in answers.live()}
    marks = image_marks(data, Digests(), [i for i, name in enumerate(data.ids) if name in answered and data.ok[i]])
    return Session(population, answers, data.classes, judged, _marks(options.preds, data), marks), data


def _check_images(population: Population, data: DataSet, preds: Path) -> None:
    known = set(data.ids)
    strangers = [name for name in population.names if name not in known]
    if strangers:
        raise DataError(f"{preds} has {strangers[0]}, which {data.folder} lacks: pass its --data.")


def _marks(preds: Path, data: DataSet) -> Callable[[str], str]:
    """Return a function that digests an image's pixels and label map, and refuses images changed since `preds`."""
    places, digests = {name: i for i, name in enumerate(data.ids)}, Digests()
    recorded = bool((record_over(preds) or {}).get("items"))

    @cache
    def mark(name: str) -> str:
        if recorded:
            check_current(preds, data, [places[name]])
        return image_marks(data, digests, [places[name]])[name]

    return mark


def _serve(options: ReviewOptions, out: Path, session: Session, data: DataSet) -> None:
    """Serve the page until its button or Ctrl-C ends the review."""
    title = f"Review of {options.preds.resolve().name}"
    server = ReviewServer(ReviewSite(session, Views(data), out, title), options.port)
    counts = session.counts()
    say(f"{counts['cells']} cells, {counts['answered']} of them answered so far")
    say(f"open this address in a browser on this machine: {server.address}", event="address", address=server.address)
    say("end with the page's button or Ctrl-C; every answer is kept")
    try:
        server.serve()
    except Terminated:
        session.write(out)
        raise
    except KeyboardInterrupt:
        say("")


def print_figures(figures: SampleFigures, session: Session, threshold: float) -> None:
    """Print the quality of the predicted labels, and how many more answers would measure it to within .05."""
    counts = session.counts()
    unclear, several = counts["unclear"], counts["several"]
    say(f"{counts['answered']} answers: {unclear} times 'cannot tell', {several} times several classes")
    if session.elsewhere:
        lacks = f"their cells are not in {session.judged.folder}, or have changed since"
        say(f"{session.elsewhere} answers do not count: {lacks}")
    if not figures.count:
        say(f"no figures yet; {TRUTH} is empty")
        return
    heads = (f"precision at {threshold:g}", "recall", "average precision")
    say(f"{'':32} {'cells':>5}  " + "  ".join(f"{head:21}" for head in heads))
    for row in figures.classes:
        if row.positives or row.precision.count:
            shown = "  ".join(f"{_interval(estimate):21}" for estimate in (row.precision, row.recall, row.ap))
            say(f"{row.name[:32]:32} {row.positives:5}  {shown}".rstrip())
    for title, estimate in (("highest score is right", figures.top_right), ("mean average precision", figures.mean_ap)):
        more = estimate.more(figures.count)
        hint = "" if more is None else f", {more} more answers to +-.05" if more else ", known to +-.05"
        say(f"{title}: {_interval(estimate)}{hint}")


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
