"""`pnu` on the demo's data, network and budget: `remix` and the vocals of three songs.  Uses stems.

    jaxpu demo
    jaxpu train demo_pnu --prepared demo/data

Hardware: 2 CPU cores; nobody has measured the time yet.
Score to expect: nobody has measured it yet.
"""

import dataclasses

from jaxpu.config import PNUConfig, load_config

config = dataclasses.replace(load_config("demo_remix"), objective=PNUConfig(labels="ratio", stem_tracks=3))
