"""Train by noisy-target training, on the demo's data with its network and number of steps.

    jaxpu demo
    jaxpu train demo_noisy_target --prepared demo/data

Hardware: one CPU core, 3 minutes.
Expected score: +2.7 dB SI-SDR improvement on the demo's test songs (docs/results.md).
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import NoisyTargetConfig

config = dataclasses.replace(load_config("demo_remix"), objective=NoisyTargetConfig(gain_db=6.0))
