"""Mixture invariant training, on equal terms with the demo.

    jaxpu demo
    jaxpu train demo_mixit --prepared demo/data

`--objective.minimum-over batch` is PULSE's minimum.

Hardware: 2 CPU cores; nobody has measured the time yet.
Score to expect: nobody has measured it yet.
"""

import dataclasses

from jaxpu.config import MixITConfig, load_config

config = dataclasses.replace(load_config("demo_remix"), objective=MixITConfig(minimum_over="example"))
