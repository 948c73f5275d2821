"""Your own recordings: two folders, one with the target and one without it, and no stems.

    jaxpu prepare recordings --with songs/ --without instrumentals/
    jaxpu train recordings
    jaxpu separate runs/recordings song.mp3 -o separated

The objective and the network of configs/demo.py.  Two folders share no reference level, so every recording is scaled to the same
level; the recordings without the target are then louder than the accompaniment inside the others, by what the target adds.  The
gain that takes this back is estimated from the two folders.

Hardware: a GPU, or a CPU and patience: 800 steps take about 10 minutes on 2 cores.
Score to expect: +7.2 dB SI-SDR improvement on the demo's songs as two folders of FLAC and MP3 (docs/results.md).
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import BootstrapConfig

_demo = load_config("demo")

config = dataclasses.replace(
    _demo,
    data=dataclasses.replace(_demo.data, patch=dataclasses.replace(_demo.data.patch, level="recording"), activity_on="mixture"),
    objective=BootstrapConfig(labels="ratio", remix_steps=250, positive_gain_db="estimate"),
    train=dataclasses.replace(_demo.train, num_steps=800),
)
