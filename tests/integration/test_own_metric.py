"""A metric of one's own, of which lower values are better, through a whole run."""

import json

from rich.console import Console

from fedrecon_core.metrics.accuracy import Accuracy
from fedrecon_core.metrics.base import Counts, Metric
from fedrecon_core.registry import METRICS
from server.report.run.report import render_run
from server.report.terminal import final_table
from server.runs.record import read_run
from tests.helpers.contract_support import restored, run_inprocess
from tests.helpers.federation import toy_settings


class ErrorRate(Metric):
    """The share of wrong predictions."""

    title, explanation = "Error rate", "share of wrong predictions"
    higher_is_better, percentage = False, False

    @staticmethod
    def compute(counts: Counts) -> float:
        return 1 - Accuracy.compute(counts)


def test_a_metric_chooses_the_best_round_and_is_shown_as_its_file_says(tmp_path):
    with restored(METRICS):
        METRICS.register("error_rate")(ErrorRate)
        evaluate = {"select": "error_rate"}
        task = {"epochs": 1, "batch": 8, "lr": 0.02}
        run = run_inprocess(tmp_path, toy_settings("mask", evaluate=evaluate, rounds=5, local={"task": task}))
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        rates = {line["round"]: line["error_rate"] for line in lines if line["split"] == "validation"}
        assert len(set(rates.values())) > 1 and result["best_round"] == min(rates, key=lambda turn: rates[turn])
        console = Console(width=120, record=True)
        console.print(final_table(read_run(run)))
        text = console.export_text()
        assert f"{result['test']['error_rate']:.3f}" in next(line for line in text.splitlines() if "error rate" in line)
        page = render_run(read_run(run))
        assert "Test Error rate" in page and "share of wrong predictions" in page
