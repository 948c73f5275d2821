"""PU learning, PULSE's non-negative risk with soft masks, on equal terms with the demo.

    jaxpu demo
    jaxpu train demo_pu --prepared demo/data

`--objective.estimator balanced` (or `absolute`, `unbiased`) takes another estimator.  The class prior is a guess.

Hardware: 2 CPU cores; nobody has measured the time yet.
Score to expect: nobody has measured it yet.
"""

import dataclasses

from jaxpu.config import PUConfig, load_config

config = dataclasses.replace(load_config("demo"), objective=PUConfig(class_prior=0.6, mask="soft"))
