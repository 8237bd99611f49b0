"""Do masked inputs help when data repeat? docs/experiments/repeated_data.md.

python -m experiments.repeated run --out FOLDER        the grid with NTP alone, then all arms; continues where it stopped
python -m experiments.repeated report --out FOLDER     results.json, table.md, figures
"""
