"""How good verdicts are: on labelled data (`guard eval`), and beside another slot's (`verify/`).

    sets = load_labelled([Path("xstest.jsonl")])                     # datasets: the one loader
    async with AsyncClient("localhost:50051", insecure=True) as client:
        evaluation = await evaluate(sets, client, Path("answers.jsonl"), in_flight=32)
    report = make_report(evaluation, sets, command=sys.argv, target="localhost:50051")
    write(report, evaluation, Path("."), paper=False)                # output: loads matplotlib

    rows -> datasets -> evaluate -> quality (metrics, bootstrap) -> report -> output (tables, plots)

The package itself imports nothing, so that the control plane loads only `verify`. Reports hold ids
and verdicts but no content.
"""
