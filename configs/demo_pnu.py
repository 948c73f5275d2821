"""Train `pnu` on the demo's data: `remix`, plus the vocals of three songs. Uses stems.

    jaxpu demo
    jaxpu train demo_pnu --prepared demo/data

Hardware: one CPU core, 5 minutes.
Expected score: +7.4 dB SI-SDR improvement on the demo's test songs (docs/results.md).
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import PNUConfig

config = dataclasses.replace(load_config("demo_remix"), objective=PNUConfig(labels="ratio", stem_tracks=3))
