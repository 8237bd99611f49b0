"""Does MEAP beat NTP on in-context retrieval, at a size that a CPU trains in minutes? docs/experiments/retrieval_small_2.md.

python -m experiments.retrieval_small trial --out FOLDER      NTP alone: does retrieval form?
python -m experiments.retrieval_small run --out FOLDER        all arms; any number of times, goes on where it stopped
python -m experiments.retrieval_small report --out FOLDER     results.json, table.md, figures
"""
