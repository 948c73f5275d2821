"""Parallel mapping on a cluster through Apache Beam (the extra `beam`)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError


def map_over_beam(function: Callable[[Any], Any], items: Sequence[Any], options: Sequence[str], scratch: Path) -> list[Any]:
    """Apply a function to every item on the workers of a Beam runner.

    Args:
        function: picklable, with JSON-serialisable results.  A runner may call it several times for one item.
        items: arguments of the function, picklable.
        options: pipeline options as on Beam's command line: `--runner=FlinkRunner`, `--flink_master=HOST:PORT` and so on.
        scratch: folder visible to this machine and to all workers.  Files named outcomes-* remain in it.

    Returns:
        The results in the order of the items.

    Raises:
        DataError: Beam is not installed, or the pipeline fails.
    """
    try:
        import apache_beam as beam
    except ImportError as error:
        raise DataError(
            f"--beam needs Apache Beam ({error}). Install it here and on the workers: pip install 'jaxpu[beam]'."
        ) from error
    from apache_beam.options.pipeline_options import PipelineOptions

    def outcome(numbered: tuple[int, Any]) -> str:
        number, item = numbered
        return json.dumps([number, function(item)])

    try:
        with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            (
                pipeline
                | "List" >> beam.Create(list(enumerate(items)))
                # Without it the runner would fuse the steps, and one worker would process all items.
                | "Spread" >> beam.Reshuffle()
                | "Make" >> beam.Map(outcome)
                | "Write" >> beam.io.WriteToText(str(scratch / "outcomes"))
            )
    except Exception as error:  # Every runner raises its own classes.
        raise DataError(f"The Beam pipeline failed: {error}. Finished tracks are kept: rerun the same command.") from error
    lines = [line for path in scratch.glob("outcomes-*") for line in path.read_text().splitlines()]
    results = dict(map(json.loads, lines))
    return [results[number] for number in range(len(items))]
