"""Train `bootstrap` on the demo's data with a small band-split RNN instead of the patch CNN.

    jaxpu demo
    jaxpu train demo_band_split_rnn --prepared demo/data

Hardware: 2 CPU cores. Not timed yet.
Expected score: not measured yet.
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import BandSplitRNNConfig

config = dataclasses.replace(
    load_config("demo"), model=BandSplitRNNConfig(bands="vocals", channels=32, repeats=3, hidden=64, mask_hidden=128)
)
