"""`pnu` on the demo's data, network and budget: `remix` and the vocals of three songs.  Uses stems.

    jaxpu demo -o demo
    jaxpu train demo_pnu --prepared demo/data --run demo/pnu

Hardware: 2 CPU cores, 10 minutes.  Nobody has measured its score yet.
"""

import dataclasses

from jaxpu.config import PNUConfig, load_config

config = dataclasses.replace(load_config("demo"), objective=PNUConfig(labels="ratio", stem_tracks=3))
