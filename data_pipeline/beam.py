"""Work for the machines of a cluster, through Apache Beam (the extra `beam`)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError


def map_over_beam(function: Callable[[Any], Any], items: Sequence[Any], options: Sequence[str], scratch: Path) -> list[Any]:
    """What the function makes of every item, called on the workers of a Beam runner.

    Args:
        function: can be pickled, as the items can; JSON-serialisable results.  A runner may call it several times for an item.
        items: any.
        options: of the pipeline, as on Beam's command lines: `--runner=FlinkRunner`, `--flink_master=HOST:PORT` and so on.
        scratch: a folder that this machine and all workers see.  Files named outcomes-* are left in it.

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
                # Else the runner would fuse the steps, and one worker would make everything.
                | "Spread" >> beam.Reshuffle()
                | "Make" >> beam.Map(outcome)
                | "Write" >> beam.io.WriteToText(str(scratch / "outcomes"))
            )
    except Exception as error:  # Every runner has its own.
        raise DataError(f"The Beam pipeline failed: {error}. Finished tracks are kept: run the same command again.") from error
    lines = [line for path in scratch.glob("outcomes-*") for line in path.read_text().splitlines()]
    results = dict(map(json.loads, lines))
    return [results[number] for number in range(len(items))]
