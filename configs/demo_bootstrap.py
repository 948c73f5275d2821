"""`bootstrap` on the demo's data, network and budget: a quarter of the steps is `remix`.

    jaxpu demo
    jaxpu train demo_bootstrap --prepared demo/data

The last checkpoint separates: the held-out loss is that of `remix`, and prefers early ones (docs/results.md).

Hardware: 2 CPU cores, 9 minutes.
Score to expect: +5.5 dB SI-SDR on the demo's test songs, one seed (docs/results.md).
"""

import dataclasses

from jaxpu.config import BootstrapConfig, load_config

_demo = load_config("demo")
config = dataclasses.replace(
    _demo,
    objective=BootstrapConfig(labels="ratio", remix_steps=_demo.train.num_steps // 4),
    train=dataclasses.replace(_demo.train, select_by="last"),
)
