"""How good a served model's verdicts are on labelled data.

    sets = load([Path("xstest.jsonl")])
    evaluation = await evaluate(sets, channel, Path("answers.jsonl"), in_flight=32)
    report = make_report(evaluation, sets, command=sys.argv, target="127.0.0.1:50051")
    write(report, evaluation, Path("."), paper=False)     # from guard_eval.output: matplotlib

The server is asked as any client asks it. Reports hold ids and verdicts but no content.
"""

from guard_eval.datasets import DataSet, load
from guard_eval.errors import DataInvalid, EvaluationFailed
from guard_eval.evaluate import Evaluation, evaluate
from guard_eval.report import Report, make_report

__all__ = [
    "DataInvalid",
    "DataSet",
    "Evaluation",
    "EvaluationFailed",
    "Report",
    "evaluate",
    "load",
    "make_report",
]
