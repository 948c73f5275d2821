"""Train by PU learning with a squared loss, on the demo's data with its network and number of steps.

    jaxpu demo
    jaxpu train demo_brier_pu --prepared demo/data

The class prior is a guess; `--objective.class-prior estimate` estimates it.

Hardware: one CPU core, 5 minutes.
Expected score: +1.5 dB SI-SDR improvement on the demo's test songs (docs/results.md).
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import BrierPUConfig

config = dataclasses.replace(load_config("demo_remix"), objective=BrierPUConfig(class_prior=0.6))
