"""PU learning, PULSE's non-negative risk with soft masks, on equal terms with the demo.

    jaxpu demo
    jaxpu train demo_pu --prepared demo/data

`--objective.estimator balanced` (or `absolute`, `unbiased`) takes another estimator.  The class prior is a guess.

Hardware: one CPU core, 6 minutes.
Score to expect: -1.6 dB SI-SDR improvement on the demo's test songs (docs/results.md).
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import PUConfig

config = dataclasses.replace(load_config("demo_remix"), objective=PUConfig(class_prior=0.6, mask="soft"))
