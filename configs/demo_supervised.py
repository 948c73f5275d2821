"""Supervised learning with stems remixed across songs, on equal terms with the demo.

    jaxpu demo
    jaxpu train demo_supervised --prepared demo/data

The true vocals of the songs that the demo takes mixtures from, the accompaniment of those that it takes positives from;
`--train.no-disjoint-tracks` takes both from all songs.

Hardware: 2 CPU cores; nobody has measured the time yet.
Score to expect: nobody has measured it yet.
"""

import dataclasses

from jaxpu.config import SupervisedConfig, load_config

config = dataclasses.replace(load_config("demo_remix"), objective=SupervisedConfig(remix_songs=True, gain_db=6.0))
