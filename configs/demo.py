"""`make demo`: `bootstrap` on songs that jaxpu synthesizes, of which no stems are used.  Half of the steps is `remix`.

    jaxpu demo

The last checkpoint separates (docs/methods.md).

Hardware: 2 CPU cores, 10 minutes in all when they are busy.
Score to expect: +7.3 dB SI-SDR improvement on the test songs (docs/results.md).
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import BootstrapConfig

_remix = load_config("demo_remix")
config = dataclasses.replace(
    _remix,
    objective=BootstrapConfig(labels="ratio", remix_steps=_remix.train.num_steps // 2),
    train=dataclasses.replace(_remix.train, select_by="last"),
)
