"""Supervised learning with stems remixed across songs, on equal terms with `demo_band_split_rnn`.

    jaxpu demo
    jaxpu train demo_band_split_rnn_supervised --prepared demo/data

Hardware: 2 CPU cores; nobody has measured the time yet.
Score to expect: nobody has measured it yet.
"""

import dataclasses

from jaxpu import load_config

_demo = load_config("demo_band_split_rnn")
_supervised = load_config("demo_supervised")
config = dataclasses.replace(
    _demo, objective=_supervised.objective, train=dataclasses.replace(_demo.train, select_by=_supervised.train.select_by)
)
