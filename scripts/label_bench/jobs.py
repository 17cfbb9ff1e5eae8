"""What has to run for the rows of the table; every job that is complete is left alone when the command starts again."""

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from label_bench.fields import FieldSet
from label_bench.methods import CONFIG, INFERENCES, NO_FEATURES, TRAININGS, Blend, Method, Training
from label_bench.references import copied_report, supervised_report
from wsss.core.checks import DataError
from wsss.core.console import say
from wsss.core.files import digest_file, digest_json, read_json, write_json
from wsss.options.evaluate import EvaluateOptions
from wsss.stages.evaluate import evaluate


@dataclass(frozen=True)
class Bench:
    """Where everything lies, and what is common to all trainings."""

    out: Path
    train: FieldSet
    size: int
    flags: str
    """Flags of every training, after its own."""
    epochs: int
    """Epochs of a training of cost 1."""
    minutes: float | None
    """Time for each training instead; the epochs that fit are measured."""

    def report(self, method: Method, fields: FieldSet, seed: int, seeds: list[int]) -> dict[str, Any]:
        """Return the record of `evaluate` for one row on one set, running all that it needs."""
        if method.part == "supervised":
            return self._once(f"supervised/{fields.name}/seed{seed}", lambda: self._supervised(fields, seed))
        if method.part == "labels":
            return copied_report(fields)
        if method.blend:
            preds = self._blend(method.blend, fields, seed, seeds)
        else:
            assert method.inference is not None
            preds = self._infer(method.inference, fields, seed)
        record: dict[str, Any] = evaluate_at(preds / method.part, fields)["cells"]
        return record

    def seconds(self, method: Method, fields: FieldSet, seed: int) -> dict[str, float]:
        """Return the seconds that the trainings and inferences of a row took."""
        inferences = method.inferences()
        trainings = sorted({INFERENCES[name].training for name in inferences})
        return {
            "train_s": sum(self._seconds(f"runs/{name}/seed{seed}") for name in trainings),
            "infer_s": sum(self._seconds(f"preds/{fields.name}/{name}/seed{seed}") for name in inferences),
        }

    def _data(self, fields: FieldSet) -> Path:
        """Prepare a set, with its given masks."""
        data = self.out / "data" / fields.name
        labels = f"--labels {fields.labels}" if fields.name == self.train.name else ""
        words = f"--images {fields.folder}/images {labels} --out {data} --size {self.size}"
        self._stage(f"data/{fields.name}/prepare", "prepare", words)
        words = f"--data {data} --backend masks --masks {fields.folder}/masks"
        self._stage(f"data/{fields.name}/segment", "segment", words)
        return data

    def _train(self, name: str, seed: int) -> Path:
        """Train one network, or one for each fold."""
        training = TRAININGS[name]
        run = self.out / "runs" / name / f"seed{seed}"
        words = f"{self._course(training)} --epochs {self._epochs(name)} --seed {seed} --run {run}"
        self._stage(f"runs/{name}/seed{seed}", "train", words, run)
        return run

    def _course(self, training: Training) -> str:
        fold = "all" if training.folds else "none"
        return f"--config {CONFIG} --data {self._data(self.train)} --fold {fold} {training.flags} {self.flags}"

    def _epochs(self, name: str) -> int:
        training = TRAININGS[name]
        if training.epochs:
            return training.epochs
        # four folds see three quarters of the images each
        share = 1 / 3 if training.folds else 1.0
        if self.minutes is None:
            return max(1, round(self.epochs * share / training.cost))
        return max(1, int(60 * self.minutes * share / self._epoch_seconds(name)))

    def _epoch_seconds(self, name: str) -> float:
        """Measure one epoch on all training fields; trainings by folds share that of the same flags without."""
        flags = self._course(Training(TRAININGS[name].flags))
        job = f"rates/{digest_json([flags])}"
        run = self.out / job
        self._stage(job, "train", f"{flags} {NO_FEATURES} --epochs 1 --run {run}", run)
        return logged_seconds(run)

    def _infer(self, name: str, fields: FieldSet, seed: int, oof: bool = False) -> Path:
        """Predict a set, with all parts of the score."""
        inference = INFERENCES[name]
        run, data = self._train(inference.training, seed), self._data(fields)
        job = f"preds/{fields.name}/{name}/seed{seed}"
        preds = self.out / job
        words = f"--run {run} --data {data} --out {preds} --parts true {inference.flags}{' --oof true' if oof else ''}"
        self._stage(job, "infer", words, after=[f"runs/{inference.training}/seed{seed}"])
        return preds

    def _blend(self, blend: Blend, fields: FieldSet, seed: int, seeds: list[int]) -> Path:
        """Blend the members' predictions of a set; weights, where fitted, come from the training fields."""
        predictions = self._predictions(blend, fields, seed, seeds)
        weights = "equal"
        if blend.fitted:
            oof = self._predictions(blend, self.train, seed, seeds, oof=True)
            fitted = self._ensemble(oof, blend, f"--weights auto --data {self._data(self.train)}", self.train, seed)
            weights = ",".join(f"{weight:.4f}" for weight in read_json(fitted / "provenance.json")["weights"])
        return self._ensemble(predictions, blend, f"--weights {weights}", fields, seed)

    def _predictions(
        self, blend: Blend, fields: FieldSet, seed: int, seeds: list[int], oof: bool = False
    ) -> list[Path]:
        chosen = seeds if blend.seeds else [seed]
        split = [member.partition("/") for member in blend.members]
        return [self._infer(name, fields, k, oof) / part for name, _, part in split for k in chosen]

    def _ensemble(self, predictions: list[Path], blend: Blend, flags: str, fields: FieldSet, seed: int) -> Path:
        words = f"--preds {' '.join(map(str, predictions))} --how {blend.how} {flags}"
        job = f"preds/{fields.name}/blend-{digest_json([words])}/seed{seed}"
        parts = [member.relative_to(self.out).parts[:4] for member in predictions]
        self._stage(job, "ensemble", f"{words} --out {self.out / job}", after=["/".join(part) for part in parts])
        return self.out / job

    def _supervised(self, fields: FieldSet, seed: int) -> dict[str, Any]:
        return supervised_report(self._data(self.train), self.train.truth, self._data(fields), fields.truth, seed)

    def _stage(self, job: str, stage: str, words: str, run: Path | None = None, after: Sequence[str] = ()) -> None:
        """Run one stage of wsss in this process, unless it was done with the same words; done with others, start over.

        Args:
            job: its name, also below done/.
            stage: the stage.
            words: its flags.
            run: what it trains, whose log knows the time of earlier starts.
            after: jobs that it reads from; when one was done again, so is this.

        Raises:
            DataError: some images failed.
        """
        again = {"train": " --resume never", "infer": " --overwrite true"}.get(stage, "")
        more = again if self._done(job).exists() else ""

        def work() -> dict[str, Any]:
            say(f"\n$ python -m wsss.{stage} {' '.join(words.split())}{more}")
            began = time.perf_counter()
            if importlib.import_module(f"wsss.{stage}").main([*words.split(), *more.split()]):
                raise DataError(f"{job}: {stage} ended with failed images, see above.")
            spent = time.perf_counter() - began
            return {"seconds": max(spent, logged_seconds(run)) if run else spent}

        self._once(job, work, words, after)

    def _once(
        self, job: str, work: Callable[[], dict[str, Any]], words: str = "", after: Sequence[str] = ()
    ) -> dict[str, Any]:
        path = self._done(job)
        made_of = {"words": words, "after": {name: digest_file(self._done(name)) for name in after}}
        if path.exists():
            record: dict[str, Any] = read_json(path)
            if all(record.get(name) == value for name, value in made_of.items()):
                return record
            path.unlink()  # so that a killed repetition goes on instead of starting over once more
        record = {**made_of, **work()}
        write_json(path, record)
        return record

    def _done(self, job: str) -> Path:
        return self.out / "done" / f"{job}.json"

    def _seconds(self, job: str) -> float:
        path = self._done(job)
        return float(read_json(path)["seconds"]) if path.exists() else 0.0


def logged_seconds(run: Path) -> float:
    """Return the seconds of all epochs in the logs of a run."""
    return sum(float(pd.read_csv(path)["seconds"].sum()) for path in run.rglob("log.csv"))


def evaluate_at(preds: Path, fields: FieldSet) -> dict[str, Any]:
    """Evaluate predictions of a set, and leave the figures beside them; figures newer than them are kept."""
    path = preds / "scores.json"
    if path.exists() and path.stat().st_mtime_ns >= (preds / "cells.csv").stat().st_mtime_ns:
        known: dict[str, Any] = read_json(path)
        return known
    report = evaluate(EvaluateOptions(preds, fields.truth, labels=fields.labels)).report
    write_json(path, report)
    return report
