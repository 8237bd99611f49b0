"""Does MEAP beat NTP on in-context retrieval, at a size that two CPU cores train? docs/experiments/retrieval_small.md.

python -m experiments.retrieval_small calibrate --out FOLDER      once: choose task and length, with NTP alone
python -m experiments.retrieval_small run --out FOLDER            all arms; any number of times, goes on where it stopped
python -m experiments.retrieval_small report --out FOLDER         results.json, table.md, figures
"""
