"""PU learning with a squared loss, on equal terms with the demo.

    jaxpu demo
    jaxpu train demo_brier_pu --prepared demo/data

The class prior is a guess.

Hardware: 2 CPU cores; nobody has measured the time yet.
Score to expect: nobody has measured it yet.
"""

import dataclasses

from jaxpu.config import BrierPUConfig, load_config

config = dataclasses.replace(load_config("demo_remix"), objective=BrierPUConfig(class_prior=0.6))
