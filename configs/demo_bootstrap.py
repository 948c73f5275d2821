"""`bootstrap` on the demo's data, network and budget: a quarter of the steps is `remix`.

    jaxpu demo -o demo
    jaxpu train demo_bootstrap --prepared demo/data --run demo/bootstrap

Hardware: 2 CPU cores, 7 minutes.  Score to expect: docs/results.md.
"""

import dataclasses

from jaxpu.config import BootstrapConfig, load_config

_demo = load_config("demo")
config = dataclasses.replace(_demo, objective=BootstrapConfig(labels="ratio", remix_steps=_demo.train.num_steps // 4))
