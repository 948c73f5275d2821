"""Noisy-target training, on equal terms with the demo.

    jaxpu demo
    jaxpu train demo_noisy_target --prepared demo/data

Hardware: 2 CPU cores; nobody has measured the time yet.
Score to expect: nobody has measured it yet.
"""

import dataclasses

from jaxpu.config import NoisyTargetConfig, load_config

config = dataclasses.replace(load_config("demo_remix"), objective=NoisyTargetConfig(gain_db=6.0))
