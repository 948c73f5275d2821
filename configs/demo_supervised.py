"""Train with stems, remixed across songs: the supervised reference for the demo.

    jaxpu demo
    jaxpu train demo_supervised --prepared demo/data

It uses the true vocals of the songs that give the demo its mixtures, and the accompaniment of those that give it positives.
`--train.no-disjoint-tracks` takes both from all songs.

Hardware: one CPU core, 4 minutes.
Expected score: +7.4 dB SI-SDR improvement on the demo's test songs (docs/results.md).
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import SupervisedConfig

config = dataclasses.replace(load_config("demo_remix"), objective=SupervisedConfig(remix_songs=True, gain_db=6.0))
