"""What the data pipeline costs: clips per second and core by stage, the share of decoding, and peak memory.

    python benchmarks/data_pipeline.py FOLDER [FILMS ...]

Draws so many films of two scenes each into FOLDER, runs the preset ``plain`` over them in a process of its
own, and prints one line per step and one of peak memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data"))


def draw(folder: Path, films: int, height: int, width: int) -> None:
    """Films of two scenes of 40 frames, each with other light and texture."""
    import footage
    import numpy as np

    for number in range(films):
        frames = np.concatenate(
            [
                footage.panning(40, height, width, seed=2 * number + part, speed=3, contrast=60)
                for part in (0, 1)
            ]
        )
        footage.write(folder / f"{number:05d}.mp4", frames)


def measured(footage_folder: Path, out: Path, what: str) -> None:
    """Run the plan in this process and print its timings and peak memory as JSON."""
    from vader_data.manifest import read_manifest
    from vader_data.planning import make_plan
    from vader_data.run_folder import timings_of
    from vader_data.running import Settings, run

    options = ["cut.min_seconds=1", "detector.name=adaptive", "duplicates.distance=none"]
    options += ["scorers.text_area=none"] if what == "memory" else []
    run(footage_folder, out, make_plan("plain", options=options), Settings(engine="process", shard_size=8))
    clips = len(read_manifest(out).rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"clips": clips, "peak_mib": peak, "timings": timings_of(out)}))


def main() -> None:
    """Measure every size that was asked for."""
    if sys.argv[1] == "--measure":
        measured(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
        return
    folder, what = Path(sys.argv[1]), sys.argv[2]
    for films in map(int, sys.argv[3:]):
        source, out = folder / f"{what}-films-{films}", folder / f"{what}-out-{films}"
        if not source.is_dir():
            draw(source, films, *((64, 96) if what == "memory" else (180, 320)))
        command = [sys.executable, __file__, "--measure", str(source), str(out), what]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{found['clips']} clips, peak {found['peak_mib']:.0f} MiB")
        for step, values in found["timings"].items():
            pace = values["clips"] / values["seconds"]
            print(f"  {step:24s} {pace:8.1f} clips/s  decoding {values['decoding'] / values['seconds']:4.0%}")


if __name__ == "__main__":
    main()
