"""Supervised learning with stems remixed across songs, on equal terms with the demo.

    jaxpu demo
    jaxpu train demo_supervised --prepared demo/data

The true vocals of the songs that the demo takes mixtures from, the accompaniment of those that it takes positives from;
`--train.no-disjoint-tracks` takes both from all songs.

Hardware: one CPU core, 4 minutes.
Score to expect: +7.4 dB SI-SDR improvement on the demo's test songs (docs/results.md).
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import SupervisedConfig

config = dataclasses.replace(load_config("demo_remix"), objective=SupervisedConfig(remix_songs=True, gain_db=6.0))
