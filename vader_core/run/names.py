"""The files of a run directory, by name."""

CONFIG, ENVIRONMENT, METRICS, SUMMARY = "config.yaml", "environment.json", "metrics.jsonl", "summary.json"
#: A line on each component of the run, by its name, as the plugins describe it.
ABOUT = "about.json"
#: Holds the run directories of a run in stages, ``1``, ``2`` and so on.
STAGES = "stages"
