"""`bootstrap` on the demo's data, with a small band-split RNN in the place of the patch CNN.

    jaxpu demo
    jaxpu train demo_band_split_rnn --prepared demo/data

Hardware: 2 CPU cores; nobody has measured the time yet.
Score to expect: nobody has measured it yet.
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import BandSplitRNNConfig

_demo = load_config("demo")
config = dataclasses.replace(
    _demo,
    model=BandSplitRNNConfig(bands="vocals", channels=32, repeats=3, hidden=64, mask_hidden=128),
)
