"""Train with stems, remixed across songs: the supervised reference for `demo_band_split_rnn`.

    jaxpu demo
    jaxpu train demo_band_split_rnn_supervised --prepared demo/data

Hardware: 2 CPU cores. Not timed yet.
Expected score: not measured yet.
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import BandSplitRNNConfig, SupervisedConfig

config = dataclasses.replace(
    load_config("demo_remix"),
    model=BandSplitRNNConfig(bands="vocals", channels=32, repeats=3, hidden=64, mask_hidden=128),
    objective=SupervisedConfig(remix_songs=True, gain_db=6.0),
)
