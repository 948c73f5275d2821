"""Mixture invariant training, on equal terms with the demo.

    jaxpu demo
    jaxpu train demo_mixit --prepared demo/data

`--objective.minimum-over batch` is PULSE's minimum.

Hardware: one CPU core, 4 minutes.
Score to expect: +6.2 dB SI-SDR improvement on the demo's test songs (docs/results.md).
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import MixITConfig

config = dataclasses.replace(load_config("demo_remix"), objective=MixITConfig(minimum_over="example"))
