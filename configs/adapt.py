"""Adapt `starter`, the model for vocals that comes with jaxpu, to your own songs with marked passages. No stems of your songs.

    jaxpu prepare adapt --with songs/ --marks labels/
    jaxpu train adapt
    jaxpu separate runs/adapt song.mp3 -o separated

`jaxpu suggest starter songs/ -o labels/` proposes the marks; check them, since wrong ones ruin the model. Training begins with
the first of the starter's two networks: its masks teach from the first step on, and a lower learning rate and fewer steps than
in `recordings` will do. The log shows the estimated error of held-out songs from step 0, before any training; it should fall.
The model is for these songs: on songs by others it may be worse than the starter.

Hardware: CPU cores.
Expected score: 1.6 dB more than the starter on the songs that it adapts to, real voices over games' music (docs/results.md).
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import BootstrapConfig, Config, TrainConfig, UNetConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=44_100,
            stereo=True,
            clip_samples=65_536,
            n_fft=4096,
            win_length=4096,
            hop_length=2048,
            window="hann",
            level="recording",
        ),
        activity_on="mixture",
    ),
    model=UNetConfig(channels=(32, 48)),
    objective=BootstrapConfig(labels="phase_sensitive", remix_steps=0, positive_gain_db="estimate"),
    train=TrainConfig(
        num_steps=300,
        batch_size=8,
        learning_rate=1e-3,
        schedule="cosine",
        gradient_clip=1.0,
        ema_decay=0.99,
        eval_every=100,
        select_by="last",
        init_from="starter",
    ),
)
