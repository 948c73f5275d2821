"""PULSE's own experiment: speech in noise, from noisy speech and noise alone, with its published hyperparameters.

    python benchmarks/make_speech.py speech
    jaxpu prepare speech --with speech/noisy --without speech/noise
    jaxpu train speech
    jaxpu evaluate runs/speech speech/corpus

The target bears MUSDB18's name for voices, so that corpora in its layout can score it.

Hardware: a GPU for the published 100,000 steps.
Score to expect: blank output from step 200 on, for the 1041 steps that were done (docs/results.md).
"""

import dataclasses

from jaxpu import load_config

_aligned = load_config("aligned")

config = dataclasses.replace(
    _aligned,
    data=dataclasses.replace(_aligned.data, activity_on="mixture", target_to_accompaniment_db=None),
)
