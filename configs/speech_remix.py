"""`remix` on noisy speech and noise, in the place of PULSE's risk.

    python benchmarks/make_speech.py speech
    jaxpu prepare speech_remix --with speech/noisy --without speech/noise
    jaxpu train speech_remix
    jaxpu evaluate runs/speech_remix speech/corpus

Recordings keep their level: the noise alone has to be as loud as the noise in the others.

Hardware: 2 CPU cores, 5 minutes.
Score to expect: +8.9 dB SI-SDR improvement on the 20 test files (docs/results.md).
"""

import dataclasses

from jaxpu import load_config
from jaxpu.config import RemixConfig

_demo = load_config("demo_remix")

config = dataclasses.replace(_demo, objective=RemixConfig(labels="ratio"))
